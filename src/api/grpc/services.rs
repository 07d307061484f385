//! Dispatches the gRPC calls of one connection, and bounds what they hold.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response};
use prost::Message;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tonic::Status;
use tonic::codegen::Service as _;
use tonic::server::NamedService;

use super::envoy::{Envoy, without_room};
use super::native::Native;
use crate::api::bearer::has_valid_token;
use crate::api::check_service::CheckService;
use crate::api::rejection::Rejection;
use crate::api::request_id;
use crate::ports::ClientTokens;
use crate::server::body_budget::{BudgetedBody, is_without_room};
use crate::server::within;

/// The largest message of a stream of checks, in bytes: one check, as over HTTP.
const MAX_CHECK: usize = 64 * 1024;
/// How long a gRPC call may take, with the arrival of its message.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The most batches of one connection that are in flight or whose answers are unread. Further ones wait. An answer to a
/// batch may be much larger than the request, and it exists as a whole before a client reads any of it.
const MAX_BATCHES: usize = 16;
/// The most streams of checks on one connection. Each reads ahead, and holds what its client has not read.
const MAX_CHECK_STREAMS: usize = 64;

/// The gRPC services of one connection. Those that gateways call for every request are found without a router.
pub struct Services {
    service: Arc<CheckService>,
    /// Checks need one of these tokens; `None` if they need none.
    tokens: Option<Arc<dyn ClientTokens>>,
    pub envoy: EnvoyServer<Envoy>,
    pub native: NativeServer<Native>,
    /// Health and reflection.
    pub others: axum::Router,
    batches: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Lets `body` hold `permit` until it is sent or dropped.
fn with_permit(body: tonic::body::Body, permit: OwnedSemaphorePermit) -> tonic::body::Body {
    tonic::body::Body::new(body.map_frame(move |frame| {
        let _ = &permit;
        frame
    }))
}

/// Counts and logs the answer if the library rejected the call: its message was too large, or no message.
fn observed(answer: Response<tonic::body::Body>, service: &CheckService) -> Response<tonic::body::Body> {
    // The check service has counted its own rejections, which have details.
    if let Some(status) = answer.extensions().get::<Status>().filter(|status| status.details().is_empty()) {
        service.unreadable(status);
    }
    answer
}

/// Replaces the error of a message that found no room by a denial: see [`without_room`].
fn denied_without_room(answer: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    if !answer.extensions().get::<Status>().is_some_and(is_without_room) {
        return answer;
    }
    let message = without_room().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or_default();
    let framed = [&[0][..], &length.to_be_bytes(), &message].concat();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from(framed)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(tonic::body::Body::new(body.map_err(|never| match never {})));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

impl Services {
    pub fn new(
        service: Arc<CheckService>,
        tokens: Option<Arc<dyn ClientTokens>>,
        envoy: EnvoyServer<Envoy>,
        native: NativeServer<Native>,
        others: axum::Router,
    ) -> Self {
        let (batches, streams) = (Semaphore::new(MAX_BATCHES), Semaphore::new(MAX_CHECK_STREAMS));
        Self { service, tokens, envoy, native, others, batches: Arc::new(batches), streams: Arc::new(streams) }
    }

    /// Returns true if a call with these headers may ask for checks.
    fn admits(&self, headers: &HeaderMap) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| has_valid_token(tokens, headers))
    }

    /// Counts a call without a valid token, and returns its answer.
    fn unauthorized(&self, headers: &HeaderMap) -> Status {
        let id = self.service.ids.take(headers.get(request_id::HEADER).and_then(|id| id.to_str().ok()));
        self.service.warn_of_unauthorized_call("grpc");
        self.service.reject(Rejection::Unauthorized, &id).into_status(&id)
    }

    /// Answers one call. A call whose message does not arrive, or that is not answered, ends in time and releases what
    /// it holds.
    pub fn answer(
        &self,
        mut request: Request<BudgetedBody>,
    ) -> impl Future<Output = Result<Response<tonic::body::Body>, Infallible>> + use<> {
        enum Call<E, G, O> {
            Check(G),
            /// A check of a gateway.
            Gateway(E),
            /// It waits for a permit.
            Batch(G, Arc<Semaphore>),
            /// It fails without a permit.
            Stream(G, Result<OwnedSemaphorePermit, TryAcquireError>),
            Other(O),
            /// It asks for checks without a valid token.
            Unauthorized(Status),
        }
        let call = match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((<EnvoyServer<Envoy> as NamedService>::NAME | <NativeServer<Native> as NamedService>::NAME, _))
                if !self.admits(request.headers()) =>
            {
                Call::Unauthorized(self.unauthorized(request.headers()))
            }
            Some((<EnvoyServer<Envoy> as NamedService>::NAME, _)) => {
                request.body_mut().read_to_the_end();
                Call::Gateway(self.envoy.clone().call(request))
            }
            Some((<NativeServer<Native> as NamedService>::NAME, "CheckBatch")) => {
                request.body_mut().read_to_the_end();
                Call::Batch(self.native.clone().call(request), Arc::clone(&self.batches))
            }
            Some((<NativeServer<Native> as NamedService>::NAME, "CheckStream")) => {
                let meter = Arc::clone(request.body().meter());
                request.extensions_mut().insert(meter);
                let call = self.native.clone().max_decoding_message_size(MAX_CHECK).call(request);
                Call::Stream(call, Arc::clone(&self.streams).try_acquire_owned())
            }
            Some((<NativeServer<Native> as NamedService>::NAME, _)) => {
                request.body_mut().read_to_the_end();
                Call::Check(self.native.clone().call(request))
            }
            // Boxed, because it is rare and large: the future of every call would be as large.
            _ => Call::Other(Box::pin(self.others.clone().call(request))),
        };
        let service = Arc::clone(&self.service);
        let answer = async move {
            match call {
                Call::Check(call) => Ok(observed(call.await?, &service)),
                Call::Gateway(call) => Ok(denied_without_room(observed(call.await?, &service))),
                Call::Batch(call, batches) => match batches.acquire_owned().await {
                    Ok(permit) => Ok(observed(call.await?, &service).map(|body| with_permit(body, permit))),
                    // Nobody closes the semaphore.
                    Err(_) => Ok(observed(call.await?, &service)),
                },
                Call::Stream(call, Ok(permit)) => Ok(call.await?.map(|body| with_permit(body, permit))),
                Call::Stream(_, Err(_)) => {
                    let most = format!("expected at most {MAX_CHECK_STREAMS} streams on one connection");
                    Ok(Status::resource_exhausted(most).into_http())
                }
                Call::Unauthorized(status) => Ok(status.into_http()),
                Call::Other(call) => call.await.map(|answer| answer.map(tonic::body::Body::new)),
            }
        };
        let too_slow = || Ok(Status::deadline_exceeded("the call exceeded the 10 s limit").into_http());
        within(CALL_TIMEOUT, answer).map(move |answer| answer.unwrap_or_else(too_slow))
    }
}
