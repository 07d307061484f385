//! Sockets in, requests out: accepted connections are spread over the cores, live for a bounded time, and hold what
//! arrives and what waits to be sent within budgets. The front ends of [`crate::api`] are the services on top.

mod answer_body;
pub mod balance;
pub mod body_budget;
pub mod budget;
pub mod connection;
mod head_frames;
pub mod meter;
pub mod metrics;
pub mod peers;
pub mod preface;
mod read_ahead;
pub mod timer;
mod within;

pub use within::within;
