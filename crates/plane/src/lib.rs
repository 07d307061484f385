//! The configuration that a cluster replicates: rules, settings, and recent changes of users and API keys.
//!
//! Operators write in PostgreSQL. The leader of the cluster reads its committed [`Transaction`]s in order and proposes
//! them as [`Command`]s. Every node applies the same commands in the same order to its [`PlaneState`]. This crate is
//! pure: it knows neither the database nor the network.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::dbg_macro
    )
)]

mod bounds;
mod change;
mod identity;
mod recent;
mod refusal;
mod settings;
mod state;

pub use bounds::{MAX_BYTES, MAX_LIMITS, check_bounds, json_bytes};
pub use change::{Change, Command, CommitId, Mark, Outcome, Snapshot, Transaction};
pub use identity::{CachedKey, KeyHash, KeyRow, KeyVerdict, Owner, UserRow, resolve};
pub use recent::{RecentChanges, RowVersion};
pub use refusal::Refused;
pub use settings::{DROP_LEARNER_AFTER, SETTINGS, Setting, SettingError, check_setting};
pub use state::{DomainTerms, PlaneState};
