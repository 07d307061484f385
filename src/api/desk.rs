//! What every face of a core asks: decides a check, and counts and logs what came of it.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::request_id::{RequestId, RequestIds};
use super::status::Rejection;
use crate::ports::{Answer, Clock, Limiter, StoreHealth, Unavailable};
use crate::telemetry::metrics::{Figures, Metrics};
use crate::telemetry::tally::Tally;
use limiter::{Check, Decision, NodeTime, Revision};

/// The longest value of an attribute, and the longest of its name, in bytes.
pub const MAX_VALUE: usize = 4096;
/// The most descriptors in one check.
pub const MAX_DESCRIPTORS: usize = 100;
/// The most entries in one descriptor.
pub const MAX_ENTRIES: usize = 100;

/// What a node tells a probe.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// Of the rules in force; 0 before there are any.
    pub revision: Revision,
    #[serde(serialize_with = "as_text")]
    pub store: StoreHealth,
    /// What about the store weakens the promises, and what to do.
    pub advice: Vec<&'static str>,
    /// It is about to stop.
    pub draining: bool,
}

/// Serializes the health as its text: `ok` or the reason.
fn as_text<S: Serializer>(health: &StoreHealth, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(health)
}

/// What the faces know of the node that they belong to.
pub trait Node: Send + Sync + 'static {
    fn readiness(&self) -> Readiness;
    fn figures(&self) -> Figures;
}

/// One core's desk.
pub struct Desk {
    pub limiter: Arc<dyn Limiter>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub node: Arc<dyn Node>,
    pub ids: RequestIds,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Desk {
    /// Decides a check that was found valid. `within` is how long the caller waits.
    pub async fn decide(
        &self,
        check: &Check<'_>,
        within: Option<Duration>,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        let arrived = self.clock.now();
        let outcome = self.limiter.check(check, arrived, within).get().await;
        self.decided(outcome, arrived, id)
    }

    /// Begins many checks that were found valid, each for itself; the instant is for [`Desk::decided`].
    pub fn begin(&self, checks: &[Check<'_>], within: Option<Duration>) -> (NodeTime, Vec<Answer>) {
        let arrived = self.clock.now();
        (arrived, self.limiter.check_all(checks, arrived, within))
    }

    /// Counts and logs what became of a check that arrived then.
    pub fn decided(
        &self,
        outcome: Result<Decision, Unavailable>,
        arrived: NodeTime,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        match outcome {
            Ok(decision) => {
                self.tally.decided(&decision, self.clock.now().since(arrived));
                let Decision { allowed, degraded, revision, .. } = decision;
                let domain = decision.domain.as_deref();
                tracing::debug!(request_id = %id, domain, allowed, degraded, %revision, "check");
                Ok(decision)
            }
            Err(refusal) => Err(self.reject(Rejection::Undecided(refusal), id)),
        }
    }

    /// Counts and logs a request that gets no decision.
    pub fn reject(&self, rejection: Rejection, id: &RequestId<'_>) -> Rejection {
        self.metrics.failed(rejection.shed());
        tracing::debug!(request_id = %id, ?rejection, "check without a decision");
        rejection
    }
}
