//! What a node counts of rights that move between regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge};

use crate::ports::Replicated;
use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

const BEST_EFFORT: &str = "limits with strategy: escrow are best effort: a primary of the store has no replica, so a \
                           restart may forget which rights it gave to other regions; add a replica to each primary";
const NO_PLAN: &str = "limits with strategy: escrow deny: nobody knows how to split their rights; name all regions and \
                       their weights under regions, the same in the configuration of every node";

/// The metrics of rights that move between regions.
#[derive(Clone)]
pub struct RightsMetrics {
    questions: IntCounterVec,
    taken: IntCounterVec,
    unreplicated: IntCounter,
    best_effort: IntGauge,
    dropped: IntCounter,
    has_no_plan: Arc<AtomicBool>,
    has_old_peer: Arc<AtomicBool>,
}

impl RightsMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let questions = registry.counters(&names::RIGHTS_QUESTIONS)?;
        for outcome in ["answered", "failed"] {
            questions.with_label_values(&[outcome]);
        }
        Ok(Self {
            questions,
            taken: registry.counters(&names::RIGHTS_TAKEN)?,
            unreplicated: registry.counter(&names::RIGHTS_UNREPLICATED)?,
            best_effort: registry.gauge(&names::RIGHTS_BEST_EFFORT)?,
            dropped: registry.counter(&names::RIGHTS_DROPPED)?,
            has_no_plan: Arc::default(),
            has_old_peer: Arc::default(),
        })
    }

    /// A region answered a question, or did not.
    pub fn asked(&self, is_answered: bool) {
        self.questions.with_label_values(&[if is_answered { "answered" } else { "failed" }]).inc();
    }

    /// A region gave rights.
    pub fn taken(&self, region: &str, rights: u64) {
        self.taken.with_label_values(&[region]).inc_by(rights);
    }

    /// A batch of another region ran; it `gave` rights away, or not. Logs once if a failover may forget that.
    pub fn gave(&self, replicated: Replicated, gave: bool) {
        match replicated {
            Replicated::Yes => self.best_effort.set(0),
            Replicated::NotYet => self.unreplicated.inc(),
            Replicated::NoReplica => {
                if gave && self.best_effort.get() == 0 {
                    self.best_effort.set(1);
                    tracing::warn!("{BEST_EFFORT}");
                }
            }
        }
    }

    /// A node of another region does not know of rights yet. Logs once.
    pub fn too_old(&self, address: &str) {
        if !self.has_old_peer.swap(true, Ordering::Relaxed) {
            tracing::warn!(address, "a node of another region gives no rights: it is older than limits under escrow");
        }
    }

    /// Rights that a region has given.
    pub fn taken_of(&self, region: &str) -> u64 {
        self.taken.with_label_values(&[region]).get()
    }

    /// Wants found no room, or were not valid.
    pub fn dropped(&self, count: u64) {
        self.dropped.inc_by(count);
    }

    /// A limit under `escrow` has no rights because nobody knows how to split them. Logs once.
    pub fn no_plan(&self) {
        if !self.has_no_plan.swap(true, Ordering::Relaxed) {
            tracing::error!("{NO_PLAN}");
        }
    }

    /// What weakens the promises, and how to change it.
    pub fn advice(&self) -> Vec<&'static str> {
        let best_effort = (self.best_effort.get() > 0).then_some(BEST_EFFORT);
        let no_plan = self.has_no_plan.load(Ordering::Relaxed).then_some(NO_PLAN);
        best_effort.into_iter().chain(no_plan).collect()
    }

    /// Forgets a region that is no more.
    pub fn forget(&self, region: &str) {
        let _ = self.taken.remove_label_values(&[region]);
    }
}
