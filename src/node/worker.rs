//! One core of a node, from its start to its end: its shard, its flusher, and its front ends.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use limiter::Regions;
use limiter::rules::RuleBook;
use ractor::Actor;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::state::NodeState;
use crate::actors::core::Core;
use crate::actors::supervisor::Supervisor;
use crate::api::grpc;
use crate::api::http::{self, HttpState};
use crate::server::balance::Acceptor;

/// How often a core that leaves checks whether its tokens are back.
const RELEASE_POLL: Duration = Duration::from_millis(2);
/// The longest time that a node which leaves goes on serving, so that others notice. It is a tenth of the drain time at
/// most.
const MAX_NOTICE: Duration = Duration::from_secs(1);

/// The stages of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The core decides nothing: it waits for rules or for the store.
    Starting,
    Serving,
    /// The core still serves, and probes see that it leaves.
    Leaving,
    /// The core accepts no connections.
    Closed,
}

/// What one core serves with.
pub struct CoreWorker {
    pub core: Arc<Core>,
    pub state: HttpState,
    pub http: (TcpListener, Acceptor),
    pub grpc: (TcpListener, Acceptor),
    pub rules: watch::Receiver<Arc<RuleBook>>,
    pub holders: watch::Receiver<u32>,
    /// What is known of the other regions; `None` if the node talks to none.
    pub regions: Option<watch::Receiver<Option<Regions>>>,
    /// True once cores may decide.
    pub opened: watch::Receiver<bool>,
    pub drain: Duration,
}

impl CoreWorker {
    /// Serves until `stop` or a failure, then answers the requests in flight and gives the tokens back.
    #[expect(clippy::disallowed_methods, reason = "the front ends are waited for below, the others run to the end")]
    pub async fn serve(self, status: NodeState, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { core, state, http, grpc, rules, holders, regions, mut opened, drain } = self;
        status.register_runtime(&Handle::current());
        let listen = |(socket, acceptor)| io::Result::Ok((tokio::net::TcpListener::from_std(socket)?, acceptor));
        let ((http, http_acceptor), (grpc, grpc_acceptor)) = (listen(http)?, listen(grpc)?);
        let (supervisor, mut supervising) =
            Actor::spawn(None, Supervisor, Arc::clone(&core)).await.map_err(io::Error::other)?;
        let mut background = background(&core, rules, holders, regions);

        let (stage, staged) = watch::channel(Stage::Starting);
        let until = |at_least: Stage| {
            let mut staged = staged.clone();
            async move {
                // A sender that is gone has closed as well.
                let _ = staged.wait_for(|stage| *stage >= at_least).await;
            }
        };
        let (service, tokens) = (Arc::clone(&state.service), state.tokens.clone());
        let mut http = tokio::spawn(http::serve(http, http_acceptor, state, until(Stage::Closed)));
        let stages = [Stage::Serving, Stage::Leaving, Stage::Closed].map(until);
        let mut grpc = tokio::spawn(grpc::serve(grpc, grpc_acceptor, service, tokens, stages));
        let opening = stage.clone();
        tokio::spawn(async move {
            if opened.wait_for(|opened| *opened).await.is_ok() {
                opening.send_if_modified(|stage| {
                    let starts = *stage == Stage::Starting;
                    *stage = (*stage).max(Stage::Serving);
                    starts
                });
            }
        });
        let ended = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = background.join_next() => {
                let error = ended.err().map_or_else(String::new, |error| format!(": {error}"));
                Err(io::Error::other(format!("a background task of a core ended{error}")))
            }
            _ = &mut supervising => Err(io::Error::other("the supervisor of a core ended")),
            _ = &mut http => Err(io::Error::other("the HTTP front end ended")),
            ended = &mut grpc => {
                let error = ended.map_err(io::Error::other).flatten().err();
                Err(error.unwrap_or_else(|| io::Error::other("the gRPC front end ended")))
            }
        };

        status.set_draining();
        stage.send_replace(Stage::Leaving);
        let leave = async {
            if ended.is_ok() {
                // Probes and balancers notice before connections are refused.
                tokio::time::sleep((drain / 10).min(MAX_NOTICE)).await;
                stage.send_replace(Stage::Closed);
                // A connection that does not end must not keep the tokens from going back.
                let _ = tokio::time::timeout(drain / 2, async { tokio::join!(http, grpc) }).await;
            }
            stage.send_replace(Stage::Closed);
            // A lease that was in flight may arrive after the first release.
            loop {
                core.release();
                if core.is_quiet() {
                    break;
                }
                tokio::time::sleep(RELEASE_POLL).await;
            }
        };
        if tokio::time::timeout(drain, leave).await.is_err() {
            tracing::warn!(?drain, "left before every check was answered and every token given back");
        }
        supervisor.stop(None);
        ended
    }
}

/// Starts the tasks that run as long as a core: it follows the rules, the number of holders and the other regions, and
/// its store keeps its connections.
fn background(
    core: &Arc<Core>,
    rules: watch::Receiver<Arc<RuleBook>>,
    holders: watch::Receiver<u32>,
    regions: Option<watch::Receiver<Option<Regions>>>,
) -> JoinSet<Infallible> {
    // A core that does not know of other regions yet would spend their rights.
    if let Some(regions) = &regions {
        core.set_regions(*regions.borrow());
    }
    let mut tasks = JoinSet::new();
    let follower = Arc::clone(core);
    tasks.spawn(follow(rules, move |book| follower.set_book(Arc::clone(book))));
    let follower = Arc::clone(core);
    tasks.spawn(follow(holders, move |holders| follower.set_holders(*holders)));
    if let Some(regions) = regions {
        let follower = Arc::clone(core);
        tasks.spawn(follow(regions, move |regions| follower.set_regions(*regions)));
    }
    let store = Arc::clone(core.store());
    tasks.spawn(async move {
        store.keep().await;
        std::future::pending().await
    });
    tasks
}

/// Passes on the current value, and every newer one. A source that is gone has no newer value.
async fn follow<T>(mut values: watch::Receiver<T>, pass_on: impl Fn(&T)) -> Infallible {
    loop {
        pass_on(&values.borrow_and_update());
        if values.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
