//! What is wrong with the headers of forward-auth: counted always, logged once per reason.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{Error, IntCounter};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// What is wrong with the headers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A peer that is no trusted proxy sent forwarding headers.
    NotBelieved,
    /// A trusted proxy wrote an address that cannot be read.
    UnreadableAddress,
    /// A trusted proxy named no client.
    NoAddress,
    /// A trusted proxy sent an attribute that is not in `listen.attribute_headers`.
    UnlistedAttribute,
    /// Headers that must agree do not.
    ContradictingHeaders,
    /// A header that a request has at most once is there several times.
    RepeatedHeader,
}

impl Problem {
    const ALL: [Self; 6] = [
        Self::NotBelieved,
        Self::UnreadableAddress,
        Self::NoAddress,
        Self::UnlistedAttribute,
        Self::ContradictingHeaders,
        Self::RepeatedHeader,
    ];

    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotBelieved => "not_believed",
            Self::UnreadableAddress => "unreadable_address",
            Self::NoAddress => "no_address",
            Self::UnlistedAttribute => "attribute_not_listed",
            Self::ContradictingHeaders => "contradicting_headers",
            Self::RepeatedHeader => "repeated_header",
        }
    }

    /// What it means, for the log.
    const fn meaning(self) -> &'static str {
        match self {
            Self::NotBelieved => {
                "forward-auth: the forwarding headers of this peer are not believed, because listen.trusted_proxies does \
                 not have its address"
            }
            Self::UnreadableAddress => {
                "forward-auth: a trusted proxy sent an address that cannot be read: ip is unknown"
            }
            Self::NoAddress => "forward-auth: a trusted proxy named no client in its headers",
            Self::UnlistedAttribute => {
                "forward-auth: an attribute of a trusted proxy is ignored, because listen.attribute_headers does not have \
                 its name"
            }
            Self::ContradictingHeaders => {
                "forward-auth: a check was denied, because headers of a trusted proxy contradict each other: the proxy must \
                 remove those that its clients send"
            }
            Self::RepeatedHeader => "forward-auth: a check was denied, because a header came several times",
        }
    }
}

/// The counters of a node, and what was logged.
pub struct Notices {
    counted: [IntCounter; Problem::ALL.len()],
    logged: [AtomicBool; Problem::ALL.len()],
}

impl Notices {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let counters = registry.counters(&names::FORWARD_AUTH)?;
        // A series that begins with its first event would hide that event.
        let counted = Problem::ALL.map(|problem| counters.with_label_values(&[problem.word()]));
        Ok(Self { counted, logged: Default::default() })
    }

    /// Counts a problem with the headers that `peer` sent. The first of each kind is logged with its detail.
    pub fn report(&self, problem: Problem, peer: IpAddr, detail: impl FnOnce() -> String) {
        self.counted[problem as usize].inc();
        let logged = &self.logged[problem as usize];
        // The load keeps a line of the cache from moving between cores at every request.
        if !logged.load(Ordering::Relaxed) && !logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%peer, detail = detail(), reason = problem.word(), "{}; logged once", problem.meaning());
        }
    }
}
