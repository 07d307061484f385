//! Rule files: how they are read, watched for changes, and tested by the cases that a user writes beside them.

pub mod cases;
pub mod decode;
pub mod diff;
pub mod encode;
mod foreign;
pub mod metrics;
pub mod watch;
