//! The messages of the actors.

/// What wakes a flusher.
#[derive(Clone, Copy, Debug)]
pub enum FlusherMessage {
    Flush,
    /// The delay that the shard asked for is over.
    DelayOver,
    Tick,
}
