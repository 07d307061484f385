//! The arguments of a run.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use loadgen::{Call, CheckTemplate, KeyDistribution, LoadPlan, MAX_COUNTED_KEYS, RunLength};

use crate::yaml::decode::parse_duration;

/// How long to wait for a connection, and at the end of the run for the calls in flight.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The values of `--call`
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CallKind {
    /// Envoy's ShouldRateLimit, for any rate limit server
    Envoy,
    /// Tidegate's Check
    Native,
    /// Tidegate's CheckBatch
    Batch,
    /// Tidegate's CheckStream
    Stream,
    /// POST /v1/check over HTTP/1.1
    Http,
}

#[derive(Args)]
pub struct LoadArgs {
    /// URL of the server: grpc://host:port, or http://host:port with `--call http`
    #[arg(long, default_value = "grpc://127.0.0.1:8081", value_name = "URL")]
    pub addr: String,
    /// Call to send
    #[arg(long, value_enum, default_value = "envoy")]
    call: CallKind,
    /// Checks in one call, with `--call batch` [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: Option<u32>,
    /// Connections to the server
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Calls in flight on one connection: exactly this many in a closed loop, at most this many in an open loop. With
    /// `--call http`, each of them has its own connection [default: 32; batch 4, stream 256, http 1; in an open loop
    /// 1000, http 16]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,
    /// Threads of this tool
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Calls per second, however fast the server answers (an open loop). Without it, each answer is followed by the
    /// next call (a closed loop)
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Duration of the measurement
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_positive_time)]
    duration: Duration,
    /// Send this many calls instead and measure all of them, without a warm-up
    #[arg(long, conflicts_with_all = ["duration", "warm_up"], value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,
    /// Duration of the load before the measurement
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = parse_time)]
    warm_up: Duration,
    #[arg(
        long,
        default_value = "hot",
        help = "Distribution of the keys: hot, uniform:COUNT, zipf:COUNT[:EXPONENT] or cycle:COUNT (each key in turn)"
    )]
    keys: KeyDistribution,
    /// Domain of the checks
    #[arg(long, default_value = "api")]
    domain: String,
    /// Attribute that has the key as its value
    #[arg(long, default_value = "user")]
    attribute: String,
    /// Text before the number of the key in the value of the attribute
    #[arg(long, default_value = "u")]
    prefix: String,
    /// Hits of each check
    #[arg(long, default_value_t = 1)]
    hits: u32,
    /// Fail if more checks of one key than this were admitted in the whole run
    #[arg(long, value_name = "COUNT")]
    pub at_most: Option<u32>,
    /// Seed of the random keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Save the run as JSON, for `bench compare`
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Plot latency by percentile and over time into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a duration such as 500ms, 10s or 2m".to_owned())
}

fn parse_positive_time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time.is_zero() { Err("expected a duration above zero".to_owned()) } else { Ok(time) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.replace('_', "").parse::<f64>().ok().filter(|rate| (0.001..=1e8).contains(rate));
    rate.ok_or_else(|| "expected 0.001 to 100000000 calls per second".to_owned())
}

impl LoadArgs {
    /// Validates the arguments, resolves the address and returns the settings of the run.
    pub fn plan(&self) -> Result<LoadPlan, String> {
        let authority = self.authority()?;
        let target = authority.to_socket_addrs().map_err(|error| format!("{}: {error}", self.addr))?.next();
        if self.batch.is_some() && self.call != CallKind::Batch {
            return Err("--batch: expected with --call batch only".to_owned());
        }
        if self.at_most.is_some() && self.keys.count() > MAX_COUNTED_KEYS {
            return Err(format!("--at-most: expected at most {MAX_COUNTED_KEYS} keys, because each key is counted"));
        }
        Ok(LoadPlan {
            target: target.ok_or_else(|| format!("{}: the host has no address", self.addr))?,
            authority,
            call: self.call(),
            check: CheckTemplate {
                domain: self.domain.clone(),
                attribute: self.attribute.clone(),
                prefix: self.prefix.clone(),
                hits: self.hits,
            },
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or_else(|| self.default_in_flight()),
            threads: self.threads,
            rate: self.rate,
            length: self.calls.map_or(RunLength::Time(self.duration), RunLength::Calls),
            warm_up: if self.calls.is_some() { Duration::ZERO } else { self.warm_up },
            timeout: TIMEOUT,
            keys: self.keys,
            seed: self.seed,
        })
    }

    /// Returns `host:port` of `--addr`.
    fn authority(&self) -> Result<String, String> {
        let http = self.call == CallKind::Http;
        let authority = match self.addr.split_once("://") {
            Some(("grpc", rest)) if !http => rest,
            Some(("http", rest)) if http => rest,
            _ if http => return Err(format!("{}: expected http://host:port", self.addr)),
            _ => return Err(format!("{}: expected grpc://host:port", self.addr)),
        };
        let authority = authority.trim_end_matches('/');
        if authority.contains('/') || !authority.contains(':') {
            return Err(format!("{}: expected a scheme, a host and a port", self.addr));
        }
        Ok(authority.to_owned())
    }

    fn call(&self) -> Call {
        match self.call {
            CallKind::Envoy => Call::Envoy,
            CallKind::Native => Call::Native,
            CallKind::Batch => Call::Batch(self.batch.unwrap_or(100)),
            CallKind::Stream => Call::Stream,
            CallKind::Http => Call::Http,
        }
    }

    /// Returns the default of `--in-flight`. It is higher in an open loop, where a due call should not wait for others.
    const fn default_in_flight(&self) -> u32 {
        match (self.call, self.rate) {
            (CallKind::Http, None) => 1,
            (CallKind::Http, Some(_)) => 16,
            (CallKind::Stream, None) => 256,
            (CallKind::Batch, None) => 4,
            (_, None) => 32,
            (_, Some(_)) => 1000,
        }
    }
}
