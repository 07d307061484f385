//! Connections over cores: whoever accepts one gives it to the core that has the fewest. Gateways hold few and long ones, of
//! which the kernel's choice by hash may give all to one core.

use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::metered::Reading;
use crate::telemetry::connections::{Closed, Connections};

/// Connections under way from one core to another at most; those that do not fit stay where they came in.
const HANDED: usize = 64;
/// How long to wait when no connection can be accepted, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One core's share of a face's connections.
pub struct Share {
    own: usize,
    face: Arc<Face>,
    handed: mpsc::Receiver<(StdTcpStream, Open)>,
}

/// What the cores of a face share.
struct Face {
    cores: Box<[Core]>,
    /// Connections that may be open at once.
    most: usize,
    counted: Connections,
    reading: Arc<Reading>,
}

struct Core {
    open: AtomicUsize,
    hand: mpsc::Sender<(StdTcpStream, Open)>,
}

/// Counts a connection for as long as it is open.
pub struct Open {
    face: Arc<Face>,
    core: usize,
    pub peer: SocketAddr,
}

impl Open {
    /// How many connections its core has, this one among them.
    pub fn neighbours(&self) -> usize {
        self.face.cores[self.core].open.load(Ordering::Relaxed).max(1)
    }

    /// What its face is reading.
    pub fn reading(&self) -> Arc<Reading> {
        Arc::clone(&self.face.reading)
    }

    /// Counts why it is closed before its time.
    pub fn closed(&self, why: Closed) {
        self.face.counted.closed(why);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.face.cores[self.core].open.fetch_sub(1, Ordering::Relaxed);
        self.face.counted.ended();
    }
}

/// A share for each of `count` cores of a face that has `most` connections at once.
pub fn over(count: usize, most: usize, counted: Connections, reading: Reading) -> Vec<Share> {
    let (hands, received): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED)).unzip();
    let cores = hands.into_iter().map(|hand| Core { open: AtomicUsize::new(0), hand }).collect();
    let face = Arc::new(Face { cores, most, counted, reading: Arc::new(reading) });
    let share = |(own, handed)| Share { own, face: Arc::clone(&face), handed };
    received.into_iter().enumerate().map(share).collect()
}

impl Share {
    /// The next connection of this core: one that `listener` accepts or another core hands over.
    pub async fn next(&mut self, listener: &TcpListener) -> (TcpStream, Open) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some((stream, open)) = self.handed.recv() => match TcpStream::from_std(stream) {
                    Ok(stream) => return (stream, open),
                    Err(error) => Err(error),
                },
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Without it answers only come later.
                    let _ = stream.set_nodelay(true);
                    if let Some(kept) = self.keep_or_hand(stream, peer) {
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

    /// The connection, where this core is to have it: not where there are as many as may be, or another core has fewer.
    fn keep_or_hand(&self, stream: TcpStream, peer: SocketAddr) -> Option<(TcpStream, Open)> {
        let Face { cores, most, counted, .. } = &*self.face;
        let count = |core: &usize| cores[*core].open.load(Ordering::Relaxed);
        if (0..cores.len()).map(|core| count(&core)).sum::<usize>() >= *most {
            counted.closed(Closed::Full);
            return None;
        }
        let open = |core: usize| {
            cores[core].open.fetch_add(1, Ordering::Relaxed);
            counted.opened();
            Open { face: Arc::clone(&self.face), core, peer }
        };
        // This core is as good as any other that has as few.
        let fewest = (0..cores.len()).min_by_key(|core| (count(core), *core != self.own)).unwrap_or(self.own);
        if fewest == self.own {
            return Some((stream, open(self.own)));
        }
        let Ok(permit) = cores[fewest].hand.try_reserve() else { return Some((stream, open(self.own))) };
        match stream.into_std() {
            Ok(stream) => permit.send((stream, open(fewest))),
            Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn whoever_accepts_hands_to_the_core_with_the_fewest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new("0", "test").unwrap());
        let mut shares = over(2, 100, metrics.connections("http"), Reading::new(metrics));
        let (mut other, mut first) = (shares.pop().unwrap(), shares.pop().unwrap());
        let mut clients = Vec::new();
        let mut kept: [Vec<Open>; 2] = Default::default();
        while kept.iter().map(Vec::len).sum::<usize>() < 8 {
            clients.push(TcpStream::connect(address).await.unwrap());
            // All of them come in at the first core.
            tokio::select! {
                (_, open) = first.next(&listener) => kept[0].push(open),
                (_, open) = other.next(&elsewhere) => kept[1].push(open),
            }
        }
        assert_eq!(kept.each_ref().map(Vec::len), [4, 4]);
        // Where one of them has ended the next one goes.
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
