//! The counter store: Redis servers that run the real scripts, and a primary with its replica.

mod lines;
mod lua_struct;
mod primary;
mod redis;

pub use lines::Lines;
pub use primary::{Health, Primary};
pub use redis::{Data, Redis, ScriptError, Stored};
