//! Property tests and scenarios with real shards and the real store function. The tests control time and the network.

mod clock_steps;
mod deliveries;
mod descriptor_limits;
mod escrow;
mod evictions;
mod inspect;
mod outages;
mod overdrafts;
mod promises;
mod regions;
mod rule_changes;
mod rule_costs;
mod rules;
mod small_limits;
mod stories;
mod world;
