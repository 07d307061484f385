//! Replaced primaries: which nodes still send to the old server, and how they learn of the new one.

use super::Region;
use crate::context::{Context, Event};
use crate::ids::{CoreIndex, NodeIndex, PrimaryIndex};

impl Region {
    /// True if the core's node still sends to the server that was replaced.
    pub(super) fn sends_to_replaced(&self, core: CoreIndex, primary: PrimaryIndex) -> bool {
        self.unaware.contains(&(self.cores[core.0].node, primary))
    }

    /// Handles that a node detects the replacement of a primary: the node fences the old server, and sends to the new
    /// one soon after.
    pub fn detect_replacement(&mut self, cx: &mut Context<'_>, node: NodeIndex, primary: PrimaryIndex) {
        if self.unaware.contains(&(node, primary)) {
            self.replacement_detected.entry(primary).or_insert(cx.now);
            if cx.bugs.fences(node) {
                self.primaries[primary.0].fence(cx.now);
            }
            let delay = self.delay(cx, primary);
            cx.schedule_in(delay, Event::ReplacementFollowed { region: self.index, node, primary });
        }
    }

    /// From now on the node sends to the new primary.
    pub fn follow_replacement(&mut self, cx: &mut Context<'_>, node: NodeIndex, primary: PrimaryIndex) {
        self.unaware.remove(&(node, primary));
        cx.trace_in(self.index, |_| format!("node {node} sends to the new primary {primary}"));
    }

    /// Runs the packets that waited at a stopped primary, or at the server that it replaced.
    pub(super) fn release_held(&mut self, cx: &mut Context<'_>, primary: PrimaryIndex) {
        for packet in std::mem::take(&mut self.held[primary.0]) {
            self.receive_packet(cx, packet);
        }
    }
}
