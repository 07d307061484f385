//! The loop that keeps a node in its region: discovery, heartbeats, fences, pings and audits.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::super::connection::Connection;
use super::super::topology::Topology;
use super::heartbeat::HeartbeatError;
use super::topology_changes::{PendingFences, Switch};
use super::{RedisRegion, Unfit};

/// The time between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two rounds that a stale topology causes.
const STALE_PAUSE: Duration = Duration::from_millis(100);
/// Discovery that is not cheap runs with every fifth heartbeat.
const DISCOVER_EVERY: u32 = 5;
/// The settings of the primaries are audited with every 15th heartbeat.
const AUDIT_EVERY: u32 = 15;

/// What the loop remembers between two rounds.
#[derive(Default)]
struct LoopState {
    heartbeats: u32,
    topology: Option<Arc<Topology>>,
    /// The last error of discovery.
    discovery_error: Option<String>,
    fences: PendingFences,
    /// The connections whose servers were audited.
    audited: Vec<Arc<Connection>>,
}

impl RedisRegion {
    /// Runs until the node must not serve. The stores get no topology, and thus send nothing, before the region's
    /// constants were compared.
    pub(super) async fn run_control_loop(&self) -> Unfit {
        let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = LoopState::default();
        loop {
            // A topology that seems stale causes a round between two heartbeats.
            let on_heartbeat = tokio::select! {
                _ = ticks.tick() => true,
                () = self.topology_stale.notified() => false,
            };
            if let Err(unfit) = self.run_round(&mut state, on_heartbeat).await {
                return unfit;
            }
            if on_heartbeat {
                state.heartbeats = state.heartbeats.wrapping_add(1);
                self.server_errors.age();
            } else {
                tokio::time::sleep(STALE_PAUSE).await;
            }
        }
    }

    async fn run_round(&self, state: &mut LoopState, on_heartbeat: bool) -> Result<(), Unfit> {
        self.discover(state, on_heartbeat).await;
        let mut problem = if state.topology.is_none() { state.discovery_error.clone() } else { None };
        if let Some(topology) = &state.topology {
            match self.prepare_switch(topology, &mut state.fences).await {
                Switch::Allowed => {}
                Switch::SameServer => state.topology = self.topology.borrow().clone(),
                Switch::Blocked(reason) => {
                    problem = Some(reason);
                    self.topology_stale.notify_one();
                    state.topology = self.topology.borrow().clone();
                }
            }
        }
        if let Some(topology) = &state.topology {
            // New primaries get time to connect before they count as down.
            let new = self.pool.set_servers(&topology.primaries());
            join_all(new.iter().map(|connection| connection.wait_connected())).await;
            let compared = match self.heartbeat(topology, on_heartbeat).await {
                Ok(()) => true,
                Err(HeartbeatError::Unfit(unfit)) => return Err(unfit),
                Err(HeartbeatError::Failed(error)) => {
                    problem = Some(error);
                    false
                }
                Err(HeartbeatError::NoAnswer) => {
                    problem = None;
                    false
                }
            };
            // After one comparison the stores get every topology: one dead primary must not cost the others.
            self.publish_topology(topology, compared);
        }
        state.fences.retry(on_heartbeat).await;
        self.pool.probe_unresponsive().await;
        let connections = self.pool.all();
        join_all(connections.iter().map(|connection| connection.ping())).await;
        self.publish_health(state.topology.is_some(), &connections, problem);
        if on_heartbeat {
            self.audit_when_due(state, connections).await;
        }
        Ok(())
    }

    /// Looks for the current topology if it may have changed, if it has gaps, if a primary is down, or if it is time.
    async fn discover(&self, state: &mut LoopState, on_heartbeat: bool) {
        let connections = self.pool.all();
        let all_up = connections.iter().all(|connection| connection.is_up());
        let complete = state.topology.as_ref().is_some_and(|topology| topology.covers_all_slots());
        let due = self.discovery.is_cheap() || state.heartbeats.is_multiple_of(DISCOVER_EVERY);
        if on_heartbeat && all_up && complete && !due {
            return;
        }
        match self.discovery.find(&connections).await {
            Ok(topology) => state.topology = Some(Arc::new(topology)),
            Err(error) => state.discovery_error = Some(error).filter(|error| !error.is_empty()),
        }
    }

    /// Audits the primaries that are up, every 15th heartbeat or if there is one that was not audited yet.
    async fn audit_when_due(&self, state: &mut LoopState, connections: Vec<Arc<Connection>>) {
        let up: Vec<_> = connections.into_iter().filter(|connection| connection.is_up()).collect();
        let audited = |connection: &Arc<Connection>| state.audited.iter().any(|other| Arc::ptr_eq(other, connection));
        if state.heartbeats.is_multiple_of(AUDIT_EVERY) || !up.iter().all(audited) {
            state.audited = self.audit(up).await;
        }
    }
}
