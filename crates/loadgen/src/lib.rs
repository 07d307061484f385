//! A load tool for rate limiters: so many calls at once (closed loop), or so many a second whatever comes back (open loop).
//!
//! In an open loop a call's latency counts from the instant at which it was to be sent, also where it was sent late
//! because others had not come back: waiting is not left out (Tene's "coordinated omission").

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::dbg_macro
    )
)]

pub mod calls;
mod client;
pub mod compare;
mod gate;
pub mod keys;
pub mod plot;
pub mod record;
pub mod report;
mod stream;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use calls::{Call, Question};
use gate::Gate;
use keys::Keys;
use record::Recorder;
use report::{Report, Second};

/// What is asked, of whom, and how hard.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: SocketAddr,
    /// The `:authority` or `Host` of requests.
    pub authority: String,
    pub call: Call,
    pub question: Question,
    pub connections: u32,
    /// Calls under way on one connection at most; on a stream, messages.
    pub in_flight: u32,
    /// Threads of the tool itself, each with its share of the connections.
    pub threads: u32,
    /// Calls a second; `None` for a closed loop.
    pub rate: Option<f64>,
    pub length: Length,
    /// What is not measured at the beginning. It is sent all the same.
    pub warm_up: Duration,
    /// How long to wait for a connection, and at the end for what is under way.
    pub patience: Duration,
    pub keys: Keys,
    pub seed: u64,
}

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After the warm-up.
    Time(Duration),
    /// So many calls.
    Calls(u64),
}

/// Carries `plan` out, until `stop` at most; `progress` is told of every second that is over.
///
/// # Errors
/// When the target cannot be connected to at the beginning, or no runtime can be made.
pub fn run(plan: &Plan, stop: &Arc<AtomicBool>, mut progress: impl FnMut(&Second)) -> io::Result<Report> {
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let start = Start::new(threads);
    let (seconds, news) = mpsc::channel();
    let recorders = thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..threads {
            let (seconds, start) = (seconds.clone(), &start);
            running.push(scope.spawn(move || one_thread(plan, thread, threads, start, stop, seconds)));
        }
        drop(seconds);
        let mut open: Vec<(Second, u32)> = Vec::new();
        for second in news {
            let second: Second = second;
            match open.iter_mut().find(|(other, _)| other.second == second.second) {
                Some((sum, parts)) => {
                    sum.add(&second);
                    *parts += 1;
                }
                None => open.push((second, 1)),
            }
            open.retain(|(second, parts)| {
                let whole = *parts == threads;
                if whole {
                    progress(second);
                }
                !whole
            });
        }
        let panicked = || io::Error::other("a thread of the load tool panicked");
        running.into_iter().map(|thread| thread.join().map_err(|_| panicked())?).collect::<io::Result<Vec<_>>>()
    })?;
    let whole = recorders.into_iter().flatten().reduce(Recorder::merge);
    let whole = whole.ok_or_else(|| io::Error::other("nothing was measured"))?;
    Ok(whole.report(plan, stop.load(Ordering::Relaxed)))
}

/// All threads begin together, once all of them are connected.
struct Start {
    connected: Barrier,
    failed: AtomicBool,
    begin: OnceLock<Instant>,
}

impl Start {
    fn new(threads: u32) -> Self {
        Self { connected: Barrier::new(threads as usize), failed: AtomicBool::new(false), begin: OnceLock::new() }
    }

    /// When to begin; `None` where some thread is not connected.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    fn wait(&self, connected: bool) -> Option<Instant> {
        if !connected {
            self.failed.store(true, Ordering::SeqCst);
        }
        self.connected.wait();
        (!self.failed.load(Ordering::SeqCst)).then(|| *self.begin.get_or_init(Instant::now))
    }
}

/// What one thread measured; nothing where another could not begin.
fn one_thread(
    plan: &Plan,
    thread: u32,
    threads: u32,
    start: &Start,
    stop: &Arc<AtomicBool>,
    seconds: mpsc::Sender<Second>,
) -> io::Result<Option<Recorder>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.inspect_err(|_| {
        start.wait(false);
    })?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let connections = client::connect(plan, thread, threads).await;
        let begin = start.wait(connections.is_ok());
        let connections = connections?;
        let Some(begin) = begin else { return Ok(None) };
        let gate = Gate::new(plan, thread, threads, begin, Arc::clone(stop));
        let recorder = Recorder::new(plan, begin, seconds)?;
        client::load(plan, thread, gate, recorder, connections)
            .await
            .map(|recorder| Some(recorder.end(plan, stop.load(Ordering::Relaxed))))
    })
}
