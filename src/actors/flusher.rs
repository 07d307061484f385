//! The flusher: sends a shard's batches as soon as their lane is free.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::core::Core;
use limiter::counter::StoreError;
use limiter::{Cause, Due, Outgoing, TICK, Turns};

/// The actor; its state is the core that it serves.
pub struct Flusher;

impl Actor for Flusher {
    type Msg = Cause;
    type State = Arc<Core>;
    type Arguments = Arc<Core>;

    async fn pre_start(&self, me: ActorRef<Cause>, core: Arc<Core>) -> Result<Arc<Core>, ActorProcessingErr> {
        core.attach(me.clone());
        core.looks();
        // What the one before was to look at again.
        core.with(|state| state.turns = Turns::default());
        me.send_interval(TICK, || Cause::Tick);
        me.cast(Cause::Queued)?;
        Ok(core)
    }

    async fn handle(&self, me: ActorRef<Cause>, cause: Cause, core: &mut Arc<Core>) -> Result<(), ActorProcessingErr> {
        core.looks();
        let now = core.clock().now();
        let due = core.with(|state| state.turns.take(&mut state.shard, cause, now));
        let Some(Due { batches, turn_in }) = due else { return Ok(()) };
        if let Some(pause) = turn_in {
            me.send_after(Duration::from_micros(pause), || Cause::Turn);
        }
        for batch in batches {
            #[expect(clippy::disallowed_methods, reason = "the lane stays taken until the batch is answered")]
            tokio::spawn(carry(Arc::clone(core), batch));
        }
        Ok(())
    }
}

/// Carries a batch to the store and its answer back. It needs no actor: an answer is taken even where the flusher that
/// sent the batch is gone, and a store that panics or is past its deadline has given an unknown one, so no lane stays
/// taken for ever.
async fn carry(core: Arc<Core>, out: Outgoing) {
    let run = async { tokio::time::timeout(core.deadline(), core.store().run(out.lane, out.batch)).await };
    let run = AssertUnwindSafe(run).catch_unwind().await;
    let answer = if let Ok(Ok(answer)) = run { answer } else { Err(StoreError::Unknown) };
    let now = core.clock().now();
    let more = core.with(|state| {
        state.shard.answer(out.lane, out.flight, answer, now);
        state.wants_flusher(now)
    });
    if more.unwrap_or(true) {
        core.wake();
    }
}
