//! A load tool for rate limiters: so many calls at once (closed loop), or so many a second whatever comes back (open loop).
//!
//! In an open loop a call's latency counts from the instant at which it was to be sent, also where it was sent late
//! because others had not come back: waiting is not left out (Tene's "coordinated omission").

pub mod calls;
mod client;
pub mod compare;
mod gate;
pub mod keys;
pub mod plot;
mod record;
pub mod report;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

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
    /// How long to wait at the end for what is under way.
    pub patience: Duration,
    pub keys: Keys,
    pub seed: u64,
}

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Beyond the warm-up.
    Time(Duration),
    /// So many calls, the warm-up's among them.
    Calls(u64),
}

/// Carries `plan` out; `progress` is told of every second that is over.
///
/// # Errors
/// When the target cannot be connected to at the beginning, or no runtime can be made.
#[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine, and joins its threads")]
pub fn run(plan: &Plan, mut progress: impl FnMut(&Second)) -> io::Result<Report> {
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let begin = Instant::now();
    let (seconds, news) = mpsc::channel();
    let recorders = thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..threads {
            let seconds = seconds.clone();
            running.push(scope.spawn(move || one_thread(plan, thread, threads, begin, seconds)));
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
    let whole = recorders.into_iter().reduce(Recorder::merge);
    whole.map(|recorder| recorder.report(plan)).ok_or_else(|| io::Error::other("nothing was measured"))
}

fn one_thread(
    plan: &Plan,
    thread: u32,
    threads: u32,
    begin: Instant,
    seconds: mpsc::Sender<Second>,
) -> io::Result<Recorder> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let gate = Gate::new(plan, thread, threads, begin);
        let recorder = Recorder::new(plan, begin, seconds)?;
        client::load(plan, thread, threads, gate, recorder).await.map(Recorder::end)
    })
}
