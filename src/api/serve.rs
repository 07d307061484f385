//! Listening: one core's HTTP and gRPC faces, each on a listener of its own.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Extension;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tonic::Status;
use tonic::codegen::Service as _;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use super::connections::{Face, HEAD_TIME, connections};
use super::desk::Desk;
use super::envoy::Envoy;
use super::http;
use super::metered::{MAX_MESSAGE, Metered};
use super::native::Native;
use super::spread::Share;
use super::timer::CoarseTimer;
use proto::DESCRIPTORS;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;

/// Idle connections are asked for a sign of life so often.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What one gRPC call, and all of a connection, may have sent that is not read yet, in bytes. Half of the latter is what
/// the HTTP/2 library lets small frames waste before it closes the connection: enough for a stream of small messages that is
/// read slowly.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// The largest message of a stream of checks that is read, in bytes: one check, as over HTTP.
const MAX_CHECK: usize = 64 * 1024;
/// How long a gRPC call may take, its message's coming in included.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Batches of one connection that are under way, or whose answers were not fetched; further ones wait. An answer to a batch
/// may be much larger than what was asked, and is there in whole before a client reads any of it.
const MAX_BATCHES: usize = 64;
/// Streams of checks on one connection: each reads ahead, and holds what its client did not fetch.
const MAX_CHECK_STREAMS: usize = 64;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves HTTP/1 and HTTP/2 until `stop`, then until the requests under way are answered.
pub async fn http(listener: TcpListener, share: Share, desk: Arc<Desk>, stop: impl Future<Output = ()>) {
    let mut builder = builder();
    builder.http1().timer(CoarseTimer::new()).header_read_timeout(HEAD_TIME);
    let routes = http::routes(desk);
    let service =
        |peer: SocketAddr| TowerToHyperService::new(routes.clone().layer(Extension(Peer(peer.ip().to_canonical()))));
    connections(listener, share, service, builder, Face::Http, stop).await;
}

/// Serves the gRPC calls until the last of three stages, then until the calls under way are answered. Health says SERVING
/// between the first two, so that clients look for another node while this one starts, and while it leaves and still serves.
///
/// # Errors
/// When the server cannot run at all.
pub async fn grpc(
    listener: TcpListener,
    share: Share,
    desk: Arc<Desk>,
    [ready, leaving, stop]: [impl Future<Output = ()> + Send + 'static; 3],
) -> io::Result<()> {
    let (mut reporter, health) = tonic_health::server::health_reporter();
    let all = [<NativeServer<Native> as NamedService>::NAME, <EnvoyServer<Envoy> as NamedService>::NAME, ""];
    // The last is the node as a whole, which is what probes ask about.
    for service in all {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let others = Routes::new(health)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?);
    let (ended, ending) = watch::channel(());
    let native = NativeServer::new(Native { desk: Arc::clone(&desk), ending }).max_decoding_message_size(MAX_MESSAGE);
    let envoy = EnvoyServer::new(Envoy(desk)).max_decoding_message_size(MAX_MESSAGE);
    let others = others.into_axum_router();
    let service = |_| {
        let calls = Calls {
            envoy: envoy.clone(),
            native: native.clone(),
            others: others.clone(),
            batches: Arc::new(Semaphore::new(MAX_BATCHES)),
            streams: Arc::new(Semaphore::new(MAX_CHECK_STREAMS)),
        };
        service_fn(move |request| calls.answer(request))
    };
    let stop = async move {
        let mut leaving = pin!(leaving);
        tokio::select! {
            // One that is told to leave while it starts is never ready.
            biased;
            () = &mut leaving => {}
            () = ready => {
                for service in all {
                    reporter.set_service_status(service, ServingStatus::Serving).await;
                }
                leaving.await;
            }
        }
        for service in all {
            reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
        stop.await;
        // Streams read nothing more.
        drop(ended);
        // Who watches has been told: a watch that goes on for ever must not hold up the end.
        for service in all {
            reporter.clear_service_status(service).await;
        }
    };
    let mut builder = builder();
    builder.http2().initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    connections(listener, share, service, builder.http2_only(), Face::Grpc, stop).await;
    Ok(())
}

/// What both faces ask of a connection.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().timer(CoarseTimer::new()).keep_alive_interval(KEEPALIVE);
    builder
}

/// The gRPC services on one connection. Those that gateways call for every request are found without a router.
struct Calls {
    envoy: EnvoyServer<Envoy>,
    native: NativeServer<Native>,
    others: axum::Router,
    batches: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// `body`, which holds `permit` until the last of it is sent or nobody wants it any more.
fn holding(body: tonic::body::Body, permit: OwnedSemaphorePermit) -> tonic::body::Body {
    tonic::body::Body::new(body.map_frame(move |frame| {
        let _ = &permit;
        frame
    }))
}

impl Calls {
    /// A call whose message does not come in, or that is not answered, ends in time: what it holds is given back.
    fn answer(
        &self,
        request: Request<Metered>,
    ) -> impl Future<Output = Result<Response<tonic::body::Body>, Infallible>> + use<> {
        enum Call<G, O> {
            Ours(G),
            /// Once there is a permit.
            Batch(G, Arc<Semaphore>),
            /// If there is a permit.
            Stream(G, Result<OwnedSemaphorePermit, TryAcquireError>),
            Other(O),
        }
        let call = match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((<EnvoyServer<Envoy> as NamedService>::NAME, _)) => Call::Ours(self.envoy.clone().call(request)),
            Some((<NativeServer<Native> as NamedService>::NAME, "CheckBatch")) => {
                Call::Batch(self.native.clone().call(request), Arc::clone(&self.batches))
            }
            Some((<NativeServer<Native> as NamedService>::NAME, "CheckStream")) => Call::Stream(
                self.native.clone().max_decoding_message_size(MAX_CHECK).call(request),
                Arc::clone(&self.streams).try_acquire_owned(),
            ),
            Some((<NativeServer<Native> as NamedService>::NAME, _)) => Call::Ours(self.native.clone().call(request)),
            // Seldom, and large: every call's future would be as large.
            _ => Call::Other(Box::pin(self.others.clone().call(request))),
        };
        async {
            let answer = within(CALL_TIME, async {
                match call {
                    Call::Ours(call) => call.await,
                    Call::Batch(call, batches) => match batches.acquire_owned().await {
                        Ok(permit) => Ok(call.await?.map(|body| holding(body, permit))),
                        // Nobody closes it.
                        Err(_) => call.await,
                    },
                    Call::Stream(call, Ok(permit)) => Ok(call.await?.map(|body| holding(body, permit))),
                    Call::Stream(_, Err(_)) => {
                        let most = format!("expected at most {MAX_CHECK_STREAMS} streams on one connection");
                        Ok(Status::resource_exhausted(most).into_http())
                    }
                    Call::Other(call) => call.await.map(|answer| answer.map(tonic::body::Body::new)),
                }
            });
            answer
                .await
                .unwrap_or_else(|| Ok(Status::deadline_exceeded("the call took longer than a call may").into_http()))
        }
    }
}

/// What comes of `work`, unless it takes longer. Most calls are answered at once: those need no timer.
async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    tokio::time::timeout(time, work).await.ok()
}
