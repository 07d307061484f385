//! The metrics of connections.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Why this node closed a connection, or did not accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Too many connections were open.
    Full,
    /// The request or the preface did not arrive in time.
    Slow,
    /// The client broke the protocol, or sent too many resets, headers or small frames.
    Protocol,
    /// The TLS handshake failed: one side rejected the other, or the client does not speak TLS.
    Handshake,
}

impl CloseReason {
    const ALL: [Self; 4] = [Self::Full, Self::Slow, Self::Protocol, Self::Handshake];

    const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Handshake => "handshake",
        }
    }
}

/// The metrics of every listener's connections.
pub struct ConnectionMetrics {
    open: IntGaugeVec,
    closed: IntCounterVec,
}

impl ConnectionMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        Ok(Self { open: registry.gauges(&names::CONNECTIONS)?, closed: registry.counters(&names::CLOSED)? })
    }

    /// Returns the metrics of one listener, by its name in labels.
    pub fn listener(&self, name: &'static str) -> ListenerMetrics {
        let closed = CloseReason::ALL.map(|reason| self.closed.with_label_values(&[name, reason.word()]));
        ListenerMetrics { open: self.open.with_label_values(&[name]), closed }
    }
}

/// The metrics of one listener's connections.
#[derive(Clone)]
pub struct ListenerMetrics {
    open: IntGauge,
    closed: [IntCounter; 4],
}

impl ListenerMetrics {
    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn ended(&self) {
        self.open.dec();
    }

    /// Counts a connection that this node closed or did not accept.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].inc();
    }
}
