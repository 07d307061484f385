//! Messages, clients and services, generated from `proto/`.
#![allow(missing_docs, clippy::pedantic, reason = "generated code")]

mod codec;
mod unknown_fields;

pub use codec::{Checked, CheckedCodec, SmallBufferCodec};

/// Tidegate's own calls.
pub mod tidegate {
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("tidegate.admin.v1");
        }
    }
    pub mod v1 {
        tonic::include_proto!("tidegate.v1");
    }
    /// What nodes of a cluster say to one another.
    pub mod cluster {
        tonic::include_proto!("tidegate.cluster");
    }
}

/// The part of Envoy's API that its rate limit service uses.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod common {
            pub mod ratelimit {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.common.ratelimit.v3");
                }
            }
        }
    }
    pub mod service {
        pub mod ratelimit {
            pub mod v3 {
                tonic::include_proto!("envoy.service.ratelimit.v3");
                tonic::include_proto!("envoy.service.ratelimit.v3.RateLimitService");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

/// All of it, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
