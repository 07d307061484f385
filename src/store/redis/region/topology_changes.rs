//! Changes of the topology: when to look for one, fencing a replaced primary, and telling the stores.

use std::sync::Arc;

use bytes::Bytes;

use super::super::fence::{self, Fence, Handover};
use super::super::topology::Topology;
use super::RedisRegion;
use crate::store::location::Address;

/// An old primary that did not answer gets its fence retried for this many heartbeats.
const FENCE_RETRIES: u32 = 60;

/// Whether the stores may use a topology.
pub(super) enum Switch {
    Allowed,
    /// The new address leads to the known server: the known topology stays.
    SameServer,
    /// The stores may not use it yet, for this reason: the known topology stays, and the switch is retried.
    Blocked(String),
}

/// The fences of old primaries that did not answer.
#[derive(Default)]
pub(super) struct PendingFences(Vec<(Fence, u32)>);

impl PendingFences {
    /// Adds the fences of old primaries that did not answer a switch to `new`. Fences of earlier switches stay, except
    /// that of a server that is the new primary.
    fn add(&mut self, unfenced: Vec<Fence>, new: &Address) {
        self.0.retain(|(fence, _)| fence.address() != new && unfenced.iter().all(|f| f.address() != fence.address()));
        self.0.extend(unfenced.into_iter().map(|fence| (fence, FENCE_RETRIES)));
    }

    /// Retries all fences. Drops a fence once the old primary answers, or after [`FENCE_RETRIES`] heartbeats. Until
    /// then a node may still call that primary.
    pub(super) async fn retry(&mut self, on_heartbeat: bool) {
        let mut pending = Vec::new();
        for (fence, retries) in self.0.drain(..) {
            if fence.set().await.is_none() && retries > 0 {
                pending.push((fence, retries - u32::from(on_heartbeat)));
            }
        }
        self.0 = pending;
    }
}

impl RedisRegion {
    /// Prepares the switch of the stores to a topology: if it has another primary than the known one, fences the old
    /// primary first. A cluster needs no fence, because it has its own protection.
    pub(super) async fn prepare_switch(&self, topology: &Topology, fences: &mut PendingFences) -> Switch {
        let known = self.topology.borrow().clone();
        let (Some(known), Some(key), [new]) = (known, self.fence_key(), &*topology.primaries()) else {
            return Switch::Allowed;
        };
        if *known == *topology {
            return Switch::Allowed;
        }
        match fence::hand_over(&self.pool, &known.primaries(), new, &key).await {
            Ok(Handover::Done(unfenced)) => {
                fences.add(unfenced, new);
                Switch::Allowed
            }
            Ok(Handover::SameServer) => Switch::SameServer,
            Err(reason) => Switch::Blocked(reason),
        }
    }

    /// Returns the key that says that a server was replaced; `None` in a cluster.
    pub(super) fn fence_key(&self) -> Option<Bytes> {
        (!self.in_cluster()).then(|| self.key("fence"))
    }

    /// Gives the stores a topology that is new to them. They get their first topology only after the region's constants
    /// were `compared`.
    pub(super) fn publish_topology(&self, topology: &Arc<Topology>, compared: bool) {
        self.topology.send_if_modified(|known| {
            let changed = known.as_ref() != Some(topology) && (compared || known.is_some());
            if changed {
                let primaries: Vec<String> = topology.primaries().iter().map(ToString::to_string).collect();
                tracing::info!(?primaries, "using the region's Redis primaries");
                *known = Some(Arc::clone(topology));
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::connection_pool::ConnectionPool;
    use super::super::tests::region;
    use super::*;

    #[tokio::test]
    async fn a_fence_stays_pending_after_the_next_switch_and_ends_when_its_server_is_primary_again() {
        let pool = ConnectionPool::new(region().options);
        // Nothing listens on these ports.
        let [a, b, c] = [1, 2, 3].map(|port| Address::new("127.0.0.1".to_owned(), port));
        let fence = |old: &Address| vec![Fence::new(pool.get_or_open(old), "key".into(), "successor".into())];
        let pending =
            |fences: &PendingFences| fences.0.iter().map(|(fence, _)| fence.address().port).collect::<Vec<_>>();
        let mut fences = PendingFences::default();
        fences.add(fence(&a), &b);
        fences.add(fence(&b), &c);
        assert_eq!(pending(&fences), [1, 2]);
        fences.add(fence(&c), &a);
        assert_eq!(pending(&fences), [2, 3]);
        fences.add(fence(&b), &a);
        assert_eq!(pending(&fences), [3, 2], "each server has one fence");
    }
}
