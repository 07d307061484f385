//! Spreads connections over the cores: the core that accepts a connection hands it to the core that has the fewest.
//!
//! Gateways hold few and long connections. The kernel chooses by hash who accepts one, and could give all of them to
//! one core.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::meter::Budgets;
use super::metrics::{CloseReason, ListenerMetrics};
use super::peers::{PeerBound, Peers};
use crate::telemetry::checks::CheckMetrics;
use crate::tls::ServerTls;

/// The most connections on their way to one core. Further ones stay at the core that accepted them.
const HANDOVER_QUEUE: usize = 64;
/// The pause after a connection could not be accepted, for example because the process has too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts the connections of one core on one listener.
pub struct Acceptor {
    core: usize,
    listener: Arc<SharedListener>,
    handover: mpsc::Receiver<(StdTcpStream, ConnectionGuard)>,
}

/// What the cores of one listener share.
struct SharedListener {
    cores: Box<[CoreSlot]>,
    /// The most open connections.
    max_open: usize,
    metrics: ListenerMetrics,
    budgets: Arc<Budgets>,
    peers: Peers,
    tls: Option<ServerTls>,
}

struct CoreSlot {
    open: AtomicUsize,
    handover: mpsc::Sender<(StdTcpStream, ConnectionGuard)>,
}

/// Counts a connection while it is open.
pub struct ConnectionGuard {
    listener: Arc<SharedListener>,
    core: usize,
    pub peer: SocketAddr,
}

impl ConnectionGuard {
    /// The number of open connections of its core, this one included.
    pub fn open_on_core(&self) -> usize {
        self.listener.cores[self.core].open.load(Ordering::Relaxed).max(1)
    }

    /// The budgets of the listener.
    pub fn budgets(&self) -> Arc<Budgets> {
        Arc::clone(&self.listener.budgets)
    }

    /// True if the peer is a trusted proxy.
    pub fn is_trusted(&self) -> bool {
        self.listener.peers.is_trusted(self.peer.ip())
    }

    /// TLS of the listener, if it has TLS.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.listener.tls.as_ref()
    }

    /// Counts that this node closed the connection, and why.
    pub fn closed(&self, why: CloseReason) {
        self.listener.metrics.closed(why);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.listener.cores[self.core].open.fetch_sub(1, Ordering::Relaxed);
        self.listener.metrics.ended();
        self.listener.peers.ended(self.peer.ip());
    }
}

/// What the clients of one listener may use.
#[derive(Clone, Debug)]
pub struct ListenerBounds {
    /// The most open connections.
    pub max_open: usize,
    /// The most open connections of one peer.
    pub peers: PeerBound,
    /// The budget for requests that are arriving, and the budget for answers that wait to be sent, in bytes each.
    pub budget: usize,
}

/// Makes an acceptor for each of `cores` cores of a listener. `tls` is `None` if the listener is plain.
pub fn acceptors(
    cores: usize,
    bounds: ListenerBounds,
    metrics: ListenerMetrics,
    checks: Arc<CheckMetrics>,
    tls: Option<ServerTls>,
) -> Vec<Acceptor> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::channel(HANDOVER_QUEUE)).unzip();
    let cores = senders.into_iter().map(|handover| CoreSlot { open: AtomicUsize::new(0), handover }).collect();
    let ListenerBounds { max_open, peers, budget } = bounds;
    let budgets = Arc::new(Budgets::new(budget, checks, metrics.cut_answers()));
    let listener = Arc::new(SharedListener { cores, max_open, metrics, budgets, peers: Peers::new(peers), tls });
    let acceptor = |(core, handover)| Acceptor { core, listener: Arc::clone(&listener), handover };
    receivers.into_iter().enumerate().map(acceptor).collect()
}

impl Acceptor {
    /// Returns the next connection of this core: one that `listener` accepts, or that another core hands over.
    pub async fn next(&mut self, listener: &TcpListener) -> (TcpStream, ConnectionGuard) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some((stream, guard)) = self.handover.recv() => match TcpStream::from_std(stream) {
                    Ok(stream) => return (stream, guard),
                    Err(error) => Err(error),
                },
            };
            match accepted {
                Ok((stream, peer)) => {
                    // If this fails, answers are slower, not wrong.
                    let _ = stream.set_nodelay(true);
                    if let Some(kept) = self.keep_or_hand_over(stream, peer) {
                        return kept;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Returns the connection if this core keeps it. Otherwise it was closed, because too many are open, or another
    /// core has fewer and gets it.
    fn keep_or_hand_over(&self, stream: TcpStream, peer: SocketAddr) -> Option<(TcpStream, ConnectionGuard)> {
        let SharedListener { cores, max_open, metrics, peers, .. } = &*self.listener;
        let count = |core: &usize| cores[*core].open.load(Ordering::Relaxed);
        if (0..cores.len()).map(|core| count(&core)).sum::<usize>() >= *max_open {
            metrics.closed(CloseReason::Full);
            return None;
        }
        if !peers.opens(peer.ip()) {
            metrics.closed(CloseReason::Peer);
            return None;
        }
        let guard = |core: usize| {
            cores[core].open.fetch_add(1, Ordering::Relaxed);
            metrics.opened();
            ConnectionGuard { listener: Arc::clone(&self.listener), core, peer }
        };
        // Of several with the fewest, this core is preferred.
        let fewest = (0..cores.len()).min_by_key(|core| (count(core), *core != self.core)).unwrap_or(self.core);
        if fewest == self.core {
            return Some((stream, guard(self.core)));
        }
        let Ok(permit) = cores[fewest].handover.try_reserve() else { return Some((stream, guard(self.core))) };
        match stream.into_std() {
            Ok(stream) => permit.send((stream, guard(fewest))),
            Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::ConnectionMetrics;
    use super::*;
    use crate::telemetry::registry::MetricsRegistry;

    fn acceptors_for(cores: usize, most_of_one_peer: usize) -> (Vec<Acceptor>, MetricsRegistry) {
        let registry = MetricsRegistry::new("0", "test").unwrap();
        let metrics = ConnectionMetrics::new(&registry).unwrap().listener("http");
        let checks = Arc::new(CheckMetrics::new(&registry).unwrap());
        let peers = PeerBound { most: most_of_one_peer, trusted: Vec::new() };
        let bounds = ListenerBounds { max_open: 100, peers, budget: 1 << 20 };
        (acceptors(cores, bounds, metrics, checks, None), registry)
    }

    #[tokio::test]
    async fn one_peer_does_not_take_the_connections_of_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptors, _registry) = acceptors_for(1, 2);
        let open = async |peer: &str| {
            let stream = TcpStream::connect(address).await.unwrap();
            acceptors[0].keep_or_hand_over(stream, format!("{peer}:1").parse().unwrap())
        };
        let mut held = vec![open("203.0.113.1").await.unwrap(), open("203.0.113.1").await.unwrap()];
        assert!(open("203.0.113.1").await.is_none());
        assert!(open("203.0.113.2").await.is_some());
        held.pop();
        assert!(open("203.0.113.1").await.is_some(), "the place of a connection that has ended is free");
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_core_with_the_fewest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut acceptors, _registry) = acceptors_for(2, 100);
        let (mut other, mut first) = (acceptors.pop().unwrap(), acceptors.pop().unwrap());
        let mut clients = Vec::new();
        let mut kept: [Vec<ConnectionGuard>; 2] = Default::default();
        while kept.iter().map(Vec::len).sum::<usize>() < 8 {
            clients.push(TcpStream::connect(address).await.unwrap());
            // The first core accepts all of them.
            tokio::select! {
                (_, open) = first.next(&listener) => kept[0].push(open),
                (_, open) = other.next(&elsewhere) => kept[1].push(open),
            }
        }
        assert_eq!(kept.each_ref().map(Vec::len), [4, 4]);
        // The next ones go where connections have ended.
        kept[0].clear();
        for _ in 0..4 {
            clients.push(TcpStream::connect(address).await.unwrap());
            tokio::select! {
                (_, open) = first.next(&listener) => kept[0].push(open),
                (_, open) = other.next(&elsewhere) => kept[1].push(open),
            }
        }
        assert_eq!(kept.map(|open| open.len()), [4, 4]);
    }
}
