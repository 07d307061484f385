//! What one core serves with, from its start to its end.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::Actor;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Whole;
use crate::actors::core::Core;
use crate::actors::supervisor::Supervisor;
use crate::api::desk::Desk;
use crate::api::serve;
use crate::api::spread::Share;
use limiter::rules::RuleBook;

/// How often a core that leaves looks whether its tokens are back.
const LEAVING: Duration = Duration::from_millis(2);
/// Longest that a node that leaves goes on serving, a tenth of its time to leave at most, so that others notice.
const NOTICE: Duration = Duration::from_secs(1);

/// How far a core is on its way in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Rules or the store are still to come: nothing is decided.
    Starting,
    Serving,
    /// Still serving, and telling probes that it leaves.
    Leaving,
    /// No new connections.
    Closed,
}

/// What one core serves with.
pub(super) struct Seat {
    pub core: Arc<Core>,
    pub desk: Arc<Desk>,
    pub http: (TcpListener, Share),
    pub grpc: (TcpListener, Share),
    pub rules: watch::Receiver<Arc<RuleBook>>,
    pub holders: watch::Receiver<u32>,
    /// Whether cores decide.
    pub opened: watch::Receiver<bool>,
    pub drain: Duration,
}

impl Seat {
    #[expect(clippy::disallowed_methods, reason = "the faces are waited for below, the others run to the end")]
    pub async fn serve(self, whole: Arc<Whole>, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { core, desk, http, grpc, rules, holders, mut opened, drain } = self;
        whole.has(&Handle::current());
        let listen = |(socket, share)| io::Result::Ok((tokio::net::TcpListener::from_std(socket)?, share));
        let ((http, of_http), (grpc, of_grpc)) = (listen(http)?, listen(grpc)?);
        let (supervisor, mut supervising) =
            Actor::spawn(None, Supervisor, Arc::clone(&core)).await.map_err(io::Error::other)?;
        let with = Arc::clone(&core);
        tokio::spawn(follow(rules, move |book| with.set_book(Arc::clone(book))));
        let with = Arc::clone(&core);
        tokio::spawn(follow(holders, move |holders| with.set_holders(*holders)));
        let store = Arc::clone(core.store());
        tokio::spawn(async move { store.keep().await });
        let (stage, staged) = watch::channel(Stage::Starting);
        let until = |at_least: Stage| {
            let mut staged = staged.clone();
            async move {
                // A sender that is gone closes, too.
                let _ = staged.wait_for(|stage| *stage >= at_least).await;
            }
        };
        let mut http = tokio::spawn(serve::http(http, of_http, Arc::clone(&desk), until(Stage::Closed)));
        let stages = [Stage::Serving, Stage::Leaving, Stage::Closed].map(until);
        let mut grpc = tokio::spawn(serve::grpc(grpc, of_grpc, desk, stages));
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
            _ = &mut supervising => Err(io::Error::other("the core's supervisor ended")),
            _ = &mut http => Err(io::Error::other("the HTTP face ended")),
            ended = &mut grpc => Err(ended.map_err(io::Error::other).flatten().err().unwrap_or_else(|| io::Error::other("the gRPC face ended"))),
        };
        whole.draining.store(true, Ordering::Relaxed);
        stage.send_replace(Stage::Leaving);
        let leave = async {
            if ended.is_ok() {
                // Probes and balancers see it before connections are refused.
                tokio::time::sleep((drain / 10).min(NOTICE)).await;
                stage.send_replace(Stage::Closed);
                // A connection that does not end must not keep the tokens from going back.
                let _ = tokio::time::timeout(drain / 2, async { tokio::join!(http, grpc) }).await;
            }
            stage.send_replace(Stage::Closed);
            // A lease that was on its way may come in after the first time.
            loop {
                core.release();
                if core.is_quiet() {
                    break;
                }
                tokio::time::sleep(LEAVING).await;
            }
        };
        if tokio::time::timeout(drain, leave).await.is_err() {
            tracing::warn!(?drain, "left before everything was answered and given back");
        }
        supervisor.stop(None);
        ended
    }
}

/// Passes on what is known, and everything newer.
async fn follow<T>(mut news: watch::Receiver<T>, pass_on: impl Fn(&T)) {
    loop {
        pass_on(&news.borrow_and_update());
        if news.changed().await.is_err() {
            break;
        }
    }
}
