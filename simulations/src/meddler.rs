//! Where a test may plant a bug, to see that it is found. Whoever plants none changes nothing.

use super::ledger::{Asked, Decided};
use limiter::counter::{Batch, BatchReply};
use limiter::{Revision, ShardConfig};

/// Changes what passes between the parts of a simulation. `holder` is a core's place among all.
pub trait Meddler {
    /// The script that primaries run.
    fn script(&mut self, text: String) -> String {
        text
    }

    /// What a core's shard is built with.
    fn config(&mut self, _config: &mut ShardConfig) {}

    /// Returns whether nodes detect a suspension of their machine.
    fn notices_suspension(&mut self) -> bool {
        true
    }

    /// Returns whether a node fences the old primary when it detects a replacement.
    fn fences(&mut self, _node: usize) -> bool {
        true
    }

    /// A batch that leaves.
    fn batch(&mut self, _holder: usize, _batch: &mut Batch) {}

    /// An answer that arrives.
    fn answer(&mut self, _holder: usize, _answer: &mut BatchReply) {}

    /// Whether a batch that got no answer is sent again.
    fn resends(&mut self, _holder: usize) -> bool {
        false
    }

    /// Whether a core hears of new rules.
    fn hears(&mut self, _holder: usize, _revision: Revision) -> bool {
        true
    }

    /// Whether a check's deadline is kept.
    fn keeps_deadline(&mut self, _asked: &Asked) -> bool {
        true
    }

    /// Whether a server that fell silent is looked after.
    fn looks(&mut self, _holder: usize) -> bool {
        true
    }

    /// What a client is told.
    fn decided(&mut self, _asked: &Asked, _decided: &mut Decided) {}
}

/// Plants no bug.
pub struct Honest;

impl Meddler for Honest {}
