//! Listening: one core's HTTP and gRPC faces, each on a listener of its own.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Server;

use super::desk::Desk;
use super::envoy::Envoy;
use super::http;
use super::native::Native;
use super::proto::DESCRIPTORS;
use super::proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use super::proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;

/// Idle connections are asked for a sign of life so often.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A connection is asked to end after so long, so that few long ones still spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long the head of a request may take to come in.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Calls under way on one gRPC connection.
const MAX_STREAMS: u32 = 1000;
/// The largest gRPC message that is read, in bytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// How long to wait when no connection can be accepted, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it answers only come later.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves HTTP/1 and HTTP/2 until `stop`, then until the requests under way are answered.
///
/// Not tonic's server, which obeys `grpc-timeout` with status 200: behind forward-auth a client could let itself pass.
pub async fn http(listener: TcpListener, desk: Arc<Desk>, stop: impl Future<Output = ()>) {
    let routes = http::routes(desk);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).max_concurrent_streams(MAX_STREAMS);
    // Every connection holds a receiver: none is left once the last has ended.
    let (ending, ended) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = &mut stop => break,
        };
        let routes = routes.clone().layer(Extension(Peer(peer.ip().to_canonical())));
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).into_owned();
        let mut ended = ended.clone();
        #[expect(clippy::disallowed_methods, reason = "`ending` waits until every connection has ended")]
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            // A client that goes away in the middle is no news, here and below.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = ended.changed() => {}
                () = tokio::time::sleep(MAX_AGE) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
    drop((listener, ended));
    ending.send_replace(());
    ending.closed().await;
}

/// Serves the gRPC calls until `stop`, then until the calls under way are answered.
///
/// # Errors
/// When the server cannot run at all.
pub async fn grpc(listener: TcpListener, desk: Arc<Desk>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<NativeServer<Native>>().await;
    reporter.set_serving::<EnvoyServer<Envoy>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let stop = async move {
        stop.await;
        reporter.set_not_serving::<NativeServer<Native>>().await;
        reporter.set_not_serving::<EnvoyServer<Envoy>>().await;
        // The node as a whole, which is what probes ask about.
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    };
    let incoming = stream::unfold(listener, |listener| async {
        let (stream, _) = accept(&listener).await;
        Some((Ok::<_, io::Error>(stream), listener))
    });
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_connection_age(MAX_AGE)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(NativeServer::new(Native(Arc::clone(&desk))).max_decoding_message_size(MAX_MESSAGE))
        .add_service(EnvoyServer::new(Envoy(desk)).max_decoding_message_size(MAX_MESSAGE))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(io::Error::other)
}
