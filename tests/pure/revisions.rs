//! A region moves from one source of rules to another and back: its token buckets follow the rules in force.

use limiter::WallTime;
use std::sync::Arc;
use std::time::SystemTime;

use limiter::rules::RuleBook;
use limiter::{Check, Descriptor, NodeTime, Revision, ShardConfig};
use ractor::Actor;
use tidegate::actors::core::Core;
use tidegate::actors::flusher::Flusher;
use tidegate::ports::{Clock, CounterStore, Limiter, RuleSource};
use tidegate::rulefile::decode::compile;
use tidegate::rulefile::metrics::RuleFileMetrics;
use tidegate::rulefile::watch::FileRules;
use tidegate::store::memory::MemoryStore;
use tidegate::telemetry::registry::MetricsRegistry;
use tokio::sync::watch;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> NodeTime {
        NodeTime(1_000_000)
    }

    fn wall(&self) -> WallTime {
        WallTime(crate::rules::BEGIN)
    }
}

/// A source of rules that has seen no commit before its own first, as the change log of a new database.
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

/// Hits that a node grants `user`, one by one, under the newest rules of `source`. The node starts anew each time.
async fn granted(store: &Arc<dyn CounterStore>, source: &dyn RuleSource, user: &str) -> u64 {
    const CONFIG: ShardConfig = ShardConfig {
        max_keys: 100,
        max_waiting: 100,
        lease_us: 1_000_000,
        deadline_us: 5_000_000,
        holders: 1,
        min_holders: 1,
        lanes: 1,
        max_items: 100,
        seeds: [1, 2, 3, 4],
    };
    let core = Arc::new(Core::new(CONFIG, Arc::new(StoppedClock), Arc::clone(store)));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    core.set_book(Arc::clone(&source.follow().borrow()));
    let descriptors = [Descriptor { entries: &[("user", user)], ordered: true, hits: 1, limit: None }];
    let check = Check { domain: "d", descriptors: &descriptors };
    let mut granted = 0;
    while granted < 1000 && core.check(&check, NodeTime(1_000_000), None).get().await.unwrap().allowed {
        granted += 1;
    }
    granted
}

#[tokio::test]
async fn buckets_follow_the_rules_in_force_from_a_file_to_a_change_log_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    // A file system stamps files with the instant of its last tick, a few milliseconds ago.
    let metrics = RuleFileMetrics::new(&MetricsRegistry::new("0", "0").unwrap()).unwrap();
    let file = |burst: u64, at_ms: u64| loop {
        std::fs::write(&path, rules(burst)).unwrap();
        let source = FileRules::open(path.clone(), metrics.clone()).unwrap();
        if source.follow().borrow().revision > Revision(at_ms) {
            break source;
        }
    };
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(StoppedClock), 100));
    assert_eq!(granted(&store, &file(5, 0), "u").await, 5);
    let log = ChangeLog::new();
    log.commit(20);
    assert_eq!(granted(&store, &log, "u").await, 15, "a full bucket of 20 less the 5 that were spent");
    log.commit(50);
    assert_eq!(granted(&store, &log, "u").await, 30);
    assert_eq!(granted(&store, &file(60, now_ms()), "u").await, 10);
}
