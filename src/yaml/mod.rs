//! YAML documents: a tree in which every value knows its place, and typed values read out of it with every error at
//! once.

pub mod decode;
pub mod nearest;
pub mod tree;
