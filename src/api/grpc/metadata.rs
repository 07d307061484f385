//! The metadata of a gRPC call: its request id, and how long its caller waits.

use std::time::Duration;

use tonic::Response;
use tonic::metadata::MetadataMap;

use crate::api::request_id::{HEADER, RequestId, is_valid};

/// The metadata of a call. It is a copy: a check may wait, and does not keep what else its caller sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CallMetadata {
    /// Valid, or `None`.
    pub request_id: Option<String>,
    /// A little less than `grpc-timeout`, so that the answer arrives before the caller gives up.
    pub timeout: Option<Duration>,
}

impl CallMetadata {
    pub fn of(metadata: &MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let timeout = text("grpc-timeout").and_then(parse_timeout);
        let request_id = text(HEADER).filter(|id| is_valid(id)).map(str::to_owned);
        Self { request_id, timeout: timeout.map(|t| t - t / 8) }
    }
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
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

/// Adds the id of the caller to `response`. A made id is only in the body.
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
    fn timeouts_are_parsed_as_grpc_writes_them() {
        let table = [("10m", 10_000), ("5S", 5_000_000), ("2M", 120_000_000), ("99999999u", 99_999_999), ("0n", 0)];
        for (text, micros) in table {
            assert_eq!(parse_timeout(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "m", "10", "100000000m", "-1m", "1é", "+1m", "1 m"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }
}
