//! The leader's reading of a database, and the books of a node, with a cluster of one node and a database in memory.

mod fakes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Limit, Quota};
use plane::{Change, Command, CommitId, Mark, PlaneState, Transaction};
use tokio::sync::watch;

use self::fakes::{Database, OneNode, mark, put};
use super::books::{ClusterRules, compile};
use super::follow::FollowDatabase;
use super::metrics::PlaneMetrics;
use crate::ports::plane::{ChangeSource, Consensus, Role};
use crate::ports::{RuleSource, Service, Shutdown};
use crate::telemetry::registry::MetricsRegistry;

/// Far longer than any condition takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// A leader, its books, and its database.
struct Leader {
    node: Arc<OneNode>,
    database: Arc<Database>,
    rules: Arc<ClusterRules>,
    _shutdown: watch::Sender<bool>,
}

impl Leader {
    #[expect(clippy::disallowed_methods, reason = "the tasks end with the test's runtime")]
    fn start(database: Database) -> Self {
        let node = Arc::new(OneNode {
            state: watch::Sender::default(),
            role: watch::Sender::new(Role::Leader { term: 1 }),
            log: Mutex::default(),
            last_contact: Mutex::default(),
            failure: Mutex::default(),
        });
        let database = Arc::new(database);
        let metrics = PlaneMetrics::new(&MetricsRegistry::new("0", "test").unwrap()).unwrap();
        let consensus = Arc::clone(&node) as Arc<dyn Consensus>;
        let rules = Arc::new(ClusterRules::new(Arc::clone(&consensus), 3, metrics.clone()));
        let source = Arc::clone(&database) as Arc<dyn ChangeSource>;
        let follow = Arc::new(FollowDatabase::new(consensus, source, metrics));
        let (shutdown, stopped) = watch::channel(false);
        for service in [follow as Arc<dyn Service>, Arc::clone(&rules) as Arc<dyn Service>] {
            let stopped = Shutdown(stopped.clone());
            tokio::spawn(async move { service.run(stopped).await });
        }
        Self { node, database, rules, _shutdown: shutdown }
    }

    fn state(&self) -> Arc<PlaneState> {
        Arc::clone(&self.node.state.borrow())
    }

    /// Waits until the leader has read the database up to this revision.
    async fn reads(&self, revision: u64) -> Arc<PlaneState> {
        let mut states = self.node.state();
        let reached = states.wait_for(|state| state.mark().revision >= Revision(revision));
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        Arc::clone(&reached.expect("the leader did not read the revision").unwrap())
    }

    /// Waits until the book of this revision is in force. Returns its limits as `name=hits`.
    async fn in_force(&self, revision: u64) -> Vec<String> {
        let mut books = self.rules.follow();
        let reached = books.wait_for(|book| book.revision == Revision(revision));
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        let book = Arc::clone(&reached.expect("the book did not get in force").unwrap());
        limits(&book.rules().domains[0].limits)
    }
}

fn limits(limits: &[Limit]) -> Vec<String> {
    let hits = |limit: &Limit| if let Quota::Hits(hits) = limit.limit { hits } else { 0 };
    limits.iter().map(|limit| format!("{}={}", limit.name, hits(limit))).collect()
}

#[tokio::test]
async fn a_leader_reads_everything_and_then_every_transaction_in_order() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    assert_eq!(leader.in_force(10).await, ["a=1"]);
    for revision in 11..=300 {
        leader.database.commit(revision, vec![put("a", revision, &[]), put("b", revision, &[])]);
    }
    assert_eq!(leader.in_force(300).await, ["a=300", "b=300"]);
    let log = leader.node.log.lock().unwrap();
    let revisions = log.iter().flat_map(|command| match command {
        Command::Apply { transactions, .. } => transactions.iter().map(|t| t.mark.revision.0).collect(),
        Command::Replace { snapshot, .. } => vec![snapshot.mark.revision.0],
        Command::Restore { .. } => Vec::new(),
    });
    assert_eq!(revisions.collect::<Vec<_>>(), (10..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_invalid_transaction_is_refused_and_later_valid_ones_pass() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    let unreadable = Change::UnreadableLimit {
        domain: "api".to_owned(),
        name: "u".to_owned(),
        errors: vec!["match: expected a map".to_owned()],
    };
    leader.database.commit(20, vec![put("bad", 1, &["nobody"]), put("a", 99, &[])]);
    leader.database.commit(21, vec![unreadable]);
    leader.database.commit(22, vec![Change::PutSetting { name: "colour".to_owned(), value: 1.into() }]);
    leader.database.commit(30, vec![put("c", 3, &[])]);
    assert_eq!(leader.in_force(30).await, ["a=1", "c=3"], "no part of a refused transaction is in force");
    let state = leader.reads(30).await;
    let refused: Vec<u64> = state.refused().iter().map(|refused| refused.revision.0).collect();
    assert_eq!(refused, [20, 21, 22]);
    let error = &state.refused()[0].errors[0];
    assert!(error.starts_with("limit api/bad: replaces") && error.contains("nobody"), "{error}");
    assert_eq!(state.refused()[0].rows, ["limit api/bad", "limit api/a"]);
    assert!(state.settings().is_empty());

    // What was missing comes, and the rest is taken away: everything is in force.
    leader.database.commit(40, vec![put("nobody", 4, &[])]);
    leader.database.commit(41, vec![Change::RemoveLimit { domain: "api".to_owned(), name: "u".to_owned() }]);
    let good = serde_json::Value::from(5000);
    leader.reads(41).await;
    leader.database.commit(42, vec![Change::PutSetting { name: "colour".to_owned(), value: good.clone() }]);
    let state = leader.reads(42).await;
    assert!(!state.refused().is_empty(), "there is no such setting");
    leader.database.lock().log.iter_mut().for_each(|transaction| {
        transaction.changes.retain(|change| !matches!(change, Change::PutSetting { .. }));
    });
    leader.database.commit(50, vec![put("d", 5, &[])]);
    assert_eq!(leader.in_force(50).await, ["a=99", "bad=1", "c=3", "d=5", "nobody=4"]);
    assert!(leader.reads(50).await.refused().is_empty());
    assert!(leader.rules.rejected().is_none());
}

#[tokio::test]
async fn a_mended_transaction_gets_in_force_as_a_whole_while_another_stays_refused() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[]), put("b", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    leader.database.commit(20, vec![put("z", 1, &["nobody"])]);
    leader.database.commit(30, vec![put("a", 2, &["missing"]), put("b", 2, &[])]);
    let state = leader.reads(30).await;
    assert_eq!(limits(&state.rules().domains[0].limits), ["a=1", "b=1"]);
    leader.database.commit(40, vec![put("a", 3, &[])]);
    assert_eq!(leader.in_force(40).await, ["a=3", "b=2"], "both rows of the mended transaction");
    let state = leader.reads(40).await;
    let refused: Vec<u64> = state.refused().iter().map(|refused| refused.revision.0).collect();
    assert_eq!(refused, [20]);
}

#[tokio::test]
async fn a_row_that_is_refused_again_and_again_is_remembered_once_and_never_proposed() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    for revision in 20..40 {
        leader.database.commit(revision, vec![put("bad", revision, &["nobody"])]);
    }
    let state = leader.reads(39).await;
    let refused: Vec<u64> = state.refused().iter().map(|refused| refused.revision.0).collect();
    assert!(refused.contains(&39) && refused.len() <= 20, "{refused:?}");
    leader.database.commit(40, vec![put("bad", 1, &["nobody"])]);
    assert_eq!(leader.reads(40).await.refused().len(), 1);
    let log = leader.node.log.lock().unwrap();
    let proposed = log.iter().filter_map(|command| match command {
        Command::Apply { transactions, .. } => Some(transactions.iter().flat_map(|t| &t.changes).count()),
        _ => None,
    });
    assert_eq!(proposed.sum::<usize>(), 0, "refused changes do not travel");
}

#[tokio::test]
async fn a_book_above_its_bounds_is_refused_and_does_not_hold_up_later_edits() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    let many = (0..=plane::MAX_LIMITS).map(|n| put(&format!("l{n}"), 1, &[])).collect();
    leader.database.commit(20, many);
    leader.database.commit(30, vec![put("a", 2, &[])]);
    assert_eq!(leader.in_force(30).await, ["a=2"]);
    let state = leader.reads(30).await;
    assert!(state.refused()[0].errors[0].contains("10000 limits"), "{:?}", state.refused()[0].errors);
}

#[tokio::test]
async fn a_domain_does_not_hide_a_refused_limit_of_the_same_text() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.database.commit(20, vec![put("bad", 1, &["nobody"])]);
    leader.database.commit(30, vec![Change::PutDomain { domain: "api/bad".to_owned(), terms: Default::default() }]);
    assert_eq!(leader.reads(30).await.refused().len(), 1);
}

#[tokio::test]
async fn refused_transactions_are_shown_where_people_look() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.in_force(10).await;
    leader.database.commit(20, vec![put("bad", 1, &["nobody"])]);
    leader.reads(20).await;
    let wait = async {
        while leader.database.lock().refused.is_empty() || leader.rules.rejected().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap();
    let rejected = leader.rules.rejected().unwrap();
    assert_eq!((rejected.in_force, rejected.errors), (Revision(10), 1));
    assert!(rejected.error.contains("revision 20") && rejected.error.contains("nobody"), "{}", rejected.error);
}

#[tokio::test]
async fn a_database_that_lacks_what_the_cluster_applied_gets_it_back() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.database.commit(20, vec![put("a", 2, &[])]);
    leader.reads(20).await;
    {
        // A promoted server without the last transaction, with another one at the same revision.
        let mut inner = leader.database.lock();
        inner.log.pop();
        inner.log.push(Transaction::new(Mark { id: CommitId(7), ..mark(20) }, Vec::new()));
    }
    leader.database.changed.notify_one();
    let state = leader.reads(1000).await;
    assert_eq!(limits(&state.rules().domains[0].limits), ["a=2"]);
    assert_eq!(leader.database.lock().restored, 1);
    leader.database.commit(5000, vec![put("b", 1, &[])]);
    assert_eq!(leader.in_force(5000).await, ["a=2", "b=1"]);
}

#[tokio::test]
async fn a_leader_that_was_away_for_longer_than_the_log_is_kept_reads_everything() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    {
        let mut inner = leader.database.lock();
        inner.pruned_to = 30;
        inner.log = vec![
            Transaction::new(mark(31), vec![put("b", 2, &[]), put("bad", 1, &["nobody"])]),
            Transaction::new(mark(40), Vec::new()),
        ];
    }
    leader.database.changed.notify_one();
    let state = leader.reads(40).await;
    assert_eq!(limits(&state.rules().domains[0].limits), ["b=2"], "a row that is not valid is left out");
    assert_eq!(state.refused()[0].rows, ["limit api/bad"]);
    leader.database.commit(50, vec![put("nobody", 1, &[])]);
    assert_eq!(leader.in_force(50).await, ["b=2", "bad=1", "nobody=1"]);
}

#[tokio::test]
async fn a_refused_transaction_stays_out_as_a_whole_when_everything_is_read() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    // A limit gets another name, and is not valid.
    let remove = |name: &str| Change::RemoveLimit { domain: "api".to_owned(), name: name.to_owned() };
    leader.database.commit(20, vec![remove("a"), put("b", 1, &["nobody"])]);
    leader.reads(20).await;
    leader.database.lock().pruned_to = 30;
    leader.database.commit(40, vec![put("c", 1, &[])]);
    let state = leader.reads(40).await;
    assert_eq!(limits(&state.rules().domains[0].limits), ["a=1", "c=1"]);
    assert_eq!(state.refused()[0].revision, Revision(20));
    leader.database.commit(50, vec![put("nobody", 1, &[])]);
    assert_eq!(leader.in_force(50).await, ["b=1", "c=1", "nobody=1"]);
}

#[tokio::test]
async fn a_leader_goes_on_when_its_database_returns() {
    let database = Database::default();
    database.commit(10, vec![put("a", 1, &[])]);
    let leader = Leader::start(database);
    leader.reads(10).await;
    leader.database.lock().away = true;
    leader.database.commit(20, vec![put("a", 2, &[])]);
    // A follower reads nothing.
    leader.node.role.send_replace(Role::Follower);
    leader.database.lock().away = false;
    leader.database.commit(30, vec![put("a", 3, &[])]);
    assert_eq!(leader.state().mark(), mark(10));
    leader.node.role.send_replace(Role::Leader { term: 2 });
    assert_eq!(leader.in_force(30).await, ["a=3"]);
}

#[tokio::test]
async fn an_old_book_that_is_compiled_late_is_not_published() {
    let leader = Leader::start(Database::default());
    let at = |revision: u64| {
        let mut state = PlaneState::default();
        let transactions = vec![Transaction::new(mark(revision), vec![put("a", revision, &[])])];
        state.apply(Command::Apply { after: Mark::default(), transactions, refused: Vec::new() });
        state
    };
    let (old, new) = (at(10), at(20));
    let old_book = compile(&old);
    leader.rules.take(&new, compile(&new));
    leader.rules.take(&old, old_book);
    assert_eq!(leader.in_force(20).await, ["a=20"]);
}

#[tokio::test]
async fn readiness_says_how_the_node_and_its_cluster_are() {
    let Leader { node, rules, .. } = Leader::start(Database::default());
    let says = |role: Role, contact: Option<u64>| {
        node.role.send_replace(role);
        *node.last_contact.lock().unwrap() = contact.map(Duration::from_millis);
        rules.cluster().unwrap()
    };
    let leads = Role::Leader { term: 1 };
    assert_eq!([says(leads, Some(0)), says(Role::Follower, Some(4000))], ["ok", "ok"]);
    for text in [says(Role::Follower, Some(6000)), says(Role::Follower, None), says(leads, Some(6000))] {
        assert!(text.contains("no leader was heard of lately"), "{text}");
    }
    assert!(says(Role::Joining, None).contains("no member has admitted this node"));
    // It hears of no leader any more, and that is not the news.
    for contact in [Some(0), Some(6000), None] {
        assert!(says(Role::Removed, contact).contains("has removed this node"));
    }
    *node.failure.lock().unwrap() = Some("Raft has stopped: disk".to_owned());
    assert_eq!(says(Role::Follower, Some(0)), "Raft has stopped: disk");
}
