//! Asks other regions for rights of limits under `strategy: escrow`, as [`limiter::escrow::Requests`] says, and writes
//! what they give into the region's counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::counter::{Batch, BatchOutcome, Counter, Given, Item, ItemReply, Take};
use limiter::escrow::{Question, Requests, Want};
use limiter::{BatchId, HolderId, LaneId, MAX_ITEMS, NodeTime, RegionNumber};
use proto::tidegate::cluster::Asked;
use proto::tidegate::cluster::gossip_client::GossipClient;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use super::config::RegionsConfig;
use super::directory::Directory;
use super::importer::probes;
use super::metrics::RegionsMetrics;
use super::sender::{VERSION, client, deadline};
use super::wire;
use crate::peers::Transport;
use crate::ports::{Clock, CounterStore};

/// How often the regions are read again, and lanes that did not answer are asked again.
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
}

/// What became of a question.
struct Asking {
    question: Question,
    address: Option<String>,
    answers: Result<Vec<Option<Given>>, Status>,
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
        let requests = Mutex::new(Requests::new(config.max_keys, seeds));
        let (wanted, holder) = (Notify::new(), HolderId(seeds[1] >> 16));
        Self { config, clock, store, transport, directory, metrics, requests, wanted, holder }
    }

    fn requests<T>(&self, work: impl FnOnce(&mut Requests) -> T) -> T {
        work(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rights that a region has given this node.
    pub fn taken(&self, region: RegionNumber) -> u64 {
        self.requests(|requests| requests.taken(region))
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
        let (mut running, mut clients) = (JoinSet::new(), HashMap::new());
        let mut refresh = tokio::time::interval(REFRESH);
        let mut last_batch = BatchId(0);
        // The record of a lane must be older than the cells whose rights are spent.
        let mut unknown_lanes = probes(&*self.store);
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                _ = refresh.tick() => {
                    self.refresh(&mut clients);
                    if !unknown_lanes.is_empty() {
                        unknown_lanes = self.visit(std::mem::take(&mut unknown_lanes), &mut last_batch).await;
                    }
                }
                Some(asking) = running.join_next() => {
                    if let Ok(asking) = asking {
                        self.end(asking, &mut last_batch).await;
                    }
                }
            }
            for question in self.requests(Requests::questions) {
                self.begin(question, &mut clients, &mut running);
            }
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

    fn begin(
        &self,
        question: Question,
        clients: &mut HashMap<String, GossipClient<Channel>>,
        running: &mut JoinSet<Asking>,
    ) {
        let now = self.clock.now();
        let address = self.directory.name(question.to).and_then(|region| self.directory.choose(&region, now));
        let Some(address) = address else {
            let answers = Err(Status::unavailable("no node of the region is known"));
            running.spawn(async { Asking { question, address: None, answers } });
            return;
        };
        let new = || client(&self.transport, &address, &self.config);
        let mut client = clients.entry(address.clone()).or_insert_with(new).clone();
        let asked = Asked {
            version: VERSION,
            cluster: self.config.cluster.clone(),
            region: self.config.region.clone(),
            node: self.config.node.clone(),
            hashed_keys: self.config.hashed_keys,
            wants: question.wants.iter().map(wire::want_to_message).collect(),
        };
        let deadline = deadline(&self.config);
        running.spawn(async move {
            let answered = tokio::time::timeout(deadline, client.ask(asked)).await;
            let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            let answers = answered.map(|answered| wire::answers(answered.into_inner()));
            Asking { question, address: Some(address), answers }
        });
    }

    async fn end(&self, asking: Asking, last_batch: &mut BatchId) {
        let Asking { question, address, answers } = asking;
        self.metrics.rights.asked(answers.is_ok());
        let answers = answers.unwrap_or_else(|error| {
            tracing::debug!(?address, %error, "another region did not answer a question for rights");
            address.into_iter().for_each(|address| self.directory.avoid(address, self.clock.now()));
            Vec::new()
        });
        let answered = question.wants.iter().zip(&answers).filter_map(|(want, given)| Some((want, (*given)?)));
        let item = |(want, given): (&Want, Given)| {
            let take = Take { from: question.to, cell_ms: want.cell_ms, given, asked_ms: want.epoch_ms };
            let counter = Counter::Take { grid: want.grid, take };
            Item { key: want.key.clone(), asks: Vec::new(), refund: 0, counter }
        };
        // What the store does not take now comes with the next answer.
        self.visit(answered.map(item).collect(), last_batch).await;
        let now = self.clock.now();
        let gained = self.requests(|requests| requests.answered(&question, &answers, now));
        if let Some(region) = self.directory.name(question.to) {
            self.metrics.rights.taken(&region, gained);
        }
    }

    /// Runs items of any lanes. Returns those that the store did not run.
    async fn visit(&self, items: Vec<Item>, last_batch: &mut BatchId) -> Vec<Item> {
        let mut lanes: BTreeMap<LaneId, Vec<Item>> = BTreeMap::new();
        items.into_iter().for_each(|item| lanes.entry(self.store.lane(&item.key)).or_default().push(item));
        let mut running = Vec::new();
        for (lane, items) in lanes {
            for items in items.chunks(MAX_ITEMS) {
                last_batch.0 += 1;
                let batch = Batch { not_after: None, holder: self.holder, id: *last_batch, items: items.to_vec() };
                let (run, items) = (self.store.run(lane, batch), items.to_vec());
                running.push(async move { (items, run.await) });
            }
        }
        let mut failed = Vec::new();
        for (items, ran) in futures_util::future::join_all(running).await {
            match ran.map(|reply| reply.outcome) {
                Ok(BatchOutcome::Ran(replies)) => {
                    let unserved = items.into_iter().zip(replies).filter(|(_, reply)| *reply == ItemReply::Failed);
                    failed.extend(unserved.map(|(item, _)| item));
                }
                Ok(BatchOutcome::Late) | Err(_) => failed.extend(items),
            }
        }
        failed
    }
}
