//! Files that people write: parsed with places, checked all at once.

mod decode;
pub mod rules;
pub mod tree;
