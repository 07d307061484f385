//! Waits for conditions that real processes must reach, with a timeout.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Far longer than any condition takes.
pub const TIMEOUT: Duration = Duration::from_secs(180);

#[expect(clippy::disallowed_methods, reason = "real processes need a real timeout")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the time since the first call.
pub fn elapsed() -> Duration {
    START.elapsed()
}

/// Waits until `condition` returns a value and returns that value. Panics after [`TIMEOUT`]. `awaited` names the
/// condition.
pub fn wait_for<T>(awaited: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = elapsed();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(elapsed() - start < TIMEOUT, "timed out waiting for {awaited}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
