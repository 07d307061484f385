//! The state of one key: tokens in hand, asks that wait, the item in flight, and what was last seen of its counter.

mod key_queue;
mod key_state;
mod last_seen;
mod messages;
mod outage;
mod prefetch;
#[cfg(test)]
pub(crate) mod samples;

pub(crate) use key_state::KeyState;
pub use messages::Regions;
pub(crate) use messages::{AskResult, BatchTimes, Context, MayHaveRun, QueuedAsk, Receipt};
