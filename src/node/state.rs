//! What probes and scrapes see of the whole node.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::{NodeTime, Revision};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Environment;
use super::metrics::{NodeMetrics, NodeStats};
use crate::actors::core::Core;
use crate::ports::{BoxFuture, Clock, Gossip, NodeStatus, Readiness, Region, RuleSource, StoreHealth};

/// How often a node that starts checks whether it may decide.
const START_POLL: Duration = Duration::from_millis(2);
/// After this time, in microseconds, a node serves without a store that it has never reached.
const MAX_START_US: u64 = 10_000_000;

/// The cores of a node, its region, and its runtimes.
#[derive(Clone)]
pub struct NodeState(Arc<Shared>);

struct Shared {
    cores: Vec<Arc<Core>>,
    region: Arc<dyn Region>,
    rules: Arc<dyn RuleSource>,
    gossip: Option<Arc<dyn Gossip>>,
    advice: Vec<&'static str>,
    clock: Arc<dyn Clock>,
    metrics: Arc<NodeMetrics>,
    /// Held while the metrics are rendered, so that scrapes take at most one thread.
    scrape: Arc<tokio::sync::Mutex<()>>,
    started: NodeTime,
    draining: AtomicBool,
    /// The runtime of the background services, which no check waits for.
    control: Handle,
    /// The control runtime and those of the cores that have started.
    runtimes: Mutex<Vec<Handle>>,
}

impl NodeState {
    pub fn new(cores: Vec<Arc<Core>>, environment: &Environment, control: Handle) -> Self {
        let Environment { region, rules, gossip, clock, metrics, advice, .. } = environment;
        let (region, rules, clock) = (Arc::clone(region), Arc::clone(rules), Arc::clone(clock));
        let (gossip, metrics, advice) = (gossip.clone(), Arc::clone(metrics), advice.clone());
        let (started, runtimes) = (clock.now(), Mutex::new(vec![control.clone()]));
        let (draining, scrape) = (AtomicBool::new(false), Arc::default());
        Self(Arc::new(Shared {
            cores,
            region,
            rules,
            gossip,
            advice,
            clock,
            metrics,
            scrape,
            started,
            draining,
            control,
            runtimes,
        }))
    }

    /// Counts the tasks of a runtime from now on.
    pub fn register_runtime(&self, runtime: &Handle) {
        self.0.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(runtime.clone());
    }

    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Lets every core decide as soon as the node may.
    pub async fn open_when_ready(&self, opened: &watch::Sender<bool>) -> Infallible {
        while !self.0.may_start() {
            tokio::time::sleep(START_POLL).await;
        }
        self.0.cores.iter().for_each(|core| core.set_starting(false));
        opened.send_replace(true);
        std::future::pending().await
    }
}

impl Shared {
    /// The lowest revision that a core has.
    fn revision(&self) -> Revision {
        self.cores.iter().map(|core| core.revision()).min().unwrap_or_default()
    }

    /// True if the node has rules and a store. A store that is lost later is no reason to leave: all nodes would leave
    /// at once.
    fn may_start(&self) -> bool {
        let waited_long = self.clock.now().since(self.started) >= MAX_START_US;
        self.revision() > Revision::NONE && (waited_long || self.region.state().reached)
    }

    fn stats(&self) -> NodeStats {
        let holders = (*self.region.holders().borrow()).into();
        let store_ok = self.region.state().store == StoreHealth::Ok;
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks() as u64).sum();
        drop(runtimes);
        let mut all = NodeStats { revision: self.revision(), holders, store_ok, tasks, ..NodeStats::default() };
        for core in &self.cores {
            all.add(core.stats(), core.restarts());
        }
        all
    }
}

impl NodeStatus for NodeState {
    fn readiness(&self) -> Readiness {
        let Shared { cores, region, rules, gossip, advice, draining, .. } = &*self.0;
        let draining = draining.load(Ordering::Relaxed);
        let state = region.state();
        let (revision, newest) = (self.0.revision(), Arc::clone(&rules.follow().borrow()));
        let hash = || newest.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let rules_hash = (newest.revision == revision).then(hash);
        let of_regions = gossip.iter().flat_map(|gossip| gossip.advice());
        let ready = !draining && !cores.iter().any(|core| core.is_starting());
        Readiness {
            ready,
            revision,
            rules_hash,
            rejected_rules: rules.rejected(),
            store: state.store,
            cluster: rules.cluster(),
            advice: advice.iter().copied().chain(state.advice).chain(rules.advice()).chain(of_regions).collect(),
            draining,
        }
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async {
            // A caller that leaves drops its place in the queue, but not the guard of a thread that renders.
            let guard = Arc::clone(&shared.scrape).lock_owned().await;
            let control = shared.control.clone();
            // The stats lock every shard, and the text is long: no core that decides does this.
            let rendered = control.spawn_blocking(move || {
                let _guard = guard;
                shared.metrics.render(&shared.stats())
            });
            match rendered.await {
                Ok(text) => text.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}
