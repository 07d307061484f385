//! TLS 1.3: certificates from files, reloaded when they change, and pinned peers.
//!
//! [`Certificates`] makes the TLS of every listener and of every connection that this node opens, and watches the files
//! behind them. What it makes stays the same object when files change: only what it shows and whom it trusts changes,
//! for new connections. Open connections go on.

pub mod settings;

#[cfg(feature = "cluster")]
pub mod authority;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod error;
#[cfg(feature = "tls")]
mod identity;
#[cfg(feature = "tls")]
pub mod metrics;
#[cfg(feature = "tls")]
pub mod peers;
#[cfg_attr(not(feature = "tls"), path = "without.rs")]
mod server;
#[cfg(all(test, feature = "cluster"))]
mod tests;
#[cfg(feature = "tls")]
mod tokens;
#[cfg(feature = "tls")]
mod trust;
#[cfg(feature = "tls")]
mod watched;

#[cfg(feature = "tls")]
pub use self::{certificates::Certificates, client::ClientTls, error::TlsError, identity::pin_of};
pub use server::ServerTls;

/// What a connection may speak (ALPN, RFC 7301).
pub const HTTP2: &[u8] = b"h2";
pub const HTTP1: &[u8] = b"http/1.1";

#[cfg(feature = "tls")]
use std::sync::Arc;

/// The cryptography of every connection.
#[cfg(feature = "tls")]
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The only version.
#[cfg(feature = "tls")]
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
