//! The composition root: one current-thread runtime and one shard per core, sharing nothing but the store; and one
//! runtime more for what no check waits for, the node's place in its region.

pub mod clock;
pub mod listeners;
mod seat;

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::actors::core::Core;
use crate::api::desk::{self, Desk, Readiness};
use crate::api::metered::Reading;
use crate::api::request_id::RequestIds;
use crate::api::spread;
use crate::ports::{Clock, Region, RuleSource, StoreHealth, Unfit};
use crate::store::memory::{MemoryStore, SingleNodeRegion};
pub use crate::store::redis::{RedisConfig, RedisRegion};
use crate::telemetry::metrics::{Figures, Metrics};
use clock::SystemClock;
use limiter::{MAX_ITEMS, NodeTime, Revision, ShardConfig};
use listeners::Listeners;
use seat::Seat;

/// How often a node that starts looks whether it may decide.
const STARTING: Duration = Duration::from_millis(2);
/// A node serves without a store that it has not reached for so long, in microseconds.
const GRACE_US: u64 = 10_000_000;
/// Longest that saying goodbye to the region takes.
const GOODBYE: Duration = Duration::from_millis(500);

/// How a node behaves; lengths of time in microseconds where a name says so.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Cores to serve on.
    pub workers: NonZeroUsize,
    /// Keys in memory at most, over all cores.
    pub max_keys: usize,
    /// Checks that wait for the store at most, over all cores.
    pub max_pending: usize,
    /// Connections of clients at most, on each face.
    pub max_connections: usize,
    pub lease_us: u64,
    pub deadline_us: u64,
    pub min_holders: u32,
    /// Longest that a node takes to leave.
    pub drain: Duration,
    pub trusted_proxies: Vec<IpNet>,
}

/// The world that a node lives in.
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    /// Draws seeds, incarnations and ids.
    pub random: fn() -> io::Result<u64>,
    pub region: Arc<dyn Region>,
    pub rules: Arc<dyn RuleSource>,
    pub metrics: Arc<Metrics>,
}

impl Environment {
    /// The clocks of this machine, and counters in this process's memory.
    pub fn in_memory(config: &NodeConfig, rules: Arc<dyn RuleSource>, metrics: Arc<Metrics>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock), config.max_keys));
        let region = Arc::new(SingleNodeRegion::new(store, config.cores()));
        Self { clock, random: clock::random, region, rules, metrics }
    }

    /// The clocks of this machine, and counters in the region's Redis.
    pub fn in_region(region: RedisRegion, rules: Arc<dyn RuleSource>, metrics: Arc<Metrics>) -> Self {
        Self { clock: Arc::new(SystemClock::new()), random: clock::random, region: Arc::new(region), rules, metrics }
    }
}

impl NodeConfig {
    /// How many holders of tokens the node is.
    pub fn cores(&self) -> u32 {
        u32::try_from(self.workers.get()).unwrap_or(u32::MAX)
    }
}

/// Why a node ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Core(#[from] io::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// What probes and scrapes are told.
struct Whole {
    cores: Vec<Arc<Core>>,
    region: Arc<dyn Region>,
    clock: Arc<dyn Clock>,
    begun: NodeTime,
    draining: AtomicBool,
    /// Of every core that has begun, and of what no check waits for.
    runtimes: Mutex<Vec<Handle>>,
}

impl Whole {
    /// The rules that every core has, at least.
    fn revision(&self) -> Revision {
        self.cores.iter().map(|core| core.revision()).min().unwrap_or_default()
    }

    /// Whether there is all that it takes to decide. A store that is lost later is no reason to leave: all nodes would, at
    /// once.
    fn may_begin(&self) -> bool {
        let over = self.clock.now().since(self.begun) >= GRACE_US;
        self.revision() > Revision::NONE && (over || self.region.state().reached)
    }

    /// Lets all cores decide as soon as they may.
    async fn open(&self, opening: &watch::Sender<bool>) -> Infallible {
        while !self.may_begin() {
            tokio::time::sleep(STARTING).await;
        }
        self.cores.iter().for_each(|core| core.set_starting(false));
        opening.send_replace(true);
        std::future::pending().await
    }

    fn has(&self, runtime: &Handle) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(runtime.clone());
    }
}

impl desk::Node for Whole {
    fn readiness(&self) -> Readiness {
        let revision = self.revision();
        let draining = self.draining.load(Ordering::Relaxed);
        let state = self.region.state();
        let ready = !draining && !self.cores.iter().any(|core| core.is_starting());
        Readiness { ready, revision, store: state.store, advice: state.advice, draining }
    }

    fn figures(&self) -> Figures {
        let holders = (*self.region.holders().borrow()).into();
        let store_ok = self.region.state().store == StoreHealth::Ok;
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks() as u64).sum();
        drop(runtimes);
        let mut all = Figures { revision: Revision::MAX, holders, store_ok, tasks, ..Figures::default() };
        for core in &self.cores {
            let stats = core.stats();
            all.keys += stats.keys as u64;
            all.waiting += stats.waiting as u64;
            all.batches += stats.batches;
            all.items += stats.items;
            all.failed_batches += stats.failed_batches;
            all.failed_items += stats.failed_items;
            all.restarts += core.restarts();
            all.revision = all.revision.min(core.revision());
        }
        all
    }
}

/// Serves until `shutdown` says true, or a core fails, or the node is not fit for its region: then every core stops
/// accepting, answers what is under way and gives its tokens back, all within the drain time.
///
/// # Errors
/// The first failure of a core, or why the node is not fit.
pub fn run(
    config: &NodeConfig,
    environment: &Environment,
    http: Listeners,
    grpc: Listeners,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let Environment { clock, random, region, rules, metrics } = environment;
    let new_core = || -> io::Result<_> {
        let store = region.store();
        let core = Core::new(shard_config(config, store.lanes(), *random)?, Arc::clone(clock), store);
        core.set_starting(true);
        Ok(Arc::new(core))
    };
    let cores: Vec<Arc<Core>> = (0..config.workers.get()).map(|_| new_core()).collect::<io::Result<_>>()?;
    let whole = Arc::new(Whole {
        cores: cores.clone(),
        region: Arc::clone(region),
        clock: Arc::clone(clock),
        begun: clock.now(),
        draining: AtomicBool::new(false),
        runtimes: Mutex::default(),
    });
    // A core that fails stops the others: half a node is worse than none.
    let (failing, failed) = watch::channel(false);
    let (opening, opened) = watch::channel(false);
    let mut seats = Vec::new();
    let shares = |face| {
        let reading = Reading::new(Arc::clone(metrics));
        spread::over(config.workers.get(), config.max_connections, metrics.connections(face), reading)
    };
    let (http, grpc) = (http.each.into_iter().zip(shares("http")), grpc.each.into_iter().zip(shares("grpc")));
    for ((core, http), grpc) in cores.into_iter().zip(http).zip(grpc) {
        let desk = Arc::new(Desk {
            limiter: Arc::clone(&core) as Arc<dyn crate::ports::Limiter>,
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            tally: metrics.tally(),
            node: Arc::clone(&whole) as Arc<dyn desk::Node>,
            ids: RequestIds::new(random()?),
            trusted_proxies: config.trusted_proxies.clone(),
        });
        seats.push(Seat {
            core,
            desk,
            http,
            grpc,
            rules: rules.follow(),
            holders: region.holders(),
            opened: opened.clone(),
            drain: config.drain,
        });
    }
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    whole.has(control.handle());
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        // Every core holds a sender until it ends.
        let (serving, mut served) = mpsc::channel::<()>(1);
        for seat in seats {
            let (whole, stop) = (Arc::clone(&whole), stop(shutdown.clone(), failed.clone()));
            let (failing, serving) = (failing.clone(), serving.clone());
            threads.push(scope.spawn(move || {
                let serve = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(seat.serve(whole, stop))
                };
                // A panic outside of a decision ends the node as any other failure of a core does.
                let ended = std::panic::catch_unwind(AssertUnwindSafe(serve))
                    .unwrap_or_else(|_| Err(io::Error::other("a core panicked")));
                if ended.is_err() {
                    failing.send_replace(true);
                }
                drop(serving);
                ended
            }));
        }
        drop(serving);
        let unfit = control.block_on(async {
            let unfit = tokio::select! {
                unfit = region.keep() => Some(unfit),
                _ = served.recv() => None,
                never = whole.open(&opening) => match never {},
            };
            if unfit.is_some() {
                failing.send_replace(true);
                served.recv().await;
            } else if tokio::time::timeout(GOODBYE, region.leave()).await.is_err() {
                tracing::warn!("the region was not told that this node leaves");
            }
            unfit
        });
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        if let Some(unfit) = unfit {
            return Err(unfit.into());
        }
        let core = |core: std::thread::Result<io::Result<()>>| {
            core.unwrap_or_else(|_| Err(io::Error::other("a core's thread panicked")))
        };
        Ok(ended.into_iter().try_for_each(core)?)
    })
}

async fn stop(mut shutdown: watch::Receiver<bool>, mut failed: watch::Receiver<bool>) {
    // A sender that is gone is a node that stops.
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        _ = failed.wait_for(|stop| *stop) => {}
    }
}

fn shard_config(config: &NodeConfig, lanes: u16, random: fn() -> io::Result<u64>) -> io::Result<ShardConfig> {
    let mut seeds = [0; 4];
    for seed in &mut seeds {
        *seed = random()?;
    }
    Ok(ShardConfig {
        max_keys: config.max_keys.div_ceil(config.workers.get()),
        max_waiting: config.max_pending.div_ceil(config.workers.get()),
        lease_us: config.lease_us,
        deadline_us: config.deadline_us,
        holders: config.cores(),
        min_holders: config.min_holders,
        lanes,
        max_items: MAX_ITEMS,
        seeds,
    })
}
