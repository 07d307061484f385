//! The actors of a core: [`core::Core`] decides in place what the tokens of its shard cover, and the [`flusher`] actor
//! sends the batches of the rest to the store.

pub mod core;
pub mod flusher;
mod messages;
pub mod supervisor;
