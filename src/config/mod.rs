//! Files that people write, and what the environment and flags lay over them: parsed with places, checked all at once.

pub mod cases;
mod decode;
pub mod machine;
pub mod overlay;
pub mod rules;
pub mod settings;
pub mod source;
pub mod tree;

pub use decode::parse_duration;
