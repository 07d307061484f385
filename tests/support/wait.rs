//! Waiting for what real processes do: for a condition, under a deadline.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Far longer than anything takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a deadline for what real processes do")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since something was first waited for.
pub fn elapsed() -> Duration {
    START.elapsed()
}

/// Waits for a condition, and fails when it does not come.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = elapsed();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(elapsed() - begun < PATIENCE, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
