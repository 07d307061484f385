//! What one connection makes its node hold, and the budgets of its listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::IntCounter;

use super::budget::{Budget, Share, Taken};
use super::read_ahead::ReadAhead;
use crate::telemetry::checks::CheckMetrics;

/// The budgets of a listener for checks, in bytes.
pub const CHECK_BUDGET: usize = 64 * 1024 * 1024;

/// The budgets of one listener.
pub struct Budgets {
    arriving: Arc<Budget>,
    unsent: Arc<Budget>,
    checks: Arc<CheckMetrics>,
    /// Answers that were cut off.
    cut: IntCounter,
}

impl Budgets {
    /// Returns budgets of `most` bytes each, for requests that are arriving and for answers that wait to be sent.
    /// `checks` counts requests that were rejected for them, and `cut` counts answers that were cut off.
    pub fn new(most: usize, checks: Arc<CheckMetrics>, cut: IntCounter) -> Self {
        let [arriving, unsent] = [most; 2].map(|most| Arc::new(Budget::new(most)));
        Self { arriving, unsent, checks, cut }
    }

    /// The bytes that are taken from both budgets now.
    pub fn taken(&self) -> usize {
        self.arriving.taken() + self.unsent.taken()
    }
}

/// Which heads of requests a connection brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    Http1,
    Http2,
    /// Those of a trusted proxy. Its clients choose how long they are, and a connection that ends for one head ends all
    /// of its requests: a gateway that fails open would let them pass.
    OfTrustedProxy,
}

/// Meters what one connection makes its node hold.
pub struct Meter {
    arriving: Arc<Share>,
    unsent: Arc<Share>,
    pub(super) heads: Heads,
    /// What the HTTP/1 library has read and not passed on; `None` if it is not metered.
    pub(super) read_ahead: Option<ReadAhead>,
    /// A head was too much.
    head_refused: AtomicBool,
    budgets: Arc<Budgets>,
}

impl Meter {
    /// Returns the meter of a connection that holds nothing.
    pub fn new(budgets: Arc<Budgets>, heads: Heads) -> Self {
        let [arriving, unsent] =
            [&budgets.arriving, &budgets.unsent].map(|budget| Arc::new(Share::new(Arc::clone(budget))));
        let read_ahead = (heads == Heads::Http1).then(|| ReadAhead::new(Taken::none(Arc::clone(&arriving))));
        Self { heads, arriving, unsent, read_ahead, head_refused: AtomicBool::new(false), budgets }
    }

    /// The bytes that the connection holds now.
    pub fn held(&self) -> usize {
        self.arriving.held() + self.unsent.held()
    }

    /// Returns what a request holds that has not arrived: nothing yet.
    pub(super) fn arriving(&self) -> Taken {
        Taken::none(Arc::clone(&self.arriving))
    }

    /// True if the connection may hold this many bytes more of answers.
    pub fn has_room_for_unsent(&self, bytes: usize) -> bool {
        self.unsent.left() >= bytes
    }

    /// Takes memory for `bytes` of an answer. Returns `None`, and counts an answer that is cut off, if too much waits
    /// to be sent.
    pub fn unsent(&self, bytes: usize) -> Option<Taken> {
        let taken = Taken::of(&self.unsent, bytes);
        if taken.is_none() {
            self.budgets.cut.inc();
        }
        taken
    }

    /// Notes that the connection ends because too many bytes of heads are arriving.
    pub(super) fn refuse_head(&self) {
        self.head_refused.store(true, Ordering::Relaxed);
    }

    /// True if the connection ends because too many bytes of heads are arriving.
    pub(super) fn has_refused_head(&self) -> bool {
        self.head_refused.load(Ordering::Relaxed)
    }

    /// Counts a request that is rejected because too much is arriving.
    pub(super) fn rejected(&self) {
        self.budgets.checks.failed(Some("reading"));
    }
}
