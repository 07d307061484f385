//! Gossip: the nodes of a region tell the other regions what their region counted.
//!
//! A node learns its region's counts from the replies of the store. [`Outbox`] keeps the newest count of every key that
//! regions share, and gives each other region what changed since it was told last. [`Inbox`] turns a message from
//! another region into items that import it, and notices that the region's store may have forgotten what it was told. A
//! message may be lost, repeated, late or out of order: counts merge by max.
//!
//! The node sends at most one message per interval to each region. A message that is not acknowledged is told again,
//! with what changed since. A region that acknowledges nothing for a while is partitioned: see [`Link`].

mod changes;
mod inbox;
mod link;
mod outbox;
mod rendezvous;
mod report;

pub use inbox::Inbox;
pub use link::Link;
pub use outbox::{GossipConfig, Message, Outbox, OutboxStats};
pub use rendezvous::ranked;
pub use report::{InvalidReport, MAX_REPORTED_CELLS, Report};
