//! The health of the region's Redis, for `/ready`, metrics and the log.

use std::sync::{Arc, PoisonError, Weak};

use super::super::config_audit::{self, ConfigWarning};
use super::super::connection::Connection;
use super::RedisRegion;
use crate::ports::{RegionState, StoreHealth};

impl RedisRegion {
    pub(super) fn region_state(&self) -> RegionState {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let all_stores_reached = stores.iter().filter_map(Weak::upgrade).all(|store| store.is_reached());
        drop(stores);
        let state = self.lock_state();
        let reached = state.reached && all_stores_reached;
        let store = match &state.health {
            StoreHealth::Ok if !reached => StoreHealth::Failing("no answer yet".to_owned()),
            health => health.clone(),
        };
        let advice = state.warnings.iter().map(|warning| warning.text()).collect();
        RegionState { reached, store, advice }
    }

    /// Records the store's health, and logs it if it changed. `found` says that the topology is known, and `problem` is
    /// a problem of discovery, handover or heartbeat.
    pub(super) fn publish_health(&self, found: bool, connections: &[Arc<Connection>], problem: Option<String>) {
        let down: Vec<String> =
            connections.iter().filter(|connection| !connection.is_up()).map(|c| c.address_and_error()).collect();
        let unreachable = problem.is_none() && found && !down.is_empty();
        let reason = match problem {
            Some(problem) => Some(problem),
            None if !found => Some("no answer".to_owned()),
            None if unreachable => Some(format!("no answer from {}", down.join(", "))),
            // Every primary answers, but some return errors to the cores of this node.
            None => self.server_errors.current(),
        };
        let health = reason.map_or(StoreHealth::Ok, StoreHealth::Failing);
        let mut state = self.lock_state();
        if state.health == health {
            return;
        }
        match &health {
            StoreHealth::Ok => tracing::info!("the region's Redis is healthy"),
            StoreHealth::Failing(reason) if unreachable => {
                tracing::warn!(store = reason.as_str(), "some Redis primaries are unreachable");
            }
            StoreHealth::Failing(reason) => tracing::warn!(store = reason.as_str(), "the region's Redis is failing"),
        }
        state.health = health;
    }

    /// Audits the settings of the primaries and records the warnings. Returns the connections to the primaries that
    /// answered.
    pub(super) async fn audit(&self, connections: Vec<Arc<Connection>>) -> Vec<Arc<Connection>> {
        let (mut audited, mut found) = (Vec::new(), Vec::new());
        for connection in connections {
            if let Some(warnings) = config_audit::audit(&connection, self.in_cluster()).await {
                found.extend(warnings);
                audited.push(connection);
            }
        }
        found.sort();
        found.dedup();
        let mut state = self.lock_state();
        for new in found.iter().filter(|new| !state.warnings.contains(new)) {
            tracing::warn!(advice = new.label(), "{}", new.text());
        }
        for warning in ConfigWarning::ALL {
            self.config.metrics.set_advice(warning.label(), found.contains(&warning));
        }
        state.warnings = found;
        audited
    }
}
