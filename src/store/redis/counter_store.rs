//! One core's access to the counters: sends each batch to the primary of its lane, and decodes the reply.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};

use super::call_error::CallError;
use super::connection::Connection;
use super::connection_pool::ConnectionPool;
use super::server_errors::ServerErrors;
use super::topology::Topology;
use crate::ports::{BoxFuture, CounterStore, Replicated};
use counter_script::{Tags, wire};
use limiter::counter::{Batch, BatchOutcome, BatchReply, Item, ItemReply, StoreError};
use limiter::{LaneId, PROBE_INTERVAL};

/// How often a batch follows a redirection while slots move.
const MAX_REDIRECTIONS: usize = 3;
/// How many probes a store that starts waits for all primaries. Then one connected primary is enough.
const MAX_STARTING_PROBES: u32 = 200;
/// How much more often a store that starts is probed.
const STARTING_PROBES_PER_INTERVAL: u32 = 20;

/// The server that was called last, and its reply.
type Called = (Option<Arc<Connection>>, Result<Value, CallError>);

/// One core's access to the counters of a region.
pub struct RedisStore {
    pub(super) tags: Arc<Tags>,
    /// The prefix of the keys of each tag.
    pub(super) key_prefixes: Vec<Vec<u8>>,
    /// The key that says that a server was replaced. `None` in a cluster, which has its own protection.
    pub(super) fence_key: Option<Bytes>,
    pub(super) pool: ConnectionPool,
    /// The connection to the primary of each tag.
    pub(super) primaries: Mutex<Vec<Option<Arc<Connection>>>>,
    pub(super) topology: watch::Receiver<Option<Arc<Topology>>>,
    /// Notified when the topology seems to have changed.
    pub(super) topology_stale: Arc<Notify>,
    pub(super) server_errors: Arc<ServerErrors>,
    /// How long a batch waits for a replica, in milliseconds.
    pub(super) wait_ms: u64,
    /// True while the region's constants differ from this node's.
    pub(super) constants_differ: Arc<AtomicBool>,
    /// True once the store was connected, see [`Self::is_reached`].
    pub(super) reached: AtomicBool,
}

impl RedisStore {
    /// Returns the connection to the primary of a lane's tag; `None` if no primary is known, or none may be used.
    fn primary(&self, lane: LaneId) -> Option<Arc<Connection>> {
        if self.constants_differ.load(Ordering::Relaxed) {
            return None;
        }
        self.primaries.lock().unwrap_or_else(PoisonError::into_inner).get(usize::from(lane.0)).cloned().flatten()
    }

    /// True if the store was once connected to all primaries, or to at least one of them when the time for starting was
    /// over.
    pub(super) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Records that the store is connected, if it is. `timed_out` says that the time for starting is over.
    fn update_reached(&self, timed_out: bool) {
        let connections = self.pool.all();
        let up = connections.iter().filter(|connection| connection.is_up()).count();
        if up > 0 && (up == connections.len() || timed_out) {
            self.reached.store(true, Ordering::Relaxed);
        }
    }

    /// Connects to the primaries of a topology and closes all other connections.
    fn apply_topology(&self, topology: &Topology) {
        self.pool.set_servers(&topology.primaries());
        let primary = |(_, slot)| topology.primary(slot).map(|address| self.pool.get_or_open(address));
        *self.primaries.lock().unwrap_or_else(PoisonError::into_inner) = self.tags.each().map(primary).collect();
    }

    /// Runs a batch on the primary of a lane, which must have all its keys, and asks its replicas.
    async fn run_batch_durably(&self, lane: LaneId, batch: Batch) -> Result<(BatchReply, Replicated), StoreError> {
        let prefix = self.key_prefixes.get(usize::from(lane.0)).ok_or(StoreError::NotApplied)?;
        let server = self.primary(lane).ok_or(StoreError::NotApplied)?;
        if !server.has_replica() {
            return Ok((self.run_batch(lane, batch).await?, Replicated::NoReplica));
        }
        let keys = script_keys(prefix, &batch.items);
        let encoded = wire::encode_batch(&batch, batch.items.iter()).into();
        let arguments: Vec<Bytes> = [Some(encoded), self.fence_key.clone()].into_iter().flatten().collect();
        let called = server.run_script_and_wait(&counter_script::COUNTERS, &keys, &arguments, self.wait_ms).await;
        let (reply, replicas) = match called {
            Ok((reply, replicas)) => (Ok(reply), replicas),
            Err(error) => {
                self.topology_stale.notify_one();
                (Err(error), 0)
            }
        };
        let reply = self.decode_reply((Some(Arc::clone(&server)), reply), batch.items.len())?;
        if replicas > 0 {
            return Ok((reply, Replicated::Yes));
        }
        server.set_has_replica(ask_for_replica(&server).await);
        Ok((reply, if server.has_replica() { Replicated::NotYet } else { Replicated::NoReplica }))
    }

    async fn run_batch(&self, lane: LaneId, batch: Batch) -> Result<BatchReply, StoreError> {
        let prefix = self.key_prefixes.get(usize::from(lane.0)).ok_or(StoreError::NotApplied)?;
        let reachable = match self.primary(lane) {
            // A primary that was just found, as while slots move, gets time to connect.
            Some(primary) => primary.is_up() || primary.is_connecting() && primary.wait_connected().await,
            None => false,
        };
        if !reachable {
            // An empty batch only reads the store's clock.
            if !batch.items.is_empty() {
                self.topology_stale.notify_one();
            }
            return Err(StoreError::NotApplied);
        }
        let keys = script_keys(prefix, &batch.items);
        let encoded = wire::encode_batch(&batch, batch.items.iter()).into();
        match self.call(lane, &keys, encoded).await {
            (_, Err(CallError::TryAgain)) => {
                // The slot is moving and its keys are on two servers: each item is sent alone.
                let calls = batch.items.iter().map(async |item| {
                    let item = std::slice::from_ref(item);
                    let encoded = wire::encode_batch(&batch, item.iter()).into();
                    self.decode_reply(self.call(lane, &script_keys(prefix, item), encoded).await, 1)
                });
                combine_replies(join_all(calls).await)
            }
            called => self.decode_reply(called, batch.items.len()),
        }
    }

    /// Runs the counter script on the server that has the keys, and follows redirections.
    async fn call(&self, lane: LaneId, keys: &[Bytes], batch: Bytes) -> Called {
        let arguments: Vec<Bytes> = [Some(batch), self.fence_key.clone()].into_iter().flatten().collect();
        let Some(mut server) = self.primary(lane) else { return (None, Err(CallError::NotSent)) };
        let mut reply = server.run_script(&counter_script::COUNTERS, keys, &arguments, false).await;
        for _ in 0..MAX_REDIRECTIONS {
            let (target, asking) = match &reply {
                Err(CallError::Ask(target)) => (target, true),
                Err(CallError::Moved(target)) => (target, false),
                _ => break,
            };
            if !asking {
                self.topology_stale.notify_one();
            }
            server = self.pool.get_or_open(target);
            server.wait_connected().await;
            reply = server.run_script(&counter_script::COUNTERS, keys, &arguments, asking).await;
        }
        match &reply {
            Err(CallError::NotSent | CallError::Moved(_)) => self.topology_stale.notify_one(),
            Err(CallError::ServerError(error)) => {
                self.topology_stale.notify_one();
                self.server_errors.record(&server.address, error);
            }
            Err(CallError::Interrupted(error)) => self.server_errors.record(&server.address, error),
            _ => {}
        }
        (Some(server), reply)
    }

    fn decode_reply(&self, (server, reply): Called, items: usize) -> Result<BatchReply, StoreError> {
        match reply {
            Ok(reply) => {
                let reply =
                    reply.as_bytes().ok_or(wire::Malformed).and_then(|text| wire::decode_reply_with_error(text, items));
                let (reply, item_error) = reply.map_err(|_| StoreError::Unknown)?;
                if let (Some(error), Some(server)) = (item_error, server) {
                    self.server_errors.record(&server.address, &error);
                }
                Ok(reply)
            }
            Err(CallError::Interrupted(_) | CallError::Unknown) => Err(StoreError::Unknown),
            Err(_) => Err(StoreError::NotApplied),
        }
    }
}

/// The keys that the script needs for these items.
fn script_keys(prefix: &[u8], items: &[Item]) -> Vec<Bytes> {
    wire::keys(prefix, items.iter()).into_iter().map(Bytes::from).collect()
}

/// True if a primary has a replica, even one that does not answer. A primary outside of a cluster forgets a replica
/// that has left. True if it is not known.
async fn ask_for_replica(server: &Connection) -> bool {
    if let Ok(nodes) = server.command("CLUSTER", &["NODES"]).await {
        return nodes.as_string().is_none_or(|nodes| cluster_has_replica(&nodes));
    }
    let info = server.command("INFO", &["replication"]).await.ok().and_then(|info| info.as_string());
    info.is_none_or(|info| !info.contains("connected_slaves:0"))
}

/// True if a replica follows the server that gave this answer to `CLUSTER NODES`.
fn cluster_has_replica(nodes: &str) -> bool {
    let fields = |line: &'_ str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let all: Vec<Vec<String>> = nodes.lines().map(fields).collect();
    let own =
        all.iter().find(|fields| fields.get(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself")));
    own.and_then(|own| own.first())
        .is_none_or(|id| all.iter().any(|fields| fields.get(3).is_some_and(|primary| primary == id)))
}

/// Combines the replies to a batch whose items were sent one by one.
fn combine_replies(replies: Vec<Result<BatchReply, StoreError>>) -> Result<BatchReply, StoreError> {
    let now = replies.iter().flatten().map(|reply| reply.now).max();
    let error =
        || if replies.contains(&Err(StoreError::Unknown)) { StoreError::Unknown } else { StoreError::NotApplied };
    let now = now.ok_or_else(error)?;
    let item = |reply: Result<BatchReply, StoreError>| match reply.map(|reply| reply.outcome) {
        Ok(BatchOutcome::Ran(mut items)) => items.pop().unwrap_or(ItemReply::Failed),
        // The item was not applied: it is sent once more.
        Ok(BatchOutcome::Late) => ItemReply::OutOfBounds { newest_ms: 0 },
        Err(_) => ItemReply::Failed,
    };
    Ok(BatchReply { now, outcome: BatchOutcome::Ran(replies.into_iter().map(item).collect()) })
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

    fn run_durably(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<(BatchReply, Replicated), StoreError>> {
        Box::pin(self.run_batch_durably(lane, batch))
    }

    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut topology = self.topology.clone();
            topology.mark_changed();
            let mut probes = 0u32;
            loop {
                let pause =
                    if self.is_reached() { PROBE_INTERVAL } else { PROBE_INTERVAL / STARTING_PROBES_PER_INTERVAL };
                tokio::select! {
                    changed = topology.changed() => {
                        if changed.is_err() {
                            // The region is gone: the last topology stays in use.
                            std::future::pending::<()>().await;
                        }
                        let known = topology.borrow_and_update().clone();
                        known.iter().for_each(|topology| self.apply_topology(topology));
                    }
                    () = tokio::time::sleep(pause) => {
                        self.pool.probe_unresponsive().await;
                        for server in self.pool.all().into_iter().filter(|server| !server.has_replica()) {
                            // Without an answer, whoever waits for a replica asks again.
                            server.set_has_replica(ask_for_replica(&server).await);
                        }
                        probes = if self.pool.all().is_empty() { 0 } else { probes.saturating_add(1) };
                        if !self.is_reached() {
                            self.update_reached(probes >= MAX_STARTING_PROBES);
                        }
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::cluster_has_replica;

    #[test]
    fn a_replica_counts_although_it_has_failed() {
        let nodes = |flags: &str, primary: &str| {
            format!(
                "a1 10.0.0.1:1@2 master - 0 0 1 connected 0-1\nb2 10.0.0.2:1@2 myself,master - 0 0 2 connected 2-3\n\
                 c3 10.0.0.3:1@2 {flags} {primary} 0 0 3 connected\n"
            )
        };
        assert!(cluster_has_replica(&nodes("slave,fail", "b2")));
        assert!(!cluster_has_replica(&nodes("slave", "a1")), "it is that of another primary");
        assert!(cluster_has_replica("no answer that is understood"), "it is not known");
    }
}
