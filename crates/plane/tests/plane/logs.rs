//! Commands, applied in the order of a log.

use std::sync::Arc;

use limiter::Revision;
use limiter::rules::RuleBook;
use plane::{Change, Command, DomainTerms, Mark, PlaneState, Refused, Snapshot, Transaction};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{hash, key, limit, mark, put, transaction, user};

fn apply(state: &mut PlaneState, transactions: &[Transaction]) -> bool {
    let after = state.mark();
    state.apply(Command::Apply { after, transactions: transactions.to_vec(), refused: Vec::new() }).applied
}

fn book(state: &PlaneState) -> RuleBook {
    RuleBook::compile(Arc::new(state.rules()), state.rules_revision()).unwrap()
}

/// Any change of a few rows.
fn change() -> impl Strategy<Value = Change> {
    let domain = || prop_oneof![Just("a"), Just("b")].prop_map(str::to_owned);
    let name = || prop_oneof![Just("x"), Just("y"), Just("z")].prop_map(str::to_owned);
    prop_oneof![
        4 => (domain(), name(), 0i32..3, 0u64..50).prop_map(|(d, n, at, hits)| put(&d, at, limit(&n, hits))),
        2 => (domain(), name()).prop_map(|(domain, name)| Change::RemoveLimit { domain, name }),
        1 => domain().prop_map(|domain| Change::RemoveDomain { domain }),
        1 => domain().prop_map(|domain| Change::PutDomain { domain, terms: DomainTerms::default() }),
        1 => (1000u64..2000).prop_map(|ms| {
            Change::PutSetting { name: "drop_learner_after_ms".to_owned(), value: ms.into() }
        }),
        1 => (1u8..4, any::<bool>()).prop_map(|(n, revoked)| {
            let mut key = key(n);
            key.revoked_at_ms = revoked.then_some(5);
            Change::PutKey(key)
        }),
        1 => (1u8..4).prop_map(|n| Change::RemoveKey { hash: hash(n) }),
        1 => Just(Change::PutUser(user(Some("gold")))),
    ]
}

proptest! {
    /// However a leader batches them, and whether a node applied them or read them in a snapshot in between, the same
    /// transactions give the same state and the same book.
    #[test]
    fn equal_logs_give_equal_books(
        all in vec(vec(change(), 1..4), 1..30),
        cuts in vec(any::<prop::sample::Index>(), 0..5),
        snapshot_at in any::<prop::sample::Index>(),
    ) {
        let all: Vec<Transaction> = all.into_iter().zip(1u64..).map(|(changes, at)| transaction(at, changes)).collect();
        let mut one_by_one = PlaneState::default();
        for transaction in &all {
            prop_assert!(apply(&mut one_by_one, std::slice::from_ref(transaction)));
        }
        let mut batched = PlaneState::default();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).chain([0, all.len()]).collect();
        cuts.sort_unstable();
        let snapshot_at = snapshot_at.index(cuts.len());
        for (at, ends) in cuts.windows(2).enumerate() {
            prop_assert!(apply(&mut batched, &all[ends[0]..ends[1]]));
            if at == snapshot_at {
                let stored = serde_json::to_string(&batched).unwrap();
                batched = serde_json::from_str(&stored).unwrap();
            }
        }
        prop_assert_eq!(&one_by_one, &batched);
        prop_assert_eq!(book(&one_by_one).hash, book(&batched).hash);
        prop_assert_eq!(one_by_one.mark(), mark(all.len() as u64));
    }

    /// The changes to a snapshot lead to its rules.
    #[test]
    fn the_changes_to_a_snapshot_lead_to_it(before in vec(change(), 0..20), then in vec(change(), 0..20)) {
        let (mut from, mut to) = (PlaneState::default(), PlaneState::default());
        apply(&mut from, &[transaction(1, before)]);
        apply(&mut to, &[transaction(1, then)]);
        let rows = to.rows();
        let changes = from.changes_to(&rows);
        apply(&mut from, &[transaction(2, changes)]);
        prop_assert_eq!(from.rules(), to.rules());
        prop_assert_eq!(from.settings(), to.settings());
        prop_assert!(from.changes_to(&rows).is_empty());
    }
}

#[test]
fn a_late_or_repeated_proposal_changes_nothing() {
    let mut state = PlaneState::default();
    let first = transaction(10, vec![put("api", 0, limit("a", 1))]);
    let second = transaction(20, vec![put("api", 0, limit("a", 2))]);
    let propose = |after: Mark, transaction: &Transaction| Command::Apply {
        after,
        transactions: vec![transaction.clone()],
        refused: Vec::new(),
    };
    assert!(state.apply(propose(Mark::default(), &first)).applied);
    assert!(state.apply(propose(mark(10), &second)).applied);
    let before = state.clone();
    // An earlier leader's proposals arrive after those of its successor.
    for late in [propose(Mark::default(), &first), propose(mark(10), &second)] {
        let outcome = state.apply(late);
        assert_eq!((outcome.applied, outcome.mark), (false, mark(20)));
    }
    // The same revision of a server that was promoted without the cluster's transactions.
    let other = Mark { id: plane::CommitId(999), ..mark(20) };
    assert!(!state.apply(propose(other, &transaction(30, Vec::new()))).applied);
    assert_eq!(state, before);
}

#[test]
fn a_refused_transaction_moves_the_mark_and_not_the_rules() {
    let mut state = PlaneState::default();
    apply(&mut state, &[transaction(10, vec![put("api", 0, limit("a", 1))])]);
    let changes = vec![put("api", 0, limit("a", 2)), Change::PutUser(user(Some("gold")))];
    let refused = Refused { revision: Revision(20), rows: vec!["api/a".to_owned()], errors: vec!["no".to_owned()] };
    let command =
        Command::Apply { after: mark(10), transactions: vec![transaction(20, changes)], refused: vec![refused] };
    assert!(state.apply(command).applied);
    assert_eq!((state.mark(), state.rules_revision()), (mark(20), Revision(10)));
    assert_eq!(state.database_rules_revision(), Revision(20));
    assert_eq!(state.rules().domains[0].limits[0], limit("a", 1));
    assert!(state.recent().user("u1").is_some(), "users and keys are what the database holds");
    assert_eq!(state.refused().len(), 1);
}

#[test]
fn a_snapshot_of_the_database_replaces_rules_and_forgets_what_look_ups_found() {
    let mut state = PlaneState::default();
    apply(&mut state, &[transaction(10, vec![put("old", 0, limit("a", 1)), Change::PutKey(key(1))])]);
    let snapshot = Snapshot { mark: mark(50), rules_revision: Revision(40), rows: vec![put("new", 0, limit("b", 2))] };
    assert!(state.apply(Command::Replace { after: mark(10), snapshot, refused: Vec::new() }).applied);
    let names: Vec<String> = state.rules().domains.into_iter().map(|domain| domain.domain).collect();
    assert_eq!((names, state.rules_revision()), (vec!["new".to_owned()], Revision(50)));
    assert_eq!(state.database_rules_revision(), Revision(40), "an edit is compared with the database's");
    assert_eq!(state.recent().forgotten(), Revision(50));
    assert!(state.recent().key(&hash(1)).is_none());
}

#[test]
fn the_revision_of_the_rules_never_goes_back_even_when_a_backup_is_restored() {
    let mut old = PlaneState::default();
    apply(&mut old, &[transaction(10, vec![put("api", 0, limit("a", 1))])]);
    let backup = old.clone();
    apply(&mut old, &[transaction(20, vec![put("api", 0, limit("a", 2))])]);
    old.apply(Command::Restore { state: Box::new(backup.clone()) });
    assert!(old.rules_revision() > Revision(20), "{:?}", old.rules_revision());
    assert_eq!(old.rules(), backup.rules());
    assert_eq!(book(&old).hash, book(&backup).hash);
    assert!(old.mark().revision >= Revision(20));
    // What was looked up before may be older than what the backup forgot.
    assert_eq!((old.recent().forgotten(), old.recent().forgotten_ended()), (Revision(20), Revision(20)));
}

#[test]
fn a_snapshot_of_an_older_server_is_not_applied() {
    let mut state = PlaneState::default();
    apply(&mut state, &[transaction(50, vec![put("api", 0, limit("a", 1))])]);
    for revision in [49, 50] {
        let other = Mark { id: plane::CommitId(7), ..mark(revision) };
        let snapshot = Snapshot { mark: other, ..Snapshot::default() };
        assert!(!state.apply(Command::Replace { after: mark(50), snapshot, refused: Vec::new() }).applied);
    }
    assert_eq!((state.mark(), state.rules().domains.len()), (mark(50), 1));
}

#[test]
fn neither_a_snapshot_nor_a_backup_forgets_that_a_key_was_revoked() {
    let revoked = plane::KeyRow { revoked_at_ms: Some(1), ..key(1) };
    let mut state = PlaneState::default();
    apply(&mut state, &[transaction(10, vec![Change::PutKey(key(1))])]);
    let backup = state.clone();
    apply(&mut state, &[transaction(20, vec![Change::PutKey(revoked.clone()), Change::PutKey(key(2))])]);
    state.apply(Command::Replace {
        after: mark(20),
        snapshot: Snapshot { mark: mark(30), ..Snapshot::default() },
        refused: Vec::new(),
    });
    let remembered = |state: &PlaneState, n: u8| state.recent().key(&hash(n)).and_then(|version| version.row.clone());
    assert_eq!(remembered(&state, 1), Some(revoked.clone()));
    assert_eq!(remembered(&state, 2), None, "a look-up finds it");
    state.apply(Command::Restore { state: Box::new(backup) });
    assert_eq!(remembered(&state, 1), Some(revoked));
    // What a node looked up before the restore counts no longer.
    assert!(state.recent().forgotten_ended() >= Revision(30));
}

#[test]
fn limits_are_in_the_order_of_their_positions_then_of_their_names() {
    let mut state = PlaneState::default();
    let changes = vec![
        put("api", 2, limit("a", 1)),
        put("api", 1, limit("z", 1)),
        put("api", 1, limit("b", 1)),
        put("api", -1, limit("y", 1)),
    ];
    apply(&mut state, &[transaction(1, changes)]);
    let names: Vec<String> = state.rules().domains[0].limits.iter().map(|limit| limit.name.clone()).collect();
    assert_eq!(names, ["y", "b", "z", "a"]);
}

#[test]
fn a_rule_book_has_a_bound_in_limits_and_in_bytes() {
    use limiter::rules::{Condition, Domain, Rules};
    let book = |limits: Vec<limiter::rules::Limit>| Rules {
        domains: vec![Domain { domain: "d".to_owned(), limits, ..Domain::default() }],
    };
    let many = |count: usize| (0..count).map(|n| limit(&format!("l{n}"), 1)).collect();
    assert_eq!(plane::check_bounds(&book(many(plane::MAX_LIMITS))), Ok(()));
    assert!(plane::check_bounds(&book(many(plane::MAX_LIMITS + 1))).unwrap_err().contains("10000 limits"));
    let mut large = limit("large", 1);
    large.matches.conditions.insert("p".to_owned(), Condition::Equal("x".repeat(plane::MAX_BYTES)));
    assert!(plane::check_bounds(&book(vec![large])).unwrap_err().contains("bytes of rules"));
}
