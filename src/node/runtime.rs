//! Runs a node: one thread and one runtime per core, and one runtime for the background services.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use limiter::{MAX_ITEMS, ShardConfig};
use tokio::sync::{mpsc, watch};

use super::services::Services;
use super::state::NodeState;
use super::worker::CoreWorker;
use super::{Environment, Failure, NodeConfig};
use crate::actors::core::Core;
use crate::api::batches::BatchGate;
use crate::api::check_service::{CheckService, room_for_keys};
use crate::api::http::HttpState;
use crate::api::http::forward_auth::ForwardAuth;
use crate::api::request_id::RequestIds;
use crate::host::listeners::Listeners;
use crate::ports::{Fatal, Limiter, NodeStatus};
use crate::server::balance::{ListenerBounds, acceptors};
use crate::server::meter::CHECK_BUDGET;
use crate::server::peers::PeerBound;
use crate::tls::{HTTP1, HTTP2};

/// How long the end of a runtime may wait for blocking calls, such as reading a file from a server that is gone.
const MAX_BLOCKED: Duration = Duration::from_millis(500);
/// Threads of the runtime for background services.
const CONTROL_THREADS: usize = 2;

/// Serves until `shutdown` is true, or a core or a service fails. Then every core stops accepting, answers the requests
/// in flight and gives its tokens back, all within the drain time.
///
/// # Errors
/// The first failure of a service; otherwise that of a core.
pub fn run(
    config: &NodeConfig,
    environment: &Environment,
    http: Listeners,
    grpc: Listeners,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let Environment { services, .. } = environment;
    let cores = (0..config.workers.get()).map(|_| new_core(config, environment));
    let cores: Vec<Arc<Core>> = cores.collect::<io::Result<_>>()?;
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(CONTROL_THREADS).enable_all().build()?;
    let handle = control.handle().clone();
    let status = NodeState::new(cores.clone(), environment, handle);
    let (opening, opened) = watch::channel(false);
    let workers = workers(config, environment, cores, &status, &opened, (http, grpc))?;
    // If one core fails, all cores stop.
    let (failing, failed) = watch::channel(false);
    std::thread::scope(|scope| {
        // Every core holds a sender until it ends, so the receiver has an end once all cores have ended.
        let (core_alive, mut all_cores_ended) = mpsc::channel::<()>(1);
        let mut threads = Vec::new();
        for worker in workers {
            let (status, stop) = (status.clone(), stop(shutdown.clone(), failed.clone()));
            let (failing, core_alive) = (failing.clone(), core_alive.clone());
            threads.push(scope.spawn(move || {
                let serve = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let ended = runtime.block_on(worker.serve(status, stop));
                    runtime.shutdown_timeout(MAX_BLOCKED);
                    ended
                };
                // A panic that the core does not catch ends the node, as any other failure of a core.
                let ended = std::panic::catch_unwind(AssertUnwindSafe(serve))
                    .unwrap_or_else(|_| Err(io::Error::other("a core panicked")));
                if ended.is_err() {
                    failing.send_replace(true);
                }
                drop(core_alive);
                ended
            }));
        }
        drop(core_alive);
        let fatal = control.block_on(async {
            let mut services = Services::start(services.clone());
            let fatal = tokio::select! {
                fatal = services.failed() => Some(fatal),
                _ = all_cores_ended.recv() => None,
                never = status.open_when_ready(&opening) => match never {},
            };
            if fatal.is_some() {
                failing.send_replace(true);
                all_cores_ended.recv().await;
            }
            // After a configuration error the node has no membership to end.
            if !matches!(fatal, Some(Fatal::Configuration(_))) {
                services.stop().await;
            }
            fatal
        });
        control.shutdown_timeout(MAX_BLOCKED);
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        if let Some(fatal) = fatal {
            return Err(fatal.into());
        }
        let core = |core: std::thread::Result<io::Result<()>>| {
            core.unwrap_or_else(|_| Err(io::Error::other("the thread of a core panicked")))
        };
        Ok(ended.into_iter().try_for_each(core)?)
    })
}

fn new_core(config: &NodeConfig, environment: &Environment) -> io::Result<Arc<Core>> {
    let Environment { clock, random, region, gossip, .. } = environment;
    let store = region.store();
    let mut seeds = [0; 4];
    for seed in &mut seeds {
        *seed = random()?;
    }
    let shard = ShardConfig {
        max_keys: config.max_keys.div_ceil(config.workers.get()),
        max_waiting: config.max_pending.div_ceil(config.workers.get()),
        lease_us: config.lease_us,
        deadline_us: config.deadline_us,
        holders: config.cores(),
        min_holders: config.min_holders,
        lanes: store.lanes(),
        max_items: MAX_ITEMS,
        hash_keys: config.hash_keys,
        seeds,
    };
    let core = Core::new(shard, Arc::clone(clock), store);
    core.set_starting(true);
    if let Some(gossip) = gossip {
        core.tell(Arc::clone(gossip));
    }
    Ok(Arc::new(core))
}

fn workers(
    config: &NodeConfig,
    environment: &Environment,
    cores: Vec<Arc<Core>>,
    status: &NodeState,
    opened: &watch::Receiver<bool>,
    (http, grpc): (Listeners, Listeners),
) -> io::Result<Vec<CoreWorker>> {
    let Environment { clock, random, region, gossip, rules, identities, metrics, tls, tokens, .. } = environment;
    let acceptors = |listener, protocols: &[&[u8]]| {
        let tls = tls.as_ref().map(|tls| tls.speaking(protocols));
        let peers = PeerBound { most: config.max_connections_per_peer, trusted: config.trust.proxies.clone() };
        let bounds = ListenerBounds { max_open: config.max_connections, peers, budget: CHECK_BUDGET };
        acceptors(
            config.workers.get(),
            bounds,
            metrics.connections.listener(listener),
            Arc::clone(&metrics.checks),
            tls,
        )
    };
    let (for_http, for_grpc) = (acceptors("http", &[HTTP2, HTTP1]), acceptors("grpc", &[HTTP2]));
    let (http, grpc) = (http.each.into_iter().zip(for_http), grpc.each.into_iter().zip(for_grpc));
    let forward_auth =
        Arc::new(ForwardAuth { trust: config.trust.clone(), notices: Arc::clone(&metrics.forward_auth) });
    let mut workers = Vec::new();
    for ((core, http), grpc) in cores.into_iter().zip(http).zip(grpc) {
        let service = CheckService {
            limiter: Arc::clone(&core) as Arc<dyn Limiter>,
            clock: Arc::clone(clock),
            metrics: Arc::clone(&metrics.checks),
            tally: metrics.checks.tally(),
            ids: RequestIds::new(random()?),
            identities: Arc::clone(identities),
            batches: BatchGate::new(),
            waiting_for_keys: room_for_keys(),
        };
        let state = HttpState {
            service: Arc::new(service),
            node: Arc::new(status.clone()) as Arc<dyn NodeStatus>,
            forward_auth: Arc::clone(&forward_auth),
            tokens: tokens.clone(),
            origins: Arc::clone(&config.origins),
        };
        workers.push(CoreWorker {
            core,
            state,
            http,
            grpc,
            rules: rules.follow(),
            holders: region.holders(),
            regions: gossip.as_ref().map(|gossip| gossip.regions()),
            opened: opened.clone(),
            drain: config.drain,
        });
    }
    Ok(workers)
}

async fn stop(mut shutdown: watch::Receiver<bool>, mut failed: watch::Receiver<bool>) {
    // A closed channel means that the node stops, too.
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        _ = failed.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::super::assemble;
    use super::*;
    use crate::ports::{BoxFuture, Service, Shutdown};

    const RULES: &str = "version: 1\ndomains: []\n";

    /// A service that waits for a blocking call without a deadline and does not watch for the shutdown.
    struct BlockedService(Arc<Mutex<mpsc::Receiver<()>>>);

    impl Service for BlockedService {
        fn name(&self) -> &'static str {
            "blocked"
        }

        fn run(&self, _: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
            let call = Arc::clone(&self.0);
            Box::pin(async move {
                let _ = tokio::task::spawn_blocking(move || call.lock().unwrap().recv()).await;
                Ok(())
            })
        }
    }

    #[test]
    fn a_blocking_call_that_never_returns_does_not_keep_the_node_from_ending() {
        let mut node = assemble::dev(None, RULES, ("1", "abc")).unwrap();
        let (never, call) = mpsc::channel();
        node.environment.services.push(Arc::new(BlockedService(Arc::new(Mutex::new(call)))));
        let listen = || Listeners::bind("127.0.0.1:0".parse().unwrap(), node.config.workers.get()).unwrap();
        let (http, grpc) = (listen(), listen());
        let (stop, stopped) = watch::channel(false);
        let (ended, end) = mpsc::channel();
        #[expect(clippy::disallowed_methods, reason = "the test waits for it below")]
        let running = std::thread::spawn(move || {
            let result = run(&node.config, &node.environment, http, grpc, stopped);
            ended.send(result.is_ok()).unwrap();
        });
        stop.send_replace(true);
        assert_eq!(end.recv_timeout(std::time::Duration::from_secs(30)), Ok(true));
        running.join().unwrap();
        drop(never);
    }
}
