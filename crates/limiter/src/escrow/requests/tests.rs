use super::*;
use crate::counter::Grid;

const EU: RegionNumber = RegionNumber(7);
const AP: RegionNumber = RegionNumber(8);

fn want(key: &str, hits: u64, denied: bool) -> Want {
    let grid = Grid::Fixed { width_ms: 1000 };
    Want { key: key.as_bytes().into(), grid, limit: 10, cell_ms: 5000, hits, denied, received: 0, epoch_ms: 0 }
}

fn at(ms: u64) -> NodeTime {
    NodeTime(ms * 1000)
}

fn requests(max_keys: usize) -> Requests {
    let mut requests = Requests::new(max_keys, [1, 2, 3, 4]);
    requests.set_regions([EU, AP]);
    requests
}

/// Keys that are kept, over all regions.
fn kept(requests: &Requests) -> usize {
    requests.regions.values().map(|talk| talk.keys.len()).sum()
}

fn given(given: u64) -> Option<Given> {
    Some(Given { given, ..Given::default() })
}

#[test]
fn each_region_is_asked_for_a_part_and_after_a_denial_for_all() {
    let mut requests = requests(10);
    requests.want(&want("a", 7, false), at(1000), at(0));
    requests.want(&want("b", 7, true), at(1000), at(0));
    let questions = requests.questions();
    let hits: Vec<Vec<u64>> = questions.iter().map(|q| q.wants.iter().map(|w| w.hits).collect()).collect();
    assert_eq!(hits, [[4, 7], [4, 7]]);
    assert_eq!(requests.questions(), [], "they are asked once");
}

#[test]
fn a_region_that_gives_nothing_is_asked_less_and_less() {
    let mut requests = requests(10);
    let mut asked = Vec::new();
    for ms in (0..10_000).step_by(10) {
        requests.want(&want("a", 1, true), at(60_000), at(ms));
        for question in requests.questions() {
            requests.answered(&question, &[given(3)], at(ms));
            if question.to == EU {
                asked.push(ms);
            }
        }
    }
    // The first answer brings rights, the others do not.
    assert_eq!(asked[..6], [0, 10, 60, 160, 360, 760]);
    assert!(asked.len() < 18, "{asked:?}");
}

#[test]
fn a_denial_is_asked_for_although_the_region_just_gave_nothing_ahead_of_need() {
    let mut requests = requests(10);
    requests.want(&want("a", 1, false), at(60_000), at(0));
    for question in requests.questions() {
        requests.answered(&question, &[], at(10));
    }
    assert!(!requests.want(&want("a", 1, false), at(60_000), at(20)), "the region has nothing for now");
    assert!(requests.want(&want("a", 1, true), at(60_000), at(20)));
    for question in requests.questions() {
        assert!(question.wants[0].denied);
        requests.answered(&question, &[], at(30));
    }
    assert!(!requests.want(&want("a", 1, true), at(60_000), at(40)), "the region has nothing after a denial either");
}

#[test]
fn a_denial_while_an_answer_is_awaited_is_asked_for_once_it_is_there() {
    let mut requests = requests(10);
    requests.want(&want("a", 1, false), at(60_000), at(0));
    let first = requests.questions();
    assert!(!requests.want(&want("a", 5, true), at(60_000), at(5)), "the answer is awaited");
    assert!(!requests.want(&want("a", 1, false), at(60_000), at(6)), "a later want does not hide the denial");
    for question in &first {
        requests.answered(question, &[], at(10));
    }
    let second = requests.questions();
    assert_eq!(second.iter().map(|q| (q.wants[0].denied, q.wants[0].hits)).collect::<Vec<_>>(), [(true, 5); 2]);
    for question in &second {
        requests.answered(question, &[], at(20));
    }
    assert_eq!(requests.questions(), [], "it is asked for once");
}

#[test]
fn a_denial_that_is_not_asked_for_yet_is_not_forgotten() {
    let mut requests = requests(10);
    requests.want(&want("a", 1, false), at(60_000), at(0));
    let first = requests.questions();
    requests.want(&want("a", 1, true), at(60_000), at(5));
    requests.want(&want("a", 2, false), at(60_000), at(6));
    requests.answered(&first[0], &[], at(10));
    assert!(requests.questions()[0].wants[0].denied);
}

#[test]
fn only_a_denial_of_the_same_cell_that_waits_to_be_asked_for_outlives_a_later_want() {
    let asked = |requests: &mut Requests| {
        let question = requests.questions().remove(0);
        (question.wants[0].denied, question.wants[0].hits)
    };
    let mut requests = requests(10);
    requests.want(&want("a", 8, false), at(60_000), at(0));
    requests.want(&want("a", 2, false), at(60_000), at(1));
    assert_eq!(asked(&mut requests), (false, 1), "nothing was denied");

    let mut requests = self::requests(10);
    requests.want(&want("a", 8, true), at(60_000), at(0));
    requests.want(&Want { cell_ms: 6000, ..want("a", 2, false) }, at(60_000), at(1));
    assert_eq!(asked(&mut requests), (false, 1), "the denial was one of the cell before");

    let mut requests = self::requests(10);
    requests.want(&want("a", 8, true), at(60_000), at(0));
    for question in requests.questions() {
        requests.answered(&question, &[given(8)], at(10));
    }
    requests.want(&want("a", 2, false), at(60_000), at(20));
    assert_eq!(asked(&mut requests), (false, 1), "the denial was asked for");
}

#[test]
fn the_pause_after_a_region_gave_nothing_ends_with_the_cell_and_with_the_epoch_of_the_primary() {
    let asks = |later: Want| {
        let mut requests = requests(10);
        requests.want(&want("a", 1, false), at(60_000), at(0));
        for question in requests.questions() {
            requests.answered(&question, &[], at(10));
        }
        requests.want(&later, at(60_000), at(20))
    };
    assert!(!asks(want("a", 1, false)));
    assert!(asks(Want { cell_ms: 6000, ..want("a", 1, false) }));
    assert!(asks(Want { epoch_ms: 7, ..want("a", 1, false) }), "the primary is a new one");
}

#[test]
fn a_question_says_which_rights_were_received() {
    let mut requests = requests(10);
    for (ms, received, answer) in [(0, 0, 3), (10, 3, 5), (20, 5, 5)] {
        requests.want(&want("a", 1, true), at(60_000), at(ms));
        for question in requests.questions() {
            assert_eq!(question.wants[0].received, received, "{question:?}");
            requests.answered(&question, &[given(answer)], at(ms));
        }
    }
}

#[test]
fn the_next_cell_is_asked_for_at_once() {
    let mut requests = requests(10);
    assert!(requests.want(&want("a", 1, true), at(1000), at(0)));
    let first = requests.questions().remove(0);
    let next = Want { cell_ms: 6000, ..want("a", 1, true) };
    assert!(!requests.want(&next, at(2000), at(0)), "the answer is awaited");
    requests.answered(&first, &[], at(10));
    assert!(requests.questions().iter().any(|q| q.to == EU && q.wants[0].cell_ms == 6000));
}

#[test]
fn keys_past_the_most_are_counted_and_those_of_past_cells_make_room() {
    let mut requests = requests(2);
    for key in ["a", "b", "c"] {
        requests.want(&want(key, 1, false), at(1000), at(0));
    }
    assert_eq!((kept(&requests), requests.take_dropped()), (4, 2));
    for question in requests.questions() {
        requests.answered(&question, &[], at(10));
    }
    // Two later keys find room: those of the past cell leave.
    requests.want(&want("d", 1, false), at(9000), at(2000));
    requests.want(&want("e", 1, false), at(9000), at(2000));
    assert_eq!((kept(&requests), requests.take_dropped()), (4, 0));
}

#[test]
fn keys_that_nobody_wants_any_more_make_room_although_their_cell_goes_on() {
    let mut requests = requests(2);
    for key in ["a", "b"] {
        requests.want(&want(key, 1, false), at(1_000_000), at(0));
    }
    for question in requests.questions() {
        requests.answered(&question, &[], at(10));
    }
    requests.want(&want("c", 1, false), at(1_000_000), at(100));
    assert_eq!(requests.take_dropped(), 2, "they may be wanted again soon");
    requests.want(&want("c", 1, false), at(1_000_000), at(2000));
    assert_eq!(requests.take_dropped(), 0);
}

#[test]
fn keys_behind_one_that_stays_make_room_too() {
    let mut requests = requests(3);
    requests.want(&want("stays", 1, false), at(60_000), at(0));
    for key in ["a", "b"] {
        requests.want(&want(key, 1, false), at(1000), at(0));
    }
    for question in requests.questions() {
        requests.answered(&question, &[], at(10));
    }
    requests.want(&want("stays", 1, false), at(60_000), at(1500));
    for key in ["c", "d"] {
        requests.want(&want(key, 1, false), at(9000), at(2000));
    }
    assert_eq!(requests.take_dropped(), 0);
}

#[test]
fn at_most_four_questions_to_a_region_wait() {
    let mut requests = requests(100_000);
    for n in 0..6 * MAX_WANTS {
        requests.want(&want(&n.to_string(), 1, false), at(1000), at(0));
    }
    let questions = requests.questions();
    assert_eq!(questions.iter().filter(|q| q.to == EU).count(), MAX_IN_FLIGHT);
    assert!(questions.iter().all(|q| q.wants.len() == MAX_WANTS));
    requests.answered(&questions[0], &[], at(10));
    assert_eq!(requests.questions().len(), 1);
}

#[test]
fn of_two_denials_the_larger_one_is_asked_for() {
    let mut requests = requests(10);
    requests.want(&want("a", 8, false), at(60_000), at(0));
    let first = requests.questions();
    requests.want(&want("a", 10, true), at(60_000), at(5));
    requests.want(&want("a", 2, true), at(60_000), at(6));
    requests.answered(&first[0], &[], at(10));
    let again = requests.questions();
    assert_eq!((again[0].wants[0].denied, again[0].wants[0].hits), (true, 10));
}

#[test]
fn rights_that_came_are_not_asked_for_again() {
    let mut requests = requests(10);
    requests.want(&want("a", 20, false), at(60_000), at(0));
    let first = requests.questions();
    requests.want(&want("a", 1, true), at(60_000), at(5));
    requests.answered(&first[0], &[given(10)], at(10));
    assert_eq!(requests.questions(), []);
}
