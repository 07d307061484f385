//! The certificates of a node and the tokens of its clients, and the service that watches their files.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::client::ClientTls;
use super::error::TlsError;
use super::identity::{self, Identity};
use super::metrics::TlsMetrics;
use super::server::ServerTls;
use super::settings::{ClientFiles, IdentityFiles, MutualFiles, Pin, ServerFiles};
use super::tokens::{self, TokenHashes};
use super::trust::{self, Authorities, Trust};
use super::watched::{Polled, Watched};
use crate::ports::{BoxFuture, ClientTokens, Clock, Fatal, Service, Shutdown};

/// How often the files are read.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Makes the TLS of a node. As a service, it reads files again that have changed. The last valid ones stay in force.
pub struct Certificates {
    clock: Arc<dyn Clock>,
    metrics: TlsMetrics,
    watched: Arc<Mutex<Vec<Entry>>>,
}

/// Files of one section of the settings.
struct Entry {
    section: &'static str,
    what: What,
}

enum What {
    /// With the listeners that show it.
    Identity(Arc<Watched<Identity>>, &'static [&'static str]),
    Authorities(Arc<Watched<Authorities>>),
    Tokens(Arc<Watched<TokenHashes>>),
}

impl Certificates {
    pub fn new(clock: Arc<dyn Clock>, metrics: TlsMetrics) -> Self {
        Self { clock, metrics, watched: Arc::default() }
    }

    /// TLS of the listeners `faces`, whose files the section `section` of the settings names.
    ///
    /// # Errors
    /// When a file cannot be used. The error names its setting.
    pub fn server(
        &self,
        section: &'static str,
        files: &ServerFiles,
        faces: &'static [&'static str],
    ) -> Result<ServerTls, TlsError> {
        let identity = self.identity(section, &files.identity, faces)?;
        let authorities = files.client_ca.as_ref().map(|path| trust::watch(section, "client_ca_file", path));
        let clients = authorities.transpose()?.map(|found| self.trust(section, found, &[]));
        Ok(ServerTls::new(identity, clients)?)
    }

    /// TLS of connections to the servers of the section `section` of the settings.
    ///
    /// # Errors
    /// When a file cannot be used. The error names its setting.
    pub fn client(&self, section: &'static str, files: &ClientFiles) -> Result<ClientTls, TlsError> {
        let identity = files.identity.as_ref().map(|files| self.identity(section, files, &[])).transpose()?;
        let authorities = match &files.ca {
            Some(path) => trust::watch(section, "ca_file", path)?,
            None => trust::of_this_machine(section)?,
        };
        Ok(ClientTls::new(self.trust(section, authorities, &files.pins), identity)?)
    }

    /// Both sides of connections between nodes, each of which shows its certificate. `face` is their listener.
    ///
    /// # Errors
    /// When a file cannot be used. The error names its setting.
    pub fn mutual(
        &self,
        section: &'static str,
        files: &MutualFiles,
        faces: &'static [&'static str],
    ) -> Result<(ServerTls, ClientTls), TlsError> {
        let identity = self.identity(section, &files.identity, faces)?;
        let trust = self.trust(section, trust::watch(section, "ca_file", &files.ca)?, &files.pins);
        let peers = Trust { authorities: Arc::clone(&trust.authorities), pins: trust.pins.clone() };
        Ok((ServerTls::new(Arc::clone(&identity), Some(trust))?, ClientTls::new(peers, Some(identity))?))
    }

    fn identity(
        &self,
        section: &'static str,
        files: &IdentityFiles,
        faces: &'static [&'static str],
    ) -> Result<Arc<Watched<Identity>>, TlsError> {
        let identity = Arc::new(identity::watch(section, files)?);
        let expires_at = identity.current().expires_at;
        if expires_at <= now(&*self.clock) {
            let file = files.cert.display();
            tracing::error!(section, %file, "the certificate has expired: peers that verify it will reject this node");
        }
        faces.iter().for_each(|face| self.metrics.expires(face, expires_at));
        self.watch(section, What::Identity(Arc::clone(&identity), faces));
        Ok(identity)
    }

    /// The tokens of clients, from the file that the setting `section.tokens_file` names.
    ///
    /// # Errors
    /// When the file cannot be used. The error names its setting.
    pub fn tokens(&self, section: &'static str, file: &Path) -> Result<Arc<dyn ClientTokens>, TlsError> {
        let tokens = Arc::new(tokens::watch(section, "tokens_file", file)?);
        self.watch(section, What::Tokens(Arc::clone(&tokens)));
        Ok(tokens)
    }

    fn trust(&self, section: &'static str, authorities: Watched<Authorities>, pins: &[Pin]) -> Trust {
        let authorities = Arc::new(authorities);
        self.watch(section, What::Authorities(Arc::clone(&authorities)));
        Trust { authorities, pins: pins.to_vec() }
    }

    /// Looks at every file once.
    #[cfg(all(test, feature = "cluster"))]
    pub(super) fn poll_once(&self) {
        poll(&self.watched, now(&*self.clock), &self.metrics);
    }

    fn watch(&self, section: &'static str, what: What) {
        self.metrics.watches(section);
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { section, what });
    }
}

/// The wall clock, in seconds since the epoch.
fn now(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.wall().0 / 1_000_000).unwrap_or(i64::MAX)
}

/// Looks at every file once.
fn poll(watched: &Mutex<Vec<Entry>>, now: i64, metrics: &TlsMetrics) {
    for Entry { section, what } in &*watched.lock().unwrap_or_else(PoisonError::into_inner) {
        let polled = match what {
            What::Identity(identity, _) => identity.poll(now),
            What::Authorities(authorities) => authorities.poll(now),
            What::Tokens(tokens) => tokens.poll(now),
        };
        match (polled, what) {
            (Polled::Same, _) => {}
            (Polled::Taken, What::Identity(identity, faces)) => {
                let expires_at = identity.current().expires_at;
                faces.iter().for_each(|face| metrics.expires(face, expires_at));
                tracing::info!(section, expires_at, "a new certificate is in force for new connections");
            }
            (Polled::Taken, What::Authorities(_)) => {
                tracing::info!(section, "new certificate authorities are in force for new connections");
            }
            (Polled::Taken, What::Tokens(_)) => tracing::info!(section, "new tokens of clients are in force"),
            (Polled::Invalid(error), _) => {
                metrics.reload_failed(section);
                tracing::error!(%error, "a changed file cannot be used: what was in force before stays in force");
            }
        }
    }
}

impl Service for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                    () = shutdown.requested() => return Ok(()),
                }
                let (watched, metrics) = (Arc::clone(&self.watched), self.metrics.clone());
                let now = now(&*self.clock);
                // A file may be on a server that does not answer.
                if tokio::task::spawn_blocking(move || poll(&watched, now, &metrics)).await.is_err() {
                    return Err(Fatal::Panicked(self.name()));
                }
            }
        })
    }
}
