//! The actors of a core: [`core::Core`] decides in place what its shard's tokens cover; [`flusher`] is the ractor
//! actor that carries the rest to the store and back.

pub mod core;
pub mod flusher;
pub mod supervisor;
