//! Starts the threads of a run and merges their measurements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::time::Instant;
use std::{io, thread};

use crate::connection;
use crate::load_thread;
use crate::pacer::Pacer;
use crate::plan::LoadPlan;
use crate::recorder::Recorder;
use crate::report::{Report, SecondSummary};

/// Runs `plan` to its end, or until `stop` is true. Calls `progress` once for each second that all threads completed.
///
/// # Errors
/// Returns an error if the tool cannot connect to the target at the beginning or cannot create a runtime.
pub fn run(plan: &LoadPlan, stop: &Arc<AtomicBool>, mut progress: impl FnMut(&SecondSummary)) -> io::Result<Report> {
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let start = StartBarrier::new(threads);
    let (summary_sender, summaries) = mpsc::channel();
    let recorders = thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..threads {
            let (summary_sender, start) = (summary_sender.clone(), &start);
            running.push(scope.spawn(move || run_thread(plan, thread, threads, start, stop, summary_sender)));
        }
        drop(summary_sender);
        // Each second with the number of threads that completed it.
        let mut partial: Vec<(SecondSummary, u32)> = Vec::new();
        for summary in summaries {
            let summary: SecondSummary = summary;
            match partial.iter_mut().find(|(other, _)| other.second == summary.second) {
                Some((sum, parts)) => {
                    sum.add(&summary);
                    *parts += 1;
                }
                None => partial.push((summary, 1)),
            }
            partial.retain(|(summary, parts)| {
                let complete = *parts == threads;
                if complete {
                    progress(summary);
                }
                !complete
            });
        }
        let panicked = || io::Error::other("a thread of the load tool panicked");
        running.into_iter().map(|thread| thread.join().map_err(|_| panicked())?).collect::<io::Result<Vec<_>>>()
    })?;
    let merged = recorders.into_iter().flatten().reduce(Recorder::merge);
    let merged = merged.ok_or_else(|| io::Error::other("no thread measured anything"))?;
    Ok(merged.into_report(plan, stop.load(Ordering::Relaxed)))
}

/// Lets all threads begin at the same instant, once all of them are connected.
struct StartBarrier {
    connected: Barrier,
    failed: AtomicBool,
    begin: OnceLock<Instant>,
}

impl StartBarrier {
    fn new(threads: u32) -> Self {
        Self { connected: Barrier::new(threads as usize), failed: AtomicBool::new(false), begin: OnceLock::new() }
    }

    /// Waits for all threads and returns the begin of the run, or `None` if some thread could not connect.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    fn wait(&self, connected: bool) -> Option<Instant> {
        if !connected {
            self.failed.store(true, Ordering::SeqCst);
        }
        self.connected.wait();
        (!self.failed.load(Ordering::SeqCst)).then(|| *self.begin.get_or_init(Instant::now))
    }
}

/// Runs one thread's share of the plan. Returns `None` if another thread could not connect.
fn run_thread(
    plan: &LoadPlan,
    thread: u32,
    threads: u32,
    start: &StartBarrier,
    stop: &Arc<AtomicBool>,
    seconds: mpsc::Sender<SecondSummary>,
) -> io::Result<Option<Recorder>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.inspect_err(|_| {
        start.wait(false);
    })?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let connections = connection::connect_share(plan, thread, threads).await;
        let begin = start.wait(connections.is_ok());
        let connections = connections?;
        let Some(begin) = begin else { return Ok(None) };
        let pacer = Pacer::new(plan, thread, threads, begin, Arc::clone(stop));
        let recorder = Recorder::new(plan, begin, seconds)?;
        let recorder = load_thread::run(plan, thread, pacer, recorder, connections).await?;
        Ok(Some(recorder.finish(plan, stop.load(Ordering::Relaxed))))
    })
}
