//! The gRPC front end of one core: Tidegate's own calls, Envoy's call, health and reflection.

pub mod envoy;
mod messages;
mod metadata;
pub mod native;
mod services;
mod stream;
mod units;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use hyper::service::service_fn;
use proto::DESCRIPTORS;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use self::envoy::Envoy;
use self::native::Native;
use self::services::Services;
use super::check_service::CheckService;
use crate::ports::ClientTokens;
use crate::server::balance::Acceptor;
use crate::server::body_budget::MAX_MESSAGE;
use crate::server::connection::{self, Protocol};

/// The bytes that one gRPC call, and all calls of a connection, may send before they are read. Half of the latter is
/// what the HTTP/2 library lets small frames waste before it closes the connection: enough for a stream of small
/// messages that is read slowly.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// Serves the gRPC calls until `stop`, then until the calls in flight are answered. Health says SERVING between `ready`
/// and `leaving`: clients choose another node while this one starts, and while it leaves and still serves. Checks need
/// one of `tokens`, if there are any; health and reflection need none.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    service: Arc<CheckService>,
    tokens: Option<Arc<dyn ClientTokens>>,
    [ready, leaving, stop]: [impl Future<Output = ()> + Send + 'static; 3],
) -> io::Result<()> {
    let (mut reporter, health) = tonic_health::server::health_reporter();
    // The empty name is the node as a whole, which probes ask about. The reference service of Envoy's call has the name
    // `ratelimit`.
    let all =
        [<NativeServer<Native> as NamedService>::NAME, <EnvoyServer<Envoy> as NamedService>::NAME, "ratelimit", ""];
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
    let native =
        NativeServer::new(Native { service: Arc::clone(&service), ending }).max_decoding_message_size(MAX_MESSAGE);
    let envoy = EnvoyServer::new(Envoy(Arc::clone(&service))).max_decoding_message_size(MAX_MESSAGE);
    let others = others.into_axum_router();
    let services = |_| {
        let services =
            Services::new(Arc::clone(&service), tokens.clone(), envoy.clone(), native.clone(), others.clone());
        service_fn(move |request| services.answer(request))
    };
    let stop = async move {
        let mut leaving = pin!(leaving);
        tokio::select! {
            // A node that leaves while it starts is never ready.
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
        // Streams read no more.
        drop(ended);
        // Ends the watches of clients, which have their last status and would delay the end.
        for service in all {
            reporter.clear_service_status(service).await;
        }
    };
    let mut builder = connection::builder();
    builder.http2().initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    // No client of gRPC reads the date, and it is no part of the protocol.
    builder.http2().auto_date_header(false);
    connection::serve(listener, acceptor, services, builder.http2_only(), Protocol::Grpc, stop).await;
    Ok(())
}
