use super::*;

const AFTER: u64 = 2_000_000;
const SLOW: u64 = 500_000;
const MEMORY: u64 = 7;

fn at(ms: u64) -> NodeTime {
    NodeTime(ms * 1000)
}

/// A link to a region whose node has met this one.
fn link() -> Link {
    Link { memories: VecDeque::from([MEMORY]), ..Link::default() }
}

#[test]
fn a_lost_message_is_told_again_and_later_ones_need_not_wait() {
    let mut link = link();
    let (first, second) = (link.send(5, at(0)), link.send(9, at(100)));
    assert_eq!(link.told(), 9);
    link.acknowledge(second, MEMORY, SLOW, at(200));
    link.fail(first);
    assert_eq!(link.told(), 0);
    let third = link.send(9, at(300));
    link.acknowledge(third, MEMORY, SLOW, at(400));
    assert_eq!(link.told(), 9);
}

#[test]
fn a_region_that_has_forgotten_is_told_everything_again_even_if_its_first_acknowledgement_is_lost() {
    let mut link = link();
    let [first, lost, second, third] = [5, 6, 7, 8].map(|version| link.send(version, at(0)));
    link.acknowledge(first, MEMORY, SLOW, at(100));
    link.fail(lost);
    assert_eq!(link.told(), 5);
    link.acknowledge(second, MEMORY + 1, SLOW, at(200));
    assert_eq!(link.told(), 0, "it tells that it has forgotten");
    link.send(8, at(300));
    link.acknowledge(third, MEMORY + 1, SLOW, at(400));
    assert_eq!(link.told(), 8, "once is enough");
    let fourth = link.send(9, at(500));
    link.acknowledge(fourth, MEMORY, SLOW, at(600));
    assert_eq!(link.told(), 9, "a memory that the link knows");
}

#[test]
fn a_link_keeps_few_memories() {
    let mut link = link();
    for memory in 0..1000 {
        let number = link.send(1, at(0));
        link.acknowledge(number, memory, SLOW, at(100));
    }
    assert_eq!(link.memories.len(), MAX_MEMORIES);
    // One that is met again and again is kept.
    let is_new = |link: &mut Link, memory| {
        let number = link.send(1, at(200));
        link.acknowledge(number, memory, SLOW, at(300))
    };
    assert!((1000..2000).all(|memory| is_new(&mut link, memory) && !is_new(&mut link, 999)));
}

#[test]
fn a_region_that_cannot_keep_up_is_told_less_at_a_time() {
    let mut link = link();
    let numbers: Vec<u64> = (1..=4).map(|version| link.send(version, at(0))).collect();
    assert_eq!(link.budget(), 0, "four messages wait");
    link.send(4, at(100));
    assert!(link.may_send(), "it may still be asked whether it hears");
    numbers.iter().for_each(|number| link.fail(*number));
    assert_eq!(link.budget(), FIRST_BUDGET / 16);
    for version in 5..15 {
        let number = link.send(version, at(200));
        link.acknowledge(number, MEMORY, SLOW, at(300));
    }
    assert_eq!(link.budget(), MAX_BUDGET);
    for (took_ms, budget) in [(400, MAX_BUDGET), (600, MAX_BUDGET / 2), (600, MAX_BUDGET / 4)] {
        let number = link.send(link.told() + 1, at(1000));
        link.acknowledge(number, MEMORY, SLOW, at(1000 + took_ms));
        assert_eq!(link.budget(), budget, "{took_ms} ms");
    }
}

#[test]
fn a_fast_acknowledgement_of_reports_doubles_the_bytes_of_the_next_and_a_slow_one_halves_them() {
    for (tells, took_us, budget) in [
        (true, SLOW / 2, 2 * FIRST_BUDGET),
        (true, SLOW / 2 + 1, FIRST_BUDGET),
        (true, SLOW, FIRST_BUDGET),
        (true, SLOW + 1, FIRST_BUDGET / 2),
        (false, SLOW / 2, FIRST_BUDGET),
        (false, SLOW + 1, FIRST_BUDGET),
    ] {
        let mut link = link();
        let number = link.send(u64::from(tells), at(0));
        link.acknowledge(number, MEMORY, SLOW, NodeTime(took_us));
        assert_eq!(link.budget(), budget, "{tells} {took_us}");
    }
}

#[test]
fn at_most_32_messages_wait_for_their_acknowledgement() {
    let mut link = link();
    for ms in 0..31 {
        link.send(0, at(ms));
    }
    assert!(link.may_send());
    assert_eq!(link.budget(), FIRST_BUDGET, "no message has reports");
    let last = link.send(0, at(31));
    assert!(!link.may_send());
    link.acknowledge(last, MEMORY, SLOW, at(50));
    assert!(link.may_send());
}

#[test]
fn a_link_is_quiet_until_a_message_is_sent_and_again_after_a_pause() {
    let mut link = link();
    assert!(link.is_quiet(400_000, at(0)));
    link.send(0, at(100));
    assert_eq!([100, 499, 500].map(|ms| link.is_quiet(400_000, at(ms))), [false, false, true]);
}

#[test]
fn of_the_messages_that_are_acknowledged_the_last_sent_says_when_the_region_heard_and_how_long_it_took() {
    let mut link = link();
    assert_eq!((link.heard_us_ago(at(1000)), link.round_trip_us()), (None, None));
    let [first, second, same_time, last] = [0, 100, 100, 300].map(|ms| link.send(0, at(ms)));
    for (number, acknowledged_ms, heard_us_ago, round_trip_us) in [
        (second, 150, 900_000, 50_000),
        (first, 160, 900_000, 50_000),
        (same_time, 170, 900_000, 50_000),
        (last, 390, 700_000, 90_000),
    ] {
        link.acknowledge(number, MEMORY, SLOW, at(acknowledged_ms));
        assert_eq!((link.heard_us_ago(at(1000)), link.round_trip_us()), (Some(heard_us_ago), Some(round_trip_us)));
    }
}

#[test]
fn only_messages_that_were_sent_after_the_last_acknowledged_one_can_show_a_partition() {
    let mut link = link();
    let [_, heard, _, _, _] = [0, 100, 100, 300, 700].map(|ms| link.send(0, at(ms)));
    link.acknowledge(heard, MEMORY, SLOW, at(400));
    link.judge(AFTER, true, at(2299));
    assert_eq!(link.partitioned_since(), None);
    link.judge(AFTER, true, at(2300));
    assert_eq!(link.partitioned_since(), Some(at(2300)));
}

#[test]
fn a_region_that_acknowledges_nothing_is_partitioned_even_if_messages_fail_at_once() {
    let mut link = link();
    for ms in (0..2000).step_by(100) {
        let number = link.send(1, at(ms));
        link.fail(number);
        link.judge(AFTER, false, at(ms));
        assert_eq!(link.partitioned_since(), None);
    }
    link.judge(AFTER, false, at(2000));
    assert_eq!(link.partitioned_since(), Some(at(2000)));
}

#[test]
fn a_partition_ends_after_acknowledgements_have_come_for_a_while_and_all_is_told() {
    let mut link = link();
    link.send(1, at(0));
    link.judge(AFTER, true, at(2000));
    for ms in (3000..5000).step_by(100) {
        let number = link.send(1, at(ms));
        link.acknowledge(number, MEMORY, SLOW, at(ms + 50));
        link.judge(AFTER, true, at(ms + 50));
        assert!(link.partitioned_since().is_some(), "{ms}");
    }
    link.judge(AFTER, false, at(5100));
    assert!(link.partitioned_since().is_some(), "something is left to tell");
    link.judge(AFTER, true, at(5100));
    assert_eq!(link.partitioned_since(), None);
}

#[test]
fn a_region_says_that_it_is_partitioned_until_it_says_later_that_it_is_not() {
    let mut link = link();
    let says = |link: &mut Link, number, partitioned, ms| {
        link.hear_partitioned(number, partitioned, at(ms));
        link.acknowledge(number, MEMORY, SLOW, at(ms));
        link.says_partitioned_since()
    };
    let [first, second, third, fourth, fifth] = [0, 100, 200, 300, 300].map(|ms| link.send(1, at(ms)));
    assert_eq!(says(&mut link, second, true, 400), Some(at(400)));
    assert_eq!(says(&mut link, first, false, 500), Some(at(400)), "an earlier message");
    assert_eq!(says(&mut link, third, true, 600), Some(at(400)));
    assert_eq!(says(&mut link, fourth, false, 700), None);
    assert_eq!(says(&mut link, second, true, 800), None, "an acknowledgement that came twice");
    assert_eq!(says(&mut link, fifth, true, 900), Some(at(900)), "sent at the same time as the fourth");
}

#[test]
fn a_link_that_fails_again_and_again_stays_partitioned() {
    let mut link = link();
    link.send(1, at(0));
    link.judge(AFTER, true, at(2000));
    for second in 3..60 {
        // One acknowledgement, then nothing for three seconds.
        if second % 3 == 0 {
            let number = link.send(1, at(second * 1000));
            link.acknowledge(number, MEMORY, SLOW, at(second * 1000 + 1));
            link.send(1, at(second * 1000 + 2));
        }
        link.judge(AFTER, true, at(second * 1000 + 500));
        assert!(link.partitioned_since().is_some(), "{second}");
    }
}
