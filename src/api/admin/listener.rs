//! The listener of the admin API, as a service of the node.

use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use super::{AdminState, serve};
use crate::ports::{BoxFuture, Fatal, Service, Shutdown};
use crate::server::balance::Acceptor;

/// Serves the admin API on a socket that listens already.
pub struct AdminListener {
    state: AdminState,
    /// Taken when the service runs.
    socket: Mutex<Option<(TcpListener, Acceptor)>>,
}

impl AdminListener {
    pub fn new(state: AdminState, listener: TcpListener, acceptor: Acceptor) -> Self {
        Self { state, socket: Mutex::new(Some((listener, acceptor))) }
    }
}

impl Service for AdminListener {
    fn name(&self) -> &'static str {
        "admin API"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((listener, acceptor)) = socket {
                let failed = |error: std::io::Error| Fatal::Configuration(format!("listen.admin: {error}"));
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                let mut stop = shutdown.clone();
                serve(listener, acceptor, self.state.clone(), async move { stop.requested().await }).await;
            }
            shutdown.requested().await;
            Ok(())
        })
    }
}
