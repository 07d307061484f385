//! Counters: how a store counts hits, and what a node and its store send each other.

mod apply;
mod batch;
mod debts;
mod replay_guard;
mod token_bucket;
mod window;

pub use apply::{At, Record, apply, expires_at, run};
pub use batch::{
    Ask, Batch, BatchAnswer, BatchOutcome, BucketReturn, BucketSeen, Counter, Debts, Grant, Granted, Item, ItemAnswer,
    Prefetch, Seen, StoreError, WindowReturn,
};
pub use debts::{Debt, Hits, Report};
pub use token_bucket::{Bucket, Rate, Ticks};
pub use window::{Cell, Entry, FLOOR, Grid, MAX_COUNT};
