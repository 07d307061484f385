//! The configuration plane of a node: it carries rules from the database to the cluster, and from the cluster to the
//! cores.

pub mod admin;
pub mod books;
pub mod follow;
pub mod metrics;
mod refusals;
#[cfg(test)]
mod tests;
