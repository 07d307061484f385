//! `tidegate cluster`: work with a cluster of nodes.

use clap::Subcommand;

use super::cluster_ca::ClusterCa;
use super::{Exit, GlobalArgs};

#[derive(Subcommand)]
pub enum Cluster {
    /// Make a certificate authority, and certificates that it signs
    Ca(ClusterCa),
}

impl Cluster {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        match self {
            Self::Ca(ca) => ca.run(global),
        }
    }
}
