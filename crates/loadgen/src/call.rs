//! The kinds of calls that a run can send.

/// The call that a run sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`, which any rate limit server for Envoy implements.
    Envoy,
    /// `tidegate.v1.RateLimitService/Check`.
    Native,
    /// `CheckBatch` with this many checks.
    Batch(u32),
    /// `CheckStream`, with one stream per connection.
    Stream,
    /// `POST /v1/check` over HTTP/1.1.
    Http,
}

impl Call {
    /// Returns the name of the call in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Native => "native",
            Self::Batch(_) => "batch",
            Self::Stream => "stream",
            Self::Http => "http",
        }
    }

    /// Returns the number of checks in one call.
    pub const fn checks(self) -> u32 {
        if let Self::Batch(size) = self { size } else { 1 }
    }

    /// Returns the path of the request.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Envoy => "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            Self::Native => "/tidegate.v1.RateLimitService/Check",
            Self::Batch(_) => "/tidegate.v1.RateLimitService/CheckBatch",
            Self::Stream => "/tidegate.v1.RateLimitService/CheckStream",
            Self::Http => "/v1/check",
        }
    }
}
