//! The faces of a node.

pub mod http;
pub mod proto;
