//! A bare tonic server, as the baseline for measurements of the cost of a limiter. It decodes Envoy's request and
//! responds with the message that a decision would be. It runs in one current-thread runtime.

use std::net::SocketAddr;

use proto::Checked;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct BareServer;

#[tonic::async_trait]
impl RateLimitService for BareServer {
    async fn should_rate_limit(
        &self,
        request: Request<Checked<RateLimitRequest>>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = &request.get_ref().message;
        let status = |_| DescriptorStatus {
            code: Code::Ok.into(),
            current_limit: Some(RateLimit {
                name: "per-user".to_owned(),
                requests_per_unit: 4_000_000_000,
                unit: 2,
                unit_multiplier: None,
            }),
            limit_remaining: 3_999_999_999,
            duration_until_reset: Some(prost_types::Duration { seconds: 100, nanos: 123_456_000 }),
            quota: None,
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: Code::Ok.into(),
            statuses: request.descriptors.iter().map(status).collect(),
            ..RateLimitResponse::default()
        }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("expected an address")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(BareServer));
    Ok(runtime.block_on(server.serve(address))?)
}
