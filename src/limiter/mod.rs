//! The decision core. Pure: time and randomness come in as arguments, effects go out as values.
//!
//! A check goes [`rule_book`] → [`matcher`] → [`shard`] → [`key_state`]; what a key lacks travels as a [`batch`] to a
//! store, which does [`counter::apply`].

pub mod batch;
pub mod calendar;
pub mod counter;
pub mod debts;
pub mod decision;
pub mod effective;
pub mod invariant;
pub mod key_name;
pub mod key_state;
mod key_table;
mod lanes;
pub mod lease;
pub mod matcher;
pub mod node_clock;
pub mod open_hash;
mod outage;
pub mod parts;
mod remembered;
mod repeats;
mod reserve;
pub mod revision;
pub mod rule;
pub mod rule_book;
pub mod shard;
mod slots;
pub mod store_clock;
pub mod time;
pub mod token_bucket;
mod traffic;
pub mod trial;
pub mod turns;
pub mod validate;
pub mod window;
