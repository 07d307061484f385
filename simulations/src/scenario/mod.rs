//! What a scenario and a seed decide before anything happens: the region, its rules, its traffic and its faults.

mod draw_limits;
mod draw_plan;
mod limit_math;
mod limit_set;
mod names;
mod plan;

pub use limit_math::{UNENDING_MS, capacity, describe, horizon_us, quota};
pub use limit_set::LimitSet;
pub use names::Scenario;
pub use plan::{DOMAIN, DRAIN_PROBE_USERS, DRAINED_USERS, Edit, MAX_WAITING, Plan, STORE_EPOCH_US, Traffic};
