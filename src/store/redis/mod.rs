//! Counters in Redis: one server, one that Sentinels name, or a cluster.
//!
//! A lane is a hash tag: one of a few groups that all counters of a region are in, each of one slot, so that a batch is one
//! script call. A tag moves between primaries, its lane stays. [`RedisRegion`] finds out who the primaries are, once for
//! the process; each core has a [`RedisStore`] with connections of its own, one to each primary, so that a sick one holds
//! up nobody else. Replicas are never read.

mod advice;
mod complaints;
mod connection;
mod fence;
mod links;
mod region;
mod sentinels;
mod tls;
mod topology;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};

use crate::ports::location::Redis;
use crate::ports::{BoxFuture, CounterStore};
use crate::telemetry::metrics::Metrics;
use complaints::Complaints;
use connection::{CallError, Connection};
use counter_script::{Tags, wire};
use limiter::counter::{Batch, BatchOutcome, BatchReply, ItemReply, StoreError};
use limiter::{LaneId, PROBE_INTERVAL};
use links::Links;
pub use region::RedisRegion;
pub use tls::TlsError;
use topology::Topology;

/// So often a batch is sent elsewhere while slots move.
const MAX_HOPS: usize = 3;
/// So many quick looks are waited at first for those that are not there.
const PATIENCE: u32 = 200;

/// What a node must know of its region's Redis.
#[derive(Clone)]
pub struct RedisConfig {
    pub redis: Redis,
    /// Who signed the servers' certificates, in PEM; without it whom this machine trusts.
    pub authorities: Option<Vec<u8>>,
    pub region: String,
    /// This node's name.
    pub node: String,
    /// This process's name: random.
    pub boot: u64,
    /// Holders in this process.
    pub cores: u32,
    pub key_prefix: String,
    pub tags: u16,
    /// Longest that a batch takes.
    pub deadline: Duration,
    pub metrics: Arc<Metrics>,
}

/// Who was called at last, and what came of it.
type Called = (Option<Arc<Connection>>, Result<Value, CallError>);

/// One core's door to the region's counters.
pub struct RedisStore {
    tags: Arc<Tags>,
    /// What the keys of each tag begin with.
    begin: Vec<Vec<u8>>,
    /// The key that says that a server was replaced; a cluster has its own way.
    fence: Option<Bytes>,
    links: Links,
    /// The primary of each tag.
    routes: Mutex<Vec<Option<Arc<Connection>>>>,
    topology: watch::Receiver<Option<Arc<Topology>>>,
    /// Told when the topology seems to be another.
    stale: Arc<Notify>,
    complaints: Arc<Complaints>,
    /// It has been connected.
    reached: AtomicBool,
}

impl RedisStore {
    /// The primary of a tag, as far as is known.
    fn primary(&self, lane: LaneId) -> Option<Arc<Connection>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(usize::from(lane.0)).cloned().flatten()
    }

    /// Whether it has been connected to every primary at once, or to some while the others did not come.
    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Notes that it is connected; `late` says that those that are not have had their time.
    fn see(&self, late: bool) {
        let links = self.links.all();
        let up = links.iter().filter(|connection| connection.is_up()).count();
        if up > 0 && (up == links.len() || late) {
            self.reached.store(true, Ordering::Relaxed);
        }
    }

    /// Connects to the primaries, and to them only.
    fn route(&self, topology: &Topology) {
        self.links.keep(&topology.primaries());
        let route = |(_, slot)| topology.primary(slot).map(|address| self.links.get_or_open(address));
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = self.tags.each().map(route).collect();
    }

    async fn run_batch(&self, lane: LaneId, batch: Batch) -> Result<BatchReply, StoreError> {
        let begin = self.begin.get(usize::from(lane.0)).ok_or(StoreError::NotApplied)?;
        let reached = match self.primary(lane) {
            // One that was just found, as where slots move, has its time to be connected.
            Some(primary) => primary.is_up() || primary.is_coming() && primary.connected().await,
            None => false,
        };
        if !reached {
            // An empty batch only asks for a clock.
            if !batch.items.is_empty() {
                self.stale.notify_one();
            }
            return Err(StoreError::NotApplied);
        }
        let keys: Vec<Bytes> = batch.items.iter().map(|item| [begin, &*item.key].concat().into()).collect();
        let whole = wire::encode_batch(&batch, batch.items.iter()).into();
        match self.call(lane, &keys, whole).await {
            (_, Err(CallError::TryAgain)) => {
                let each = keys.iter().zip(&batch.items);
                let each = each
                    .map(|(key, item)| (std::slice::from_ref(key), wire::encode_batch(&batch, std::iter::once(item))));
                let each = each.map(async |(key, batch)| self.understood(self.call(lane, key, batch.into()).await, 1));
                together(join_all(each).await)
            }
            answer => self.understood(answer, keys.len()),
        }
    }

    /// Calls the counter script where the keys are, wherever that is, and says where that was.
    async fn call(&self, lane: LaneId, keys: &[Bytes], batch: Bytes) -> Called {
        let arguments: Vec<Bytes> = [Some(batch), self.fence.clone()].into_iter().flatten().collect();
        let Some(mut server) = self.primary(lane) else { return (None, Err(CallError::NotSent)) };
        let mut answer = server.script(&counter_script::COUNTERS, keys, &arguments, false).await;
        for _ in 0..MAX_HOPS {
            let (elsewhere, asking) = match &answer {
                Err(CallError::Ask(elsewhere)) => (elsewhere, true),
                Err(CallError::Moved(elsewhere)) => (elsewhere, false),
                _ => break,
            };
            if !asking {
                self.stale.notify_one();
            }
            server = self.links.get_or_open(elsewhere);
            server.connected().await;
            answer = server.script(&counter_script::COUNTERS, keys, &arguments, asking).await;
        }
        match &answer {
            Err(CallError::NotSent | CallError::Moved(_)) => self.stale.notify_one(),
            Err(CallError::Refused(why)) => {
                self.stale.notify_one();
                self.complaints.note(&server.address, why);
            }
            _ => {}
        }
        (Some(server), answer)
    }

    fn understood(&self, (server, answer): Called, items: usize) -> Result<BatchReply, StoreError> {
        match answer {
            Ok(answer) => {
                let answer = answer
                    .as_bytes()
                    .ok_or(wire::Malformed)
                    .and_then(|text| wire::decode_reply_with_error(text, items));
                let (answer, complaint) = answer.map_err(|_| StoreError::Unknown)?;
                if let (Some(why), Some(server)) = (complaint, server) {
                    self.complaints.note(&server.address, &why);
                }
                Ok(answer)
            }
            Err(CallError::Unknown) => Err(StoreError::Unknown),
            Err(_) => Err(StoreError::NotApplied),
        }
    }
}

/// The answer to a batch whose items were sent one by one.
fn together(each: Vec<Result<BatchReply, StoreError>>) -> Result<BatchReply, StoreError> {
    let now = each.iter().flatten().map(|answer| answer.now).max();
    let nothing =
        || if each.contains(&Err(StoreError::Unknown)) { StoreError::Unknown } else { StoreError::NotApplied };
    let now = now.ok_or_else(nothing)?;
    let item = |answer: Result<BatchReply, StoreError>| match answer.map(|answer| answer.outcome) {
        Ok(BatchOutcome::Ran(mut items)) => items.pop().unwrap_or(ItemReply::Failed),
        // Nothing was done with it: it is sent once more.
        Ok(BatchOutcome::Late) => ItemReply::OutOfBounds,
        Err(_) => ItemReply::Failed,
    };
    Ok(BatchReply { now, outcome: BatchOutcome::Ran(each.into_iter().map(item).collect()) })
}

impl CounterStore for RedisStore {
    fn lanes(&self) -> u16 {
        self.tags.count()
    }

    fn lane(&self, key: &[u8]) -> LaneId {
        self.tags.of(key)
    }

    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        Box::pin(self.run_batch(lane, batch))
    }

    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut topology = self.topology.clone();
            topology.mark_changed();
            let mut looks = 0u32;
            loop {
                let pause = if self.is_reached() { PROBE_INTERVAL } else { PROBE_INTERVAL / 20 };
                tokio::select! {
                    changed = topology.changed() => {
                        if changed.is_err() {
                            // The region is gone: what is known is kept.
                            std::future::pending::<()>().await;
                        }
                        let known = topology.borrow_and_update().clone();
                        known.iter().for_each(|topology| self.route(topology));
                    }
                    () = tokio::time::sleep(pause) => {
                        self.links.look().await;
                        looks = if self.links.all().is_empty() { 0 } else { looks.saturating_add(1) };
                        if !self.is_reached() {
                            self.see(looks >= PATIENCE);
                        }
                    }
                }
            }
        })
    }
}
