//! Counts the connections of one listener.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Why this node closed a connection, or did not accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Too many connections were open.
    Full,
    /// The request or the prelistener did not arrive in time.
    Slow,
    /// The client broke the protocol, or sent too many resets, headers or small frames.
    Protocol,
}

impl Closed {
    const ALL: [Self; 3] = [Self::Full, Self::Slow, Self::Protocol];

    const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
        }
    }
}

/// The counters of one listener's connections.
#[derive(Clone)]
pub struct Connections {
    open: IntGauge,
    closed: [IntCounter; 3],
}

impl Connections {
    pub(super) fn new(listener: &str, open: &IntGaugeVec, closed: &IntCounterVec) -> Self {
        let closed = Closed::ALL.map(|why| closed.with_label_values(&[listener, why.word()]));
        Self { open: open.with_label_values(&[listener]), closed }
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn ended(&self) {
        self.open.dec();
    }

    /// Counts a connection that this node closed or did not accept.
    pub fn closed(&self, why: Closed) {
        self.closed[why as usize].inc();
    }
}
