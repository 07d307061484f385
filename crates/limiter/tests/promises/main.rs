//! Property tests and scenarios with real shards and the real store function. The tests control time and the network.

mod outages;
mod promises;
mod stories;
mod world;
