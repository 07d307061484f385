//! Sockets in, requests out: accepted connections are spread over the cores, live for a bounded time, and hold what
//! arrives and what waits to be sent within budgets. The front ends of [`crate::api`] are the services on top.

mod answer_body;
pub mod balance;
pub mod body_budget;
pub mod budget;
pub mod connection;
mod head_frames;
pub mod meter;
pub mod metrics;
pub mod peers;
pub mod preface;
mod read_ahead;
pub mod timer;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Returns the output of `work`, or `None` if it takes longer than `time`. Work that is done at once needs no timer.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    tokio::time::timeout(time, work).await.ok()
}
