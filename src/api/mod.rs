//! The faces of a node: HTTP, the native gRPC calls and Envoy's. They read a request, ask the [`desk`], and write the
//! answer; `status` is the one table from error to response.

mod authorize;
mod check_json;
mod connections;
pub mod desk;
pub mod envoy;
mod headers;
pub mod http;
pub mod metered;
pub mod native;
mod native_stream;
mod questions;
pub mod request_id;
pub mod serve;
pub mod spread;
mod status;
mod timer;
mod wait;
