//! How regions move rights of limits under `strategy: escrow` ahead of need, without a network and without a clock.
//!
//! A [`RightsPlan`] says which part of a limit each region begins a cell with. A shard notices that a counter of its
//! region runs low ([`wanted`]) and passes a [`Want`] to [`Requests`], which asks the other regions, each for the
//! newest wants of all keys at once. Their stores decide what they give, and the region's own store takes it:
//! [`Counter::Give`](crate::counter::Counter::Give) and [`Counter::Take`](crate::counter::Counter::Take).

mod plan;
mod requests;
mod want;

pub use plan::{MAX_WEIGHT, RightsPlan, Weight};
pub use requests::{MAX_WANTS, Question, Requests};
pub use want::{Holding, InvalidWant, Want, wanted};
