//! One connection to each of a set of servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::location::Address;
use super::connect_options::ConnectOptions;
use super::connection::Connection;

/// The connections to a set of servers, at most one to each.
pub struct ConnectionPool {
    options: ConnectOptions,
    connections: Mutex<HashMap<Address, Arc<Connection>>>,
}

impl ConnectionPool {
    pub fn new(options: ConnectOptions) -> Self {
        Self { options, connections: Mutex::default() }
    }

    /// Returns the connection to a server; opens one if there is none. Must be called within a runtime.
    pub fn get_or_open(&self, address: &Address) -> Arc<Connection> {
        let mut connections = self.connections();
        let connection = connections.entry(address.clone());
        Arc::clone(connection.or_insert_with(|| Arc::new(Connection::open(&self.options, address))))
    }

    /// Opens the missing connections to these servers and closes all connections to others. Returns the new
    /// connections. Must be called within a runtime.
    pub fn set_servers(&self, addresses: &[Address]) -> Vec<Arc<Connection>> {
        self.connections().retain(|address, _| addresses.contains(address));
        let new: Vec<&Address> =
            addresses.iter().filter(|address| !self.connections().contains_key(*address)).collect();
        new.into_iter().map(|address| self.get_or_open(address)).collect()
    }

    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.connections().values().cloned().collect()
    }

    /// Sends a `PING` to each server that stopped answering.
    pub async fn probe_unresponsive(&self) {
        futures_util::future::join_all(self.all().iter().map(|connection| connection.probe_if_unresponsive())).await;
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<Address, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
