//! The listeners, and the connections that they accept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{Config, Listen};
use crate::connection;
use crate::network::Network;

/// How long a listener waits when the process has no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A proxy that listens.
pub struct Proxy {
    pub network: Arc<Network>,
    listeners: Vec<(TcpListener, Listen)>,
    connections: Arc<Semaphore>,
    buffer: usize,
    /// Connections from addresses of no region, and those beyond the limit. They were closed at once.
    rejected: AtomicU64,
}

impl Proxy {
    /// Opens all listeners.
    ///
    /// # Errors
    ///
    /// Names the address that cannot be listened at.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for listen in &config.listen {
            let bound = TcpListener::bind(listen.address).await;
            let listener =
                bound.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", listen.address)))?;
            listeners.push((listener, listen.clone()));
        }
        Ok(Self {
            network: Arc::new(Network::new(config)),
            listeners,
            connections: Arc::new(Semaphore::new(config.max_connections)),
            buffer: config.buffer_bytes,
            rejected: AtomicU64::new(0),
        })
    }

    /// The addresses of the listeners, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// When the system does not know the address of a listener.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(|(listener, _)| listener.local_addr()).collect()
    }

    /// The connections that were closed at once: from addresses of no region, and beyond the limit.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Serves until it is dropped, and all connections with it.
    pub async fn run(self: Arc<Self>) {
        let mut accepting = JoinSet::new();
        for at in 0..self.listeners.len() {
            let own = Arc::clone(&self);
            accepting.spawn(async move { own.accept(at).await });
        }
        while accepting.join_next().await.is_some() {}
    }

    /// Accepts the connections of one listener and serves them.
    async fn accept(&self, at: usize) {
        let Some((listener, listen)) = self.listeners.get(at) else { return };
        let mut serving = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, from)) => self.admit(client, from, listen, &mut serving),
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                },
                Some(_) = serving.join_next() => {}
            }
        }
    }

    fn admit(&self, client: TcpStream, from: SocketAddr, listen: &Listen, serving: &mut JoinSet<()>) {
        let links = self.network.region_of(from.ip()).and_then(|region| self.network.links(region, &listen.region));
        let (Some(links), Ok(permit)) = (links, Arc::clone(&self.connections).try_acquire_owned()) else {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return;
        };
        links.out.count_connection();
        let (target, buffer) = (listen.target, self.buffer);
        serving.spawn(async move {
            connection::serve(client, target, links, buffer).await;
            drop(permit);
        });
    }
}
