//! The admin API of a node, for operators: HTTP below `/admin/v1`, and the gRPC service on the same port. Each call
//! reads a request, asks the [`ConfigPlane`], and writes the answer.

mod attempts;
mod auth;
mod cluster;
mod directory;
mod grpc;
pub mod listener;
pub mod metrics;
mod openapi;
mod rules;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tonic::service::Routes;

use self::attempts::Attempts;
use self::auth::TokenCache;
pub use self::cluster::MAX_BACKUP;
use self::metrics::AdminMetrics;
use super::http::Peer;
use super::rejection::Rejection;
use crate::ports::Clock;
use crate::ports::admin::ConfigPlane;
use crate::server::balance::Acceptor;
use crate::server::connection::{self, HEAD_TIMEOUT, Protocol};
use crate::server::timer::CoarseTimer;

/// How long a call may take. A change of members waits until a new member has caught up.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What the admin calls need.
#[derive(Clone)]
pub struct AdminState {
    plane: Arc<dyn ConfigPlane>,
    clock: Arc<dyn Clock>,
    metrics: AdminMetrics,
    tokens: Arc<TokenCache>,
    attempts: Arc<Attempts>,
}

impl AdminState {
    /// # Errors
    /// When the limits of wrong tokens do not compile, which would be an error of this program.
    pub fn new(plane: Arc<dyn ConfigPlane>, clock: Arc<dyn Clock>, metrics: AdminMetrics) -> Result<Self, String> {
        let attempts = Arc::new(Attempts::new(clock.now())?);
        Ok(Self { plane, clock, metrics, tokens: Arc::default(), attempts })
    }
}

/// Serves the admin API over HTTP/1 and HTTP/2 until `stop`, then until the calls in flight are answered.
pub async fn serve(listener: TcpListener, acceptor: Acceptor, state: AdminState, stop: impl Future<Output = ()>) {
    let mut builder = connection::builder();
    builder.http1().timer(CoarseTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let routes = routes(state);
    let service =
        |peer: SocketAddr| TowerToHyperService::new(routes.clone().layer(Extension(Peer(peer.ip().to_canonical()))));
    connection::serve(listener, acceptor, service, builder, Protocol::Http, stop).await;
}

/// The routes of the admin API, and the gRPC service.
pub fn routes(state: AdminState) -> Router {
    let grpc = grpc::service(state.clone());
    Router::new()
        .route("/admin/v1/openapi.json", get(openapi::document))
        .route("/admin/v1/rules", get(rules::get_rules).put(rules::put_rules))
        .route("/admin/v1/rules/history", get(rules::history))
        .route("/admin/v1/rules/refused", get(rules::refused))
        .route("/admin/v1/rules/rollback", post(rules::rollback))
        .route(
            "/admin/v1/domains/{domain}/limits/{limit}",
            get(rules::get_limit).put(rules::put_limit).delete(rules::remove_limit),
        )
        .route("/admin/v1/tiers", get(directory::tiers))
        .route("/admin/v1/tiers/{tier}", get(directory::tier).put(directory::put_tier).delete(directory::remove_tier))
        .route("/admin/v1/users", get(directory::users))
        .route("/admin/v1/users/{user}", get(directory::user).put(directory::put_user).delete(directory::remove_user))
        .route("/admin/v1/users/{user}/keys", post(directory::create_key))
        .route("/admin/v1/keys", get(directory::keys))
        .route("/admin/v1/keys/{key_id}", delete(directory::revoke_key))
        .route("/admin/v1/keys/{key_id}/rotate", post(directory::rotate_key))
        .route("/admin/v1/audit", get(directory::audit))
        .route("/admin/v1/cluster", get(cluster::status))
        .route("/admin/v1/cluster/settings", get(cluster::settings).put(cluster::put_settings))
        .route("/admin/v1/cluster/init", post(cluster::init))
        .route("/admin/v1/cluster/members/{node}", delete(cluster::remove))
        .route("/admin/v1/cluster/members/{node}/promote", post(cluster::promote))
        .route("/admin/v1/cluster/members/{node}/demote", post(cluster::demote))
        .route("/admin/v1/cluster/snapshot", post(cluster::snapshot))
        .route("/admin/v1/cluster/backup", get(cluster::backup))
        .route("/admin/v1/cluster/restore", post(cluster::restore))
        .fallback(async || Rejection::NoSuchPath)
        .method_not_allowed_fallback(async || Rejection::WrongMethod)
        // Each call bounds its body itself.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
        .merge(Routes::new(grpc).into_axum_router().reset_fallback())
        .layer(from_fn(in_time))
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let why = "the call took longer than 60 s: the change may or may not be made".to_owned();
        Rejection::Admin(crate::ports::admin::AdminError::UnknownOutcome(why)).into_response()
    })
}
