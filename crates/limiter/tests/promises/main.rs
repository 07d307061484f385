//! Property tests and scenarios with real shards and the real store function. The tests control time and the network.

mod answers;
mod bounds;
mod cell_ends;
mod charge_each;
mod clock_steps;
mod deliveries;
mod descriptor_limits;
mod dry_domain;
mod escrow;
mod evictions;
mod inspect;
mod outages;
mod overdrafts;
mod overrides;
mod promises;
mod regions;
mod replacements;
mod rule_changes;
mod rule_costs;
mod rules;
mod small_limits;
mod stories;
mod successors;
mod validation;
mod whole_books;
mod world;
