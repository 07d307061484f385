//! Runs the share of a plan that belongs to one thread of the tool.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::call::Call;
use crate::connection::{Connection, SharedConnection};
use crate::key_distribution::KeyGenerator;
use crate::pacer::Pacer;
use crate::plan::LoadPlan;
use crate::recorder::Recorder;
use crate::worker::Worker;
use crate::{http1, stream, unary};

/// How long the last answers are awaited before idle calls are ended.
const LAST_ANSWERS_GRACE: Duration = Duration::from_millis(100);

/// Sends the calls of one thread on `connections` and returns what they measured.
pub async fn run(
    plan: &LoadPlan,
    thread: u32,
    pacer: Pacer,
    recorder: Recorder,
    connections: Vec<Connection>,
) -> io::Result<Recorder> {
    let key_generator = RefCell::new(KeyGenerator::new(&plan.keys, plan.seed.wrapping_add(thread.into())));
    let worker = Rc::new(Worker { plan: plan.clone(), pacer, recorder: RefCell::new(recorder), key_generator });
    let mut tasks = spawn_calls(&worker, connections);
    let unsent = worker.pacer.release_due_slots().await?;
    if unsent > 0 {
        let mut recorder = worker.recorder.borrow_mut();
        worker.pacer.untaken_due_times(unsent).for_each(|due_at| recorder.record_unanswered(due_at));
        recorder.failures.unsent += unsent;
        let cause = || "too many calls were in flight, or no call could be sent".to_owned();
        recorder.failures.first_cause.get_or_insert_with(cause);
    }
    // Ending thousands of idle calls takes time and would delay the last answers, so those come first.
    let last_answers = async {
        while worker.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS_GRACE, last_answers).await;
    worker.pacer.close();
    wait_for_answers(&worker, &mut tasks).await;
    let unanswered = worker.in_flight();
    if unanswered > 0 {
        let mut recorder = worker.recorder.borrow_mut();
        recorder.failures.unanswered += unanswered;
        let cause = || format!("no answer within {} s", plan.timeout.as_secs_f64());
        recorder.failures.first_cause.get_or_insert_with(cause);
    }
    tasks.shutdown().await;
    drop(tasks);
    let worker = Rc::into_inner(worker).ok_or_else(|| io::Error::other("a call is still in flight"))?;
    Ok(worker.recorder.into_inner())
}

/// Starts the tasks that send calls: one per connection, or one per call in flight for unary gRPC calls.
fn spawn_calls(worker: &Rc<Worker>, connections: Vec<Connection>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for connection in connections {
        match connection {
            Connection::Http1(sender) => {
                tasks.spawn_local(http1::run_calls(Rc::clone(worker), sender));
            }
            Connection::Http2(sender) if worker.plan.call == Call::Stream => {
                tasks.spawn_local(stream::run_streams(Rc::clone(worker), sender));
            }
            Connection::Http2(sender) => {
                let connection = Rc::new(SharedConnection::new(sender));
                for _ in 0..worker.plan.in_flight {
                    tasks.spawn_local(unary::run_calls(Rc::clone(worker), Rc::clone(&connection)));
                }
            }
        }
    }
    tasks
}

/// Waits until all tasks have ended; in a closed loop, this is the whole run. Gives up after a timeout in which no call
/// ended although calls were in flight or the run was over, and after two timeouts since the run was over.
async fn wait_for_answers(worker: &Worker, tasks: &mut JoinSet<()>) {
    let (mut ended, mut over) = (worker.recorder.borrow().ended(), false);
    loop {
        let all_tasks = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(worker.plan.timeout, all_tasks).await.is_ok() {
            return;
        }
        let (ended_before, over_before) = (ended, over);
        (ended, over) = (worker.recorder.borrow().ended(), worker.pacer.is_over());
        if over && over_before || ended == ended_before && (over || worker.in_flight() > 0) {
            return;
        }
    }
}
