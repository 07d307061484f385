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
    /// Too many bytes of heads were arriving.
    Heads,
    /// Too many connections of the same peer were open.
    Peer,
}

impl CloseReason {
    const ALL: [Self; 6] = [Self::Full, Self::Slow, Self::Protocol, Self::Handshake, Self::Heads, Self::Peer];

    const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Handshake => "handshake",
            Self::Heads => "heads",
            Self::Peer => "peer",
        }
    }
}

/// The metrics of every listener's connections.
pub struct ConnectionMetrics {
    open: IntGaugeVec,
    closed: IntCounterVec,
    cut: IntCounterVec,
}

impl ConnectionMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let open = registry.gauges(&names::CONNECTIONS)?;
        Ok(Self { open, closed: registry.counters(&names::CLOSED)?, cut: registry.counters(&names::CUT_ANSWERS)? })
    }

    /// Returns the metrics of one listener, by its name in labels.
    pub fn listener(&self, name: &'static str) -> ListenerMetrics {
        let closed = CloseReason::ALL.map(|reason| self.closed.with_label_values(&[name, reason.word()]));
        ListenerMetrics { open: self.open.with_label_values(&[name]), closed, cut: self.cut.with_label_values(&[name]) }
    }
}

/// The metrics of one listener's connections.
#[derive(Clone)]
pub struct ListenerMetrics {
    open: IntGauge,
    closed: [IntCounter; 6],
    cut: IntCounter,
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

    /// Counts answers that were cut off.
    pub fn cut_answers(&self) -> IntCounter {
        self.cut.clone()
    }
}
