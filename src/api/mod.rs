//! The front ends of a node: HTTP, the native gRPC calls and Envoy's. Each only translates: it reads a request, calls
//! the [`check_service`], and writes the answer. `rejection.rs` has the one table from error to response.

#[cfg(feature = "cluster")]
pub mod admin;
pub mod attributes;
pub mod batches;
mod bearer;
pub mod check_service;
pub mod client_text;
pub mod grpc;
mod headers;
pub mod http;
mod identity;
mod rejection;
pub mod request_id;
mod waiting_room;
