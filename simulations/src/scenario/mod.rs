//! Draws the plan of a simulation from a scenario and a seed: the regions, their rules, its traffic and its faults.

mod asked;
mod calendar;
mod demand;
mod draw_books;
mod draw_edits;
mod draw_limits;
mod draw_plan;
mod gossip;
mod kind;
mod limit_math;
mod limit_set;
mod meaning;
mod plan;
mod regions;
mod rules_text;

pub use asked::Asked;
pub use calendar::Calendar;
pub use demand::{Demand, Spread};
pub use draw_books::{draw_descriptors, override_test};
pub use gossip::GossipSettings;
pub use kind::Scenario;
pub use limit_math::{
    UNENDING_MS, capacity, describe, horizon_us, is_escrow, is_global, on_partition, quota, stated_limit,
};
pub use limit_set::LimitSet;
pub use meaning::{Applied, DomainRules, has_own_counter};
pub use plan::{DOMAIN, DRAIN_PROBE_USERS, DRAINED_USERS, Edit, MAX_WAITING, Plan, Traffic};
pub use regions::Regions;
