//! Asks other regions for rights of limits under `strategy: escrow`, as [`limiter::escrow::Requests`] says, and writes
//! what they give into the region's counters.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use limiter::counter::{Batch, BatchOutcome, Counter, Given, Item, ItemReply, MAX_REGIONS, Take};
use limiter::escrow::{Question, Requests, Want};
use limiter::{BatchId, HolderId, LaneId, MAX_ITEMS, NodeTime, RegionNumber};
use proto::tidegate::cluster::Asked;
use proto::tidegate::cluster::gossip_client::GossipClient;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::config::RegionsConfig;
use super::directory::Directory;
use super::importer::probes;
use super::metrics::RegionsMetrics;
use super::sender::{VERSION, client, deadline};
use super::wire;
use crate::peers::Transport;
use crate::ports::{Clock, CounterStore};

/// How often each lane is visited.
const VISIT: Duration = Duration::from_secs(10);
/// How often the regions are read again, and lanes that did not answer are visited again.
const REFRESH: Duration = Duration::from_secs(1);

/// The rights that this node asks other regions for.
pub struct Rights {
    config: RegionsConfig,
    clock: Arc<dyn Clock>,
    store: Arc<dyn CounterStore>,
    transport: Arc<dyn Transport>,
    directory: Arc<Directory>,
    metrics: RegionsMetrics,
    requests: Mutex<Requests>,
    /// There may be something to ask.
    wanted: Notify,
    holder: HolderId,
    last_batch: AtomicU64,
}

/// What became of items.
#[derive(Default)]
struct Visited {
    /// Rights that are new to the region.
    gained: u64,
    /// Items that the store did not run.
    failed: Vec<Item>,
}

impl Rights {
    /// `seeds` must be random.
    pub fn new(
        config: RegionsConfig,
        clock: Arc<dyn Clock>,
        store: Arc<dyn CounterStore>,
        transport: Arc<dyn Transport>,
        directory: Arc<Directory>,
        metrics: RegionsMetrics,
        seeds: [u64; 4],
    ) -> Self {
        let requests = Mutex::new(Requests::new(config.max_keys / MAX_REGIONS, seeds));
        let (wanted, holder, last_batch) = (Notify::new(), HolderId(seeds[1] >> 16), AtomicU64::new(0));
        Self { config, clock, store, transport, directory, metrics, requests, wanted, holder, last_batch }
    }

    fn requests<T>(&self, work: impl FnOnce(&mut Requests) -> T) -> T {
        work(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what the cores want. It does not wait.
    pub fn want(&self, wants: &[(Want, NodeTime)]) {
        if self.directory.plan().is_none() {
            self.metrics.rights.no_plan();
            return;
        }
        let now = self.clock.now();
        let asks = self.requests(|requests| {
            let asks = wants.iter().map(|(want, ends)| requests.want(want, *ends, now));
            asks.fold(false, |any, asks| any | asks)
        });
        if asks {
            self.wanted.notify_one();
        }
    }

    /// Asks the other regions, without end.
    pub async fn run(&self) {
        let mut clients = HashMap::new();
        let mut asking = FuturesUnordered::new();
        let mut refresh = tokio::time::interval(REFRESH);
        let mut lanes = pin!(self.note_lanes());
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                _ = refresh.tick() => self.refresh(&mut clients),
                Some(()) = asking.next() => {}
                () = &mut lanes => {}
            }
            for question in self.requests(Requests::questions) {
                let client = self.client(question.to, &mut clients);
                asking.push(self.ask(question, client));
            }
        }
    }

    /// Visits each lane now and then, without end, so that its record is older than the cells whose rights are spent. A
    /// lane that has lost its record has a new one soon, although nobody asks for its counters.
    async fn note_lanes(&self) {
        let all = probes(&*self.store);
        let mut due = all.clone();
        loop {
            let failed = self.visit(due).await.failed;
            let (pause, next) = if failed.is_empty() { (VISIT, all.clone()) } else { (REFRESH, failed) };
            tokio::time::sleep(pause).await;
            due = next;
        }
    }

    fn refresh(&self, clients: &mut HashMap<String, GossipClient<Channel>>) {
        let known: Vec<RegionNumber> = self.directory.regions().iter().map(|region| RegionNumber::of(region)).collect();
        let others = self.directory.plan().into_iter().flat_map(|plan| plan.others().collect::<Vec<_>>());
        let dropped = self.requests(|requests| {
            requests.set_regions(others.filter(|region| known.contains(region)));
            requests.take_dropped()
        });
        self.metrics.rights.dropped(dropped);
        clients.retain(|address, _| self.directory.has_address(address));
    }

    /// A client of the node of a region that this node talks to now, and its address. `None` if no node is known.
    fn client(
        &self,
        to: RegionNumber,
        clients: &mut HashMap<String, GossipClient<Channel>>,
    ) -> Option<(String, GossipClient<Channel>)> {
        let address = self.directory.choose(&self.directory.name(to)?, self.clock.now())?;
        let new = || client(&self.transport, &address, &self.config);
        let client = clients.entry(address.clone()).or_insert_with(new).clone();
        Some((address, client))
    }

    /// Asks a region, and takes what it gives.
    async fn ask(&self, question: Question, client: Option<(String, GossipClient<Channel>)>) {
        let answers = match client {
            Some((address, client)) => self.call(&question, client).await.inspect_err(|error| {
                tracing::debug!(%address, %error, "another region did not answer a question for rights");
                if error.code() == Code::Unimplemented {
                    self.metrics.rights.too_old(&address);
                } else if matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded) {
                    self.directory.avoid(address, self.clock.now());
                }
            }),
            None => Err(Status::unavailable("no node of the region is known")),
        };
        self.metrics.rights.asked(answers.is_ok());
        let answers = answers.unwrap_or_default();
        let answered = question.wants.iter().zip(&answers).filter_map(|(want, given)| Some((want, (*given)?)));
        let item = |(want, given): (&Want, Given)| {
            let take = Take { from: question.to, cell_ms: want.cell_ms, given, asked_ms: want.epoch_ms };
            let counter = Counter::Take { grid: want.grid, take };
            Item { key: want.key.clone(), asks: Vec::new(), refund: 0, counter }
        };
        // What the store does not take now comes with the next answer.
        let Visited { gained, .. } = self.visit(answered.map(item).collect()).await;
        let now = self.clock.now();
        self.requests(|requests| requests.answered(&question, &answers, now));
        if let Some(region) = self.directory.name(question.to) {
            self.metrics.rights.taken(&region, gained);
        }
    }

    async fn call(&self, question: &Question, mut client: GossipClient<Channel>) -> Result<Vec<Option<Given>>, Status> {
        let asked = Asked {
            version: VERSION,
            cluster: self.config.cluster.clone(),
            region: self.config.region.clone(),
            node: self.config.node.clone(),
            hashed_keys: self.config.hashed_keys,
            wants: question.wants.iter().map(wire::want_to_message).collect(),
        };
        let answered = tokio::time::timeout(deadline(&self.config), client.ask(asked)).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?;
        Ok(wire::answers(answered.into_inner()))
    }

    /// Runs items of any lanes that take rights.
    async fn visit(&self, items: Vec<Item>) -> Visited {
        let mut lanes: BTreeMap<LaneId, Vec<Item>> = BTreeMap::new();
        items.into_iter().for_each(|item| lanes.entry(self.store.lane(&item.key)).or_default().push(item));
        let mut running = Vec::new();
        for (lane, items) in lanes {
            for items in items.chunks(MAX_ITEMS) {
                let id = BatchId(self.last_batch.fetch_add(1, Ordering::Relaxed) + 1);
                let batch = Batch { not_after: None, holder: self.holder, id, items: items.to_vec() };
                let (run, items) = (self.store.run(lane, batch), items.to_vec());
                running.push(async move { (items, run.await) });
            }
        }
        let mut visited = Visited::default();
        for (items, ran) in futures_util::future::join_all(running).await {
            let Ok(BatchOutcome::Ran(replies)) = ran.map(|reply| reply.outcome) else {
                visited.failed.extend(items);
                continue;
            };
            for (item, reply) in items.into_iter().zip(replies) {
                match reply {
                    ItemReply::Taken { gained, .. } => visited.gained += gained,
                    ItemReply::Failed => visited.failed.push(item),
                    _ => {}
                }
            }
        }
        visited
    }
}
