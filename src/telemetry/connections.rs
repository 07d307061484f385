//! What is counted of one face's connections.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Why a connection was closed, or not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// There were as many as may be.
    Full,
    /// What is asked for did not come in time.
    Slow,
    /// Its client broke the protocol, or made too much of it: resets, headers, small frames.
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

/// The connections of one face.
#[derive(Clone)]
pub struct Connections {
    open: IntGauge,
    closed: [IntCounter; 3],
}

impl Connections {
    pub(super) fn new(face: &str, open: &IntGaugeVec, closed: &IntCounterVec) -> Self {
        let closed = Closed::ALL.map(|why| closed.with_label_values(&[face, why.word()]));
        Self { open: open.with_label_values(&[face]), closed }
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn ended(&self) {
        self.open.dec();
    }

    /// This node closed one, or did not take it.
    pub fn closed(&self, why: Closed) {
        self.closed[why as usize].inc();
    }
}
