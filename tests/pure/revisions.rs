//! Revisions across sources: if a region moves from one source of rules to another and back, its token buckets follow
//! the rules in force.

use limiter::WallTime;
use std::sync::Arc;
use std::time::SystemTime;

use limiter::rules::RuleBook;
use limiter::{Check, Descriptor, NodeTime, Revision, ShardConfig};
use ractor::Actor;
use tidegate::actors::core::Core;
use tidegate::actors::flusher::Flusher;
use tidegate::ports::{Clock, CounterStore, Limiter, RuleSource, Wait};
use tidegate::rulefile::decode::compile;
use tidegate::rulefile::metrics::RuleFileMetrics;
use tidegate::rulefile::watch::FileRules;
use tidegate::store::memory::MemoryStore;
use tidegate::telemetry::registry::MetricsRegistry;
use tokio::sync::watch;

/// A clock that does not advance.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NodeTime(1_000_000)
    }

    fn wall(&self) -> WallTime {
        WallTime(crate::core::BEGIN_US)
    }
}

/// A source of rules that knows no commits before its first own commit, like the change log of a new database.
struct ChangeLog(watch::Sender<Arc<RuleBook>>);

impl ChangeLog {
    fn new() -> Self {
        Self(watch::Sender::new(Arc::new(RuleBook::empty())))
    }

    fn commit(&self, burst: u64) {
        let revision = self.0.borrow().revision.next(now_ms());
        let book = compile("log", &rules(burst), revision).unwrap();
        self.0.send_replace(Arc::new(book));
    }
}

impl RuleSource for ChangeLog {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.0.subscribe()
    }
}

#[expect(clippy::disallowed_methods, reason = "commits and files share this machine's clock")]
fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since_epoch.as_millis()).unwrap()
}

fn rules(burst: u64) -> String {
    format!(
        "version: 1\ndomains:\n  - domain: d\n    limits:\n      - {{ name: l, per: [user], limit: 1, window: 1h, burst: {burst}, algorithm: token_bucket }}\n"
    )
}

/// Starts a new node with the newest rules of `source` and returns how many hits it grants to `user`, one by one.
async fn count_granted(store: &Arc<dyn CounterStore>, source: &dyn RuleSource, user: &str) -> u64 {
    const CONFIG: ShardConfig = ShardConfig {
        max_keys: 100,
        max_waiting: 100,
        lease_us: 1_000_000,
        deadline_us: 5_000_000,
        holders: 1,
        min_holders: 1,
        lanes: 1,
        max_items: 100,
        hash_keys: false,
        seeds: [1, 2, 3, 4],
    };
    let core = Arc::new(Core::new(CONFIG, Arc::new(FixedClock), Arc::clone(store)));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    core.set_book(Arc::clone(&source.follow().borrow()));
    let descriptors =
        [Descriptor { entries: &[("user", user)], ordered: true, hits: 1, charging: Default::default(), limit: None }];
    let check = Check { domain: "d", descriptors: &descriptors };
    let mut granted = 0;
    while granted < 1000 && core.check(&check, NodeTime(1_000_000), Wait::default()).get().await.unwrap().allowed {
        granted += 1;
    }
    granted
}

#[tokio::test]
async fn buckets_follow_the_rules_from_a_file_to_a_change_log_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    let metrics = RuleFileMetrics::new(&MetricsRegistry::new("0", "0").unwrap()).unwrap();
    // A file system stamps files with the time of its last tick, a few milliseconds ago. So the file is written until
    // its revision is newer than `after_ms`.
    let write_file = |burst: u64, after_ms: u64| loop {
        std::fs::write(&path, rules(burst)).unwrap();
        let source = FileRules::open(path.clone(), 3, metrics.clone()).unwrap();
        if source.follow().borrow().revision > Revision(after_ms) {
            break source;
        }
    };
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(FixedClock), 100));
    assert_eq!(count_granted(&store, &write_file(5, 0), "u").await, 5);
    let log = ChangeLog::new();
    log.commit(20);
    assert_eq!(count_granted(&store, &log, "u").await, 15, "a full bucket of 20 minus the 5 hits that were spent");
    log.commit(50);
    assert_eq!(count_granted(&store, &log, "u").await, 30);
    assert_eq!(count_granted(&store, &write_file(60, now_ms()), "u").await, 10);
}
