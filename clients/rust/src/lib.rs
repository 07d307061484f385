//! Asks the nodes of a Tidegate region whether a request may pass.
//!
//! A [`Client`] has connections to the nodes, a deadline, a fail mode, and the denials that have not ended. Make one
//! and clone it: clones share everything. [`RateLimitLayer`] puts it in front of a tower service, such as an axum
//! router.
//!
//! ```no_run
//! use tidegate_client::{Check, Client, Config};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Config::new(["http://127.0.0.1:8080"]))?;
//! let decision = client.check(&Check::new("demo").with("user", "u1")).await?;
//! if !decision.allowed {
//!     println!("denied; ask again in {:?}", decision.retry_after);
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod client;
mod config;
mod decision;
mod denials;
mod layer;
mod nodes;
mod places;
mod reply;

pub use check::{Attributes, Check};
pub use client::Client;
pub use config::{Config, ConfigError, FailMode};
pub use decision::{Decision, FieldError, Limit, Source};
pub use layer::{RateLimit, RateLimitFuture, RateLimitLayer};
pub use reply::{CheckError, Rejected};
