//! The bounds of a rule book.

use std::io::{self, Write};

use limiter::rules::Rules;

/// The most limits of a rule book.
pub const MAX_LIMITS: usize = 10_000;
/// The largest rule book, in bytes of JSON.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Checks the bounds of a rule book. An error says which one it exceeds.
///
/// # Errors
/// Returns an error if the book has too many limits, or too many bytes.
pub fn check_bounds(rules: &Rules) -> Result<(), String> {
    let limits: usize = rules.domains.iter().map(|domain| domain.limits.len()).sum();
    if limits > MAX_LIMITS {
        return Err(format!("expected at most {MAX_LIMITS} limits in all domains, not {limits}"));
    }
    let bytes = json_bytes(rules);
    if bytes > MAX_BYTES {
        return Err(format!("expected at most {MAX_BYTES} bytes of rules, not {bytes}"));
    }
    Ok(())
}

/// How many bytes a value takes as JSON.
pub fn json_bytes(value: &impl serde::Serialize) -> usize {
    let mut count = Count(0);
    // Counting does not fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
