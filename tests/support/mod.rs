//! Helpers that several test binaries share.

#![allow(dead_code, reason = "each test binary uses only some of the helpers")]

pub mod api_lines;
pub mod load;
pub mod node;
#[cfg(feature = "cluster")]
pub mod plane;
pub mod postgres;
pub mod recorder;
pub mod servers;
#[cfg(feature = "cluster")]
pub mod tls;
pub mod wait;
