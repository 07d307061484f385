//! Asks Envoy's call for one key, or for many at random, and prints what came of it as JSON. Closed loop: so many
//! connections, each with so many calls in flight. It only ever loads this machine.
//!
//! loader HOST:PORT REQUESTS KEYS [CONNECTIONS] [IN_FLIGHT]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tidegate::api::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tidegate::api::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use tidegate::api::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALL: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// One gRPC message.
fn request(user: u64) -> Bytes {
    let entries = vec![Entry { key: "user".to_owned(), value: format!("u{user}") }];
    let descriptors = vec![RateLimitDescriptor { entries, limit: None, hits_addend: None }];
    let message = RateLimitRequest { domain: "api".to_owned(), descriptors, hits_addend: 0 }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

/// A permutation of 0 to `keys` in steps, so that every key has its turn: each once where as many are asked as there are.
fn user(number: u64, keys: u64) -> u64 {
    // A prime that divides no round number of keys.
    number.wrapping_mul(1_000_003) % keys
}

#[expect(clippy::disallowed_methods, reason = "a load tool: it measures time, and every task is waited for")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().ok_or("expected HOST:PORT")?.parse()?;
    if !address.ip().is_loopback() {
        return Err("expected an address of this machine".into());
    }
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (requests, keys) = (number(100_000)?, number(1)?.max(1));
    let (connections, in_flight) = (number(8)?, number(32)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let counts: Arc<[AtomicU64; 4]> = Arc::default();
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            for _ in 0..in_flight {
                let (mut sender, counts) = (sender.clone(), Arc::clone(&counts));
                tasks.push(tokio::spawn(async move {
                    loop {
                        let next = counts[0].fetch_add(1, Ordering::Relaxed);
                        if next >= requests {
                            return;
                        }
                        let request = hyper::Request::post(format!("http://{address}{CALL}"))
                            .header("content-type", "application/grpc")
                            .header("te", "trailers")
                            .body(Full::new(request(user(next, keys))));
                        let Ok(request) = request else { return };
                        let answer = async { sender.send_request(request).await?.into_body().collect().await };
                        let answer = answer.await.ok().map(|whole| whole.to_bytes());
                        let answer = answer.filter(|bytes| bytes.len() > 5);
                        let answer = answer.and_then(|bytes| RateLimitResponse::decode(&bytes[5..]).ok());
                        let count = answer.map_or(3, |answer| if answer.overall_code == 1 { 1 } else { 2 });
                        counts[count].fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        for task in tasks {
            task.await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let [_, passed, refused, failed] = [0, 1, 2, 3].map(|at: usize| counts[at].load(Ordering::Relaxed));
        println!(
            "{}",
            serde_json::json!({ "seconds": seconds, "per_second": (requests as f64 / seconds).round(),
                "admitted": passed, "refused": refused, "failed": failed })
        );
        Ok(())
    })
}
