//! The faces of a node.

pub mod http;
