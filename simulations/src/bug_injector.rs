//! The interface through which a test plants a bug, to show that an oracle finds it.

use super::history::{ClientCheck, Decided};
use super::ids::{CoreId, NodeIndex};
use limiter::counter::{Batch, BatchReply};
use limiter::rules::Rules;
use limiter::{Revision, ShardConfig};

pub use super::context::{RegionAck, RegionMessage, RightsAnswer, RightsQuestion};

/// Changes what passes between the parts of a simulation. The default methods change nothing.
pub trait BugInjector {
    /// Returns the script that primaries run.
    fn script(&mut self, text: String) -> String {
        text
    }

    /// Returns the rules by which nodes decide instead of these. The oracles do not learn of them.
    fn rules(&mut self, _rules: Rules) -> Option<Rules> {
        None
    }

    /// Changes the configuration of a core's shard.
    fn config(&mut self, _config: &mut ShardConfig) {}

    /// Returns true if nodes detect a suspension of their machine.
    fn detects_suspension(&mut self) -> bool {
        true
    }

    /// Returns true if a node fences the old primary when it detects a replacement.
    fn fences(&mut self, _node: NodeIndex) -> bool {
        true
    }

    /// Changes a batch that a core sends.
    fn alter_batch(&mut self, _core: CoreId, _batch: &mut Batch) {}

    /// Changes a reply that a core receives.
    fn alter_reply(&mut self, _core: CoreId, _reply: &mut BatchReply) {}

    /// Returns true if a core sends a batch again that got no reply.
    fn resends(&mut self, _core: CoreId) -> bool {
        false
    }

    /// Returns true if new rules reach the core's shard.
    fn receives_rules(&mut self, _core: CoreId, _revision: Revision) -> bool {
        true
    }

    /// Returns true if the deadline of a check is enforced.
    fn enforces_deadline(&mut self, _check: &ClientCheck) -> bool {
        true
    }

    /// Returns true if a core notices that a server answers its probe again.
    fn probes(&mut self, _core: CoreId) -> bool {
        true
    }

    /// Changes a message to another region.
    fn alter_region_message(&mut self, _message: &mut RegionMessage) {}

    /// Changes the acknowledgement of another region's message.
    fn alter_region_ack(&mut self, _ack: &mut RegionAck) {}

    /// Returns true if a core learns that another region does not hear its node.
    fn notices_partitions(&mut self, _core: CoreId) -> bool {
        true
    }

    /// Returns true if a node sends a question for rights.
    fn asks_for_rights(&mut self, _question: &RightsQuestion) -> bool {
        true
    }

    /// Changes the answer to a question for rights.
    fn alter_rights_answer(&mut self, _answer: &mut RightsAnswer) {}

    /// Returns true if regions take new weights without the step in which they take the smaller part.
    fn edits_weights_at_once(&mut self) -> bool {
        false
    }

    /// Changes the decision that a client receives.
    fn decided(&mut self, _check: &ClientCheck, _decided: &mut Decided) {}
}

/// Plants no bug.
pub struct NoBugs;

impl BugInjector for NoBugs {}
