//! Property tests and stories: real shards and the real store function, with time and the network in the test's hands.

mod outages;
mod promises;
mod stories;
mod world;
