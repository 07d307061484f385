//! Tells the other regions what this one counted, and imports what they counted: the network around
//! [`limiter::gossip`].
//!
//! `sender` sends at most one message per interval to each region, to a node that `directory` chooses. `receiver`
//! takes the messages of others, and `importer` writes them into the region's counters before they are acknowledged.

mod config;
mod directory;
mod giver;
mod importer;
pub mod metrics;
mod receiver;
mod rights;
mod rights_metrics;
mod sender;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::gossip::{GossipConfig, Link, Outbox};
use limiter::{News, NodeTime, RegionNumber, Regions};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;

pub use self::config::RegionsConfig;
use self::directory::Directory;
pub use self::directory::{Members, Peers};
use self::giver::{Giver, MAX_QUESTIONS, Questioned};
use self::importer::{Import, Importer};
use self::metrics::RegionsMetrics;
use self::receiver::Receiver;
use self::rights::Rights;
use crate::peers::Transport;
use crate::ports::{BoxFuture, Clock, CounterStore, Fatal, Gossip, RegionStatus, Service, Shutdown};

/// Messages of other regions that wait to be imported.
const MAX_IMPORTS: usize = 64;
/// The bytes of a message that a region gets in one interval.
const MESSAGE_BYTES: usize = 1 << 20;

/// Regions that do not hear this node.
type Partitioned = Arc<Mutex<Vec<RegionNumber>>>;

/// The talk of this node with the other regions. It is a service, and the cores pass it what they count.
pub struct RegionGossip {
    config: RegionsConfig,
    clock: Arc<dyn Clock>,
    store: Arc<dyn CounterStore>,
    transport: Arc<dyn Transport>,
    directory: Arc<Directory>,
    metrics: RegionsMetrics,
    outbox: Mutex<Outbox>,
    view: watch::Sender<Option<Regions>>,
    /// The regions that do not hear this node.
    partitioned: Partitioned,
    importer: tokio::sync::Mutex<Importer>,
    imports: mpsc::Sender<Import>,
    rights: Rights,
    /// Other regions ask it for rights. It has connections of its own, because it waits for replicas.
    giver: Giver,
    questions: mpsc::Sender<Questioned>,
    asked: tokio::sync::Mutex<mpsc::Receiver<Questioned>>,
    giver_store: Arc<dyn CounterStore>,
}

impl RegionGossip {
    /// `seeds` must be random.
    pub fn new(
        config: RegionsConfig,
        peers: Peers,
        clock: Arc<dyn Clock>,
        [store, giver_store]: [Arc<dyn CounterStore>; 2],
        transport: Arc<dyn Transport>,
        metrics: RegionsMetrics,
        seeds: [u64; 4],
    ) -> Arc<Self> {
        let outbox = Outbox::new(
            GossipConfig {
                partition_after_us: micros(config.partition_after),
                max_keys: config.max_keys,
                max_bytes: MESSAGE_BYTES,
                seeds,
            },
            [],
        );
        let (imports, waiting) = mpsc::channel(MAX_IMPORTS);
        let seeds_and_time = (seeds[0], config.partition_after);
        let importer = Importer::new(Arc::clone(&store), Arc::clone(&clock), seeds_and_time, waiting, metrics.clone());
        let directory = Arc::new(Directory::new(&config, peers));
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let giver = Giver::new(Arc::clone(&giver_store), directory.plan(), seeds[2], metrics.clone());
        let rights = Rights::new(
            config.clone(),
            Arc::clone(&clock),
            Arc::clone(&store),
            Arc::clone(&transport),
            Arc::clone(&directory),
            metrics.clone(),
            seeds,
        );
        let gossip = Arc::new(Self {
            config,
            clock,
            store,
            transport,
            directory,
            metrics,
            outbox: Mutex::new(outbox),
            view: watch::Sender::new(None),
            partitioned: Arc::default(),
            importer: tokio::sync::Mutex::new(importer),
            imports,
            rights,
            giver,
            questions,
            asked: tokio::sync::Mutex::new(asked),
            giver_store,
        });
        // The cores must not believe that there are no other regions.
        gossip.view.send_replace(gossip.view_of(None, false));
        gossip
    }

    /// What the cores must know of the other regions.
    fn view_of(&self, partitioned_since: Option<NodeTime>, alone: bool) -> Option<Regions> {
        let rights = self.directory.plan();
        let has_rights = rights.is_none_or(|plan| plan.others().next().is_some());
        (!alone || has_rights).then(|| Regions {
            part: self.directory.part(),
            floor_thousandths: self.config.floor_thousandths,
            partitioned_since,
            rights,
        })
    }

    /// What other regions find at the cluster port of this node.
    pub fn routes(&self) -> Routes {
        let receiver = Receiver {
            cluster: self.config.cluster.clone(),
            hashed_keys: self.config.hashed_keys,
            directory: Arc::clone(&self.directory),
            imports: self.imports.clone(),
            partitioned: Arc::clone(&self.partitioned),
            questions: self.questions.clone(),
            metrics: self.metrics.clone(),
        };
        receiver.into_routes()
    }

    fn outbox<T>(&self, work: impl FnOnce(&mut Outbox) -> T) -> T {
        work(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Gossip for RegionGossip {
    fn tell(&self, News { reports, wants }: News) {
        if !reports.is_empty() {
            self.outbox(|outbox| {
                // A region that is alone tells nobody.
                if !outbox.is_alone() {
                    reports.into_iter().for_each(|(report, ends)| outbox.note(report, ends));
                }
            });
        }
        if !wants.is_empty() {
            self.rights.want(&wants);
        }
    }

    fn regions(&self) -> watch::Receiver<Option<Regions>> {
        self.view.subscribe()
    }

    fn advice(&self) -> Vec<&'static str> {
        self.metrics.rights.advice()
    }

    fn status(&self) -> Vec<RegionStatus> {
        let now = self.clock.now();
        let mut all: Vec<RegionStatus> = self.outbox(|outbox| {
            let status = |(number, link, behind): (RegionNumber, &Link, usize)| {
                let region = self.directory.name(number)?;
                Some(RegionStatus {
                    weight: self.directory.weight(&region),
                    partitioned: link.partitioned_since().is_some(),
                    heard_age_ms: link.heard_us_ago(now).map(|us| us / 1000),
                    round_trip_ms: link.round_trip_us().map(|us| us / 1000),
                    behind_keys: behind,
                    rights_taken: self.metrics.rights.taken_of(&region),
                    region,
                })
            };
            outbox.links().filter_map(status).collect()
        });
        all.sort_unstable_by(|a, b| a.region.cmp(&b.region));
        all
    }
}

impl Service for RegionGossip {
    fn name(&self) -> &'static str {
        "regions"
    }

    fn run(&self, shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            let (mut importer, mut asked) = (self.importer.lock().await, self.asked.lock().await);
            let serve = async {
                match self.config.listen {
                    Some(listen) => receiver::serve(&*self.transport, listen, self.routes()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.send(shutdown) => Ok(()),
                served = serve => served,
                () = importer.run() => Err(Fatal::Ended("regions")),
                () = self.store.keep() => Err(Fatal::Ended("regions")),
                () = self.giver_store.keep() => Err(Fatal::Ended("regions")),
                () = self.rights.run() => Err(Fatal::Ended("regions")),
                () = self.giver.run(&mut asked) => Err(Fatal::Ended("regions")),
            }
        })
    }
}
