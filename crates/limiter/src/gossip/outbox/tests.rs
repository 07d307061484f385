use super::*;
use crate::counter::{Cell, Entry, Grid};
use crate::ids::Incarnation;

const OTHER: RegionNumber = RegionNumber(7);
const THIRD: RegionNumber = RegionNumber(8);
const MEMORY: u64 = 7;
const CONFIG: GossipConfig =
    GossipConfig { partition_after_us: 1_000_000, max_keys: 10, max_bytes: 10_000, seeds: [1, 2, 3, 4] };

fn at(ms: u64) -> NodeTime {
    NodeTime(ms * 1000)
}

fn report(key: &[u8], charged: u64) -> Report {
    let entries = vec![Entry { incarnation: Incarnation(1), charged, returned: 0 }];
    let cells = [Cell { start_ms: 0, entries }].as_slice().into();
    Report { key: key.into(), grid: Grid::Fixed { width_ms: 60_000 }, cells }
}

/// The messages of the interval that begins at this millisecond: to whom, and with which keys.
fn told(outbox: &mut Outbox, ms: u64) -> Vec<(RegionNumber, Vec<Vec<u8>>)> {
    let keys = |message: Message| message.reports.into_iter().map(|report| report.key.into_vec()).collect();
    outbox.tick(at(ms)).into_iter().map(|message| (message.to, keys(message))).collect()
}

/// An outbox at 0 ms whose regions have acknowledged one message each.
fn outbox(regions: &[RegionNumber]) -> Outbox {
    let mut outbox = Outbox::new(CONFIG, regions.iter().copied());
    for message in outbox.tick(at(0)) {
        outbox.acknowledge(message.to, message.number, MEMORY, at(0));
    }
    outbox
}

/// Says for each 100 ms whether the region is partitioned. It hears nothing in the first two seconds. The counts
/// change until `busy_until_ms`, and nothing of them counts from `ends_ms` on.
fn partitioned(busy_until_ms: u64, ends_ms: u64) -> Vec<bool> {
    let mut outbox = Outbox::new(CONFIG, [OTHER]);
    let mut states = Vec::new();
    for ms in (0..6000).step_by(100) {
        if ms < busy_until_ms {
            outbox.note(report(b"k", ms + 1), at(ends_ms));
        }
        for message in outbox.tick(at(ms)) {
            if ms < 2000 {
                outbox.fail(OTHER, message.number);
            } else {
                outbox.acknowledge(OTHER, message.number, MEMORY, at(ms + 50));
            }
        }
        states.push(outbox.partitioned_since().is_some());
    }
    states
}

#[test]
fn a_partition_ends_although_the_region_counts_all_the_time() {
    let states = partitioned(6000, 60_000);
    assert!(states[15] && !states[59], "{states:?}");
}

#[test]
fn a_partition_ends_although_something_ended_that_was_never_told() {
    let states = partitioned(500, 1500);
    assert!(states[15] && !states[59], "{states:?}");
}

#[test]
fn each_region_is_told_once_what_the_region_counted() {
    let mut outbox = Outbox::new(GossipConfig { max_keys: 1, ..CONFIG }, [OTHER, THIRD]);
    outbox.note(report(b"k", 3), at(60_000));
    let told: Vec<_> = outbox.tick(at(0)).into_iter().map(|message| (message.to, message.reports)).collect();
    assert_eq!(told, [(OTHER, vec![report(b"k", 3)]), (THIRD, vec![report(b"k", 3)])]);
    assert_eq!(outbox.stats(), OutboxStats { keys: 1, dropped: 0 });
    assert!(outbox.tick(at(100)).iter().all(|message| message.reports.is_empty()), "nothing has changed");
    // There is room for one key only, of which no region has acknowledged the report.
    outbox.note(report(b"other", 3), at(60_000));
    assert_eq!(outbox.stats(), OutboxStats { keys: 1, dropped: 1 });
}

#[test]
fn a_region_that_is_told_nothing_is_asked_whether_it_hears_four_times_before_it_counts_as_partitioned() {
    let mut outbox = outbox(&[OTHER]);
    let asked = [1, 249, 250, 251, 499, 500, 750, 1000].map(|ms| told(&mut outbox, ms).len());
    assert_eq!(asked, [0, 0, 1, 0, 0, 1, 1, 1]);
    assert_eq!(outbox.partitioned_since(), None);
    outbox.tick(at(1250));
    assert_eq!(outbox.partitioned_since(), Some(at(1250)));
}

#[test]
fn a_region_that_acknowledges_nothing_is_told_four_messages_and_asked_in_28_more() {
    let mut outbox = Outbox::new(CONFIG, [OTHER]);
    let mut told_at = |ms| {
        outbox.note(report(b"k", ms + 1), at(60_000));
        told(&mut outbox, ms)
    };
    let news = [(OTHER, vec![b"k".to_vec()])];
    for ms in 0..4 {
        assert_eq!(told_at(ms), news, "{ms} ms");
    }
    assert_eq!(told_at(4), []);
    let asked = (1..100).filter(|n| told_at(250 * n) == [(OTHER, vec![])]);
    assert_eq!(asked.count(), 28);
    // An acknowledgement makes room for the newest.
    outbox.acknowledge(OTHER, 1, MEMORY, at(30_000));
    assert_eq!(told(&mut outbox, 30_000), news);
}

#[test]
fn a_new_region_is_told_everything_and_one_that_left_nothing() {
    let mut outbox = outbox(&[OTHER]);
    outbox.note(report(b"k", 1), at(60_000));
    assert_eq!(told(&mut outbox, 100), [(OTHER, vec![b"k".to_vec()])]);
    outbox.set_regions([OTHER, THIRD]);
    assert_eq!(told(&mut outbox, 200), [(THIRD, vec![b"k".to_vec()])], "the other one was told before");
    outbox.set_regions([THIRD]);
    outbox.note(report(b"l", 1), at(60_000));
    assert_eq!(told(&mut outbox, 300), [(THIRD, vec![b"l".to_vec()])]);
    assert!(!outbox.is_alone());
    outbox.set_regions([]);
    assert!(outbox.is_alone());
}

#[test]
fn a_key_that_a_region_could_not_store_is_told_again_to_every_region() {
    let mut outbox = outbox(&[OTHER, THIRD]);
    outbox.note(report(b"k", 1), at(60_000));
    outbox.note(report(b"l", 1), at(60_000));
    outbox.tick(at(100));
    outbox.retell(b"unknown");
    assert_eq!(told(&mut outbox, 200), []);
    outbox.retell(b"k");
    assert_eq!(told(&mut outbox, 201), [(OTHER, vec![b"k".to_vec()]), (THIRD, vec![b"k".to_vec()])]);
}

#[test]
fn operators_see_which_regions_do_not_hear_and_how_many_keys_they_miss() {
    let mut outbox = outbox(&[OTHER, THIRD]);
    outbox.note(report(b"k", 1), at(60_000));
    outbox.note(report(b"l", 1), at(60_000));
    for ms in (100..1500).step_by(100) {
        for message in outbox.tick(at(ms)) {
            if message.to == OTHER {
                outbox.fail(OTHER, message.number);
            } else {
                outbox.acknowledge(THIRD, message.number, MEMORY, at(ms + 50));
            }
        }
        let missing: Vec<_> = outbox.links().map(|(region, _, keys)| (region, keys)).collect();
        assert_eq!(missing, [(OTHER, 2), (THIRD, 0)]);
        let partitioned: Vec<RegionNumber> = outbox.partitioned().collect();
        assert_eq!(partitioned, if ms < 1100 { vec![] } else { vec![OTHER] }, "{ms} ms");
    }
}

#[test]
fn a_region_that_a_third_one_does_not_hear_is_partitioned_for_this_one_too() {
    let mut outbox = outbox(&[OTHER, THIRD]);
    let number = outbox.tick(at(300)).remove(0).number;
    outbox.hear_partitioned(OTHER, number, true, at(350));
    assert_eq!(outbox.partitioned_since(), Some(at(350)));
    assert_eq!(outbox.partitioned().count(), 0, "both hear this node");
}

#[test]
fn an_acknowledgement_is_slow_after_a_quarter_of_the_time_to_a_partition_and_not_before_250_ms() {
    let slow_us = |partition_after_us| GossipConfig { partition_after_us, ..CONFIG }.slow_us();
    assert_eq!([1, 1_000_000, 1_000_004, 6_000_000].map(slow_us), [250_000, 250_000, 250_001, 1_500_000]);
}
