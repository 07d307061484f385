//! The composition root: one current-thread runtime and one shard per core, sharing nothing but the store.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ractor::Actor;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::actors::core::Core;
use crate::actors::flusher::{Flusher, Message};
use crate::api::http;
use crate::limiter::rule_book::RuleBook;
use crate::limiter::shard::ShardConfig;
use crate::limiter::time::{NodeTime, StoreTime};
use crate::ports::{Clock, CounterStore};
use crate::store::memory::MemoryStore;

/// The clocks of this machine.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[expect(clippy::new_without_default, reason = "it reads a clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> StoreTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        StoreTime(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// What a node is started with.
pub struct NodeConfig {
    pub http: SocketAddr,
    /// Cores to serve on.
    pub workers: usize,
}

/// Serves until `shutdown` says true; `rules` is followed.
pub fn run(
    config: &NodeConfig,
    rules: watch::Receiver<Arc<RuleBook>>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let holders = u32::try_from(config.workers).unwrap_or(u32::MAX);
    std::thread::scope(|scope| {
        let mut cores = Vec::new();
        for _ in 0..config.workers {
            let core = Core::new(shard_config(holders, store.lanes())?, Arc::clone(&clock), Arc::clone(&store));
            let (rules, shutdown, http) = (rules.clone(), shutdown.clone(), config.http);
            cores.push(scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(serve(Arc::new(core), http, rules, shutdown))
            }));
        }
        cores.into_iter().try_for_each(|core| core.join().unwrap_or_else(|_| Err(io::Error::other("a core panicked"))))
    })
}

fn shard_config(holders: u32, lanes: u16) -> io::Result<ShardConfig> {
    let mut seeds = [0; 4];
    for seed in &mut seeds {
        *seed = getrandom::u64().map_err(io::Error::other)?;
    }
    Ok(ShardConfig {
        max_keys: 1_000_000,
        max_waiting: 100_000,
        lease_us: 1_000_000,
        deadline_us: 100_000,
        holders,
        min_holders: 3,
        lanes,
        max_items: 1000,
        seeds,
    })
}

async fn serve(
    core: Arc<Core>,
    http: SocketAddr,
    mut rules: watch::Receiver<Arc<RuleBook>>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let (flusher, flushing) = Actor::spawn(None, Flusher, Arc::clone(&core)).await.map_err(io::Error::other)?;
    let follower = flusher.clone();
    let first = Arc::clone(&rules.borrow_and_update());
    follower.cast(Message::Rules(first)).map_err(io::Error::other)?;
    let following = tokio::spawn(async move {
        while rules.changed().await.is_ok() {
            let book = Arc::clone(&rules.borrow_and_update());
            if follower.cast(Message::Rules(book)).is_err() {
                break;
            }
        }
    });
    let ready = Arc::clone(&core);
    let routes = http::routes(core, Arc::new(move || ready.revision() > 0));
    let stop = async move {
        // A sender that is gone is a node that stops.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    axum::serve(listen(http)?, routes).with_graceful_shutdown(stop).await?;
    following.abort();
    flusher.stop(None);
    let _ = flushing.await;
    Ok(())
}

/// Every core listens for itself on the same address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
