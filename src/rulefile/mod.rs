//! Rule files: how they are read, watched for changes, tested by the cases that a user writes beside them, and imported
//! from the files of other rate limiters.

pub mod cases;
pub mod decode;
pub mod diff;
pub mod encode;
mod foreign;
pub mod import;
pub mod metrics;
pub mod watch;
