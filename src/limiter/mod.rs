//! The decision core. Pure: time and randomness come in as arguments, effects go out as values.
//!
//! A check goes [`rule_book`] → [`matcher`] → [`shard`] → [`key_state`]; what a key lacks travels as a [`batch`] to a
//! store, which does [`counter::apply`].

pub mod batch;
pub mod calendar;
pub mod counter;
pub mod key_name;
pub mod matcher;
pub mod rule;
pub mod time;
pub mod token_bucket;
pub mod window;
