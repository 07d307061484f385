//! What `dev` and `serve` have in common: they run a node until a signal ends it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, VERSION_COMMIT};
use crate::config::machine;
use crate::config::source::FileRules;
use crate::node::listeners::Listeners;
use crate::node::{Environment, Failure, NodeConfig, run};
use crate::telemetry::metrics::Metrics;

/// Files that a node has open beside its clients' connections, at most.
const OTHER_FILES: u64 = 1000;

/// Where a node listens, and how it behaves.
pub struct Plan {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub node: NodeConfig,
}

/// The cores to serve on: `workers`, or what the machine allows when that is 0.
pub fn workers(workers: usize) -> NonZeroUsize {
    NonZeroUsize::new(workers).unwrap_or_else(machine::cores)
}

/// The metrics of this program.
pub fn metrics() -> Result<Arc<Metrics>, Exit> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), VERSION_COMMIT);
    metrics.map(Arc::new).map_err(|error| {
        eprintln!("metrics: {error}");
        Exit::Failed
    })
}

/// Runs a node until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reads `file`
/// again. `ready` is told the addresses once the node listens.
pub fn serve(
    plan: &Plan,
    environment: &Environment,
    file: Option<Arc<FileRules>>,
    ready: impl FnOnce(SocketAddr, SocketAddr),
) -> Exit {
    let workers = plan.node.workers.get();
    let bind = |address| {
        Listeners::bind(address, workers).map_err(|error| {
            eprintln!("{address}: {error}");
            Exit::Failed
        })
    };
    let (http, grpc) = match bind(plan.http).and_then(|http| Ok((http, bind(plan.grpc)?))) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    // A connection is a file, and there are others.
    let files = 2 * plan.node.max_connections as u64 + OTHER_FILES;
    let may = machine::files(files);
    if may < files {
        tracing::warn!(files = may, wanted = files, "fewer files may be open than there may be connections");
    }
    let (stop, stopped) = watch::channel(false);
    if let Err(error) = signals(stop, file) {
        eprintln!("signals: {error}");
        return Exit::Failed;
    }
    ready(http.address, grpc.address);
    match run(&plan.node, environment, http, grpc, stopped) {
        Ok(()) => Exit::Ok,
        Err(Failure::Unfit(why)) => {
            tracing::error!(%why, "the node does not fit its region");
            Exit::BadConfiguration
        }
        Err(Failure::Core(error)) => {
            tracing::error!(%error, "the node ended");
            Exit::Failed
        }
    }
}

/// Listens for signals from now on, on a thread of its own.
fn signals(stop: watch::Sender<bool>, file: Option<Arc<FileRules>>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    let listen = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    file.iter().for_each(|file| file.reload());
                    continue;
                }
            }
            if stop.send_replace(true) {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(Exit::Failed as i32);
            }
            tracing::info!("leaving: no new connections, answering what is under way");
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it waits for signals as long as the process lives")]
    std::thread::spawn(move || runtime.block_on(listen));
    Ok(())
}
