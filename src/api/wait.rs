//! What the metadata of a gRPC call says: its id, and how long its caller waits.

use std::time::Duration;

use tonic::Response;
use tonic::metadata::MetadataMap;

use super::request_id::{HEADER, RequestId};

/// Read from a call's metadata.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waits<'a> {
    pub request_id: Option<&'a str>,
    /// A little less than `grpc-timeout`, so that the answer is there before the caller gives up.
    pub within: Option<Duration>,
}

impl<'a> Waits<'a> {
    pub fn of(metadata: &'a MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let timeout = text("grpc-timeout").and_then(timeout);
        Self { request_id: text(HEADER), within: timeout.map(|t| t - t / 8) }
    }
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| fits)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// `response` with the id that its caller gave; one that was made here says nothing to who does not read the body.
pub fn with_id<T>(mut response: Response<T>, id: &RequestId<'_>) -> Response<T> {
    if let RequestId::Given(id) = id
        && let Ok(id) = id.parse()
    {
        response.metadata_mut().insert(HEADER, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_grpc_writes_them() {
        let table = [("10m", 10_000), ("5S", 5_000_000), ("2M", 120_000_000), ("99999999u", 99_999_999), ("0n", 0)];
        for (text, micros) in table {
            assert_eq!(timeout(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "m", "10", "100000000m", "-1m", "1é", "+1m", "1 m"] {
            assert_eq!(timeout(text), None, "{text}");
        }
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }
}
