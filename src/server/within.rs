//! A time limit that costs nothing for work that is done at once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep};

/// Returns the output of `work`, or `None` if it takes longer than `time` after it was polled first.
pub const fn within<F: Future>(time: Duration, work: F) -> Within<F> {
    Within { work, time, timer: None }
}

pin_project! {
    /// The future of [`within`]. It is hardly larger than the work: an `async` block would hold the work three times,
    /// and each call of a client moves it several times.
    pub struct Within<F> {
        #[pin]
        work: F,
        time: Duration,
        // `None` until the work has to wait.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(context) {
            return Poll::Ready(Some(done));
        }
        let time = *this.time;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(time)));
        // The work may have used up what this task may do in one turn. The time counts nevertheless.
        pin!(unconstrained(timer)).poll(context).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn work_is_done_in_time_or_not_at_all() {
        assert_eq!(within(TIME, ready(1)).await, Some(1));
        let late = |after| async move {
            sleep(after).await;
            2
        };
        assert_eq!(within(TIME, late(TIME - Duration::from_millis(10))).await, Some(2));
        assert_eq!(within(TIME, late(TIME + Duration::from_millis(10))).await, None);
        assert_eq!(within(TIME, pending::<()>()).await, None);
    }
}
