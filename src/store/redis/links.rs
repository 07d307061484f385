//! A connection to each of a set of servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Manner};
use super::location::Address;

pub struct Links {
    manner: Manner,
    open: Mutex<HashMap<Address, Arc<Connection>>>,
}

impl Links {
    pub fn new(manner: Manner) -> Self {
        Self { manner, open: Mutex::default() }
    }

    /// The connection to a server, begun where there is none. To be called within a runtime.
    pub fn get_or_open(&self, address: &Address) -> Arc<Connection> {
        let mut open = self.open();
        let connection = open.entry(address.clone());
        Arc::clone(connection.or_insert_with(|| Arc::new(Connection::open(&self.manner, address))))
    }

    /// Keeps connections to these servers and no others; answers which are new. To be called within a runtime.
    pub fn keep(&self, addresses: &[Address]) -> Vec<Arc<Connection>> {
        self.open().retain(|address, _| addresses.contains(address));
        let new: Vec<&Address> = addresses.iter().filter(|address| !self.open().contains_key(*address)).collect();
        new.into_iter().map(|address| self.get_or_open(address)).collect()
    }

    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.open().values().cloned().collect()
    }

    /// Looks after those that fell silent.
    pub async fn look(&self) {
        futures_util::future::join_all(self.all().iter().map(|connection| connection.look())).await;
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Address, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
