//! Runs a node until a signal ends it, for `dev` and `serve`.

use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Exit;
use crate::host::listeners::Listeners;
use crate::host::machine;
use crate::node::assemble::{AssembleError, Assembled, Reload};
use crate::node::{self, Failure};
use crate::ports::Fatal;

/// The most files that a node has open beside the connections of its clients.
const OTHER_FILES: u64 = 1000;

/// Prints why a node could not be assembled.
pub fn assembled<T>(node: Result<T, AssembleError>) -> Result<T, Exit> {
    node.map_err(|error| {
        eprintln!("{error}");
        if error.is_configuration() { Exit::BadConfiguration } else { Exit::Failed }
    })
}

/// Runs a node until SIGTERM or SIGINT. A second signal ends it at once. SIGHUP reads the rule file again. Calls
/// `ready` with the addresses once the node listens.
pub fn run(node: Assembled, http: SocketAddr, grpc: SocketAddr, ready: impl FnOnce(SocketAddr, SocketAddr)) -> Exit {
    let Assembled { config, environment, reload } = node;
    let bind = |address| {
        Listeners::bind(address, config.workers.get()).map_err(|error| {
            eprintln!("{address}: {error}");
            Exit::Failed
        })
    };
    let (http, grpc) = match bind(http).and_then(|http| Ok((http, bind(grpc)?))) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    // Every connection is a file.
    let files = 2 * config.max_connections as u64 + OTHER_FILES;
    let allowed = machine::files(files);
    if allowed < files {
        tracing::warn!(
            permitted = allowed,
            needed = files,
            max_connections = config.max_connections,
            "the system's limit of open files is below what limits.max_connections may need"
        );
    }
    let (stop, stopped) = watch::channel(false);
    if let Err(error) = listen_for_signals(stop, reload) {
        eprintln!("signals: {error}");
        return Exit::Failed;
    }
    ready(http.address, grpc.address);
    match node::run(&config, &environment, http, grpc, stopped) {
        Ok(()) => Exit::Ok,
        Err(Failure::Service(Fatal::Configuration(why))) => {
            tracing::error!(why, "the node does not fit its region");
            Exit::BadConfiguration
        }
        Err(failure) => {
            tracing::error!(error = %failure, "the node ended");
            Exit::Failed
        }
    }
}

/// Listens for signals on a thread of its own, as long as the process lives.
fn listen_for_signals(stop: watch::Sender<bool>, reload: Option<Reload>) -> std::io::Result<()> {
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
                    reload.iter().for_each(|reload| reload());
                    continue;
                }
            }
            if stop.send_replace(true) {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(Exit::Failed as i32);
            }
            tracing::info!("leaving: accepting no connections, answering the requests in flight");
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it waits for signals as long as the process lives")]
    std::thread::spawn(move || runtime.block_on(listen));
    Ok(())
}
