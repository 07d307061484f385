//! The flusher: sends a shard's batches as soon as their lane is free.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::core::Core;
use crate::limiter::batch::StoreError;
use crate::limiter::shard::Outgoing;

/// How often leases and idle keys are looked at. No check waits for it.
const TICK: Duration = Duration::from_millis(50);

/// What the flusher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Something is queued, or a lane is free again.
    Flush,
    Tick,
    /// Batches waited for a turn: those in flight may be too slow by now to take one.
    Turn,
}

/// The actor; its state is the core that it serves.
pub struct Flusher;

impl Actor for Flusher {
    type Msg = Message;
    type State = Arc<Core>;
    type Arguments = Arc<Core>;

    async fn pre_start(&self, me: ActorRef<Message>, core: Arc<Core>) -> Result<Arc<Core>, ActorProcessingErr> {
        core.attach(me.clone());
        core.looks();
        // What the one before was to look at again.
        core.with(|state| state.looks_again = false);
        me.send_interval(TICK, || Message::Tick);
        me.cast(Message::Flush)?;
        Ok(core)
    }

    async fn handle(
        &self,
        me: ActorRef<Message>,
        message: Message,
        core: &mut Arc<Core>,
    ) -> Result<(), ActorProcessingErr> {
        core.looks();
        let now = core.clock().now();
        let news = core.with(|state| {
            if message == Message::Tick {
                state.shard.tick(now);
            }
            let batches = state.shard.take_batches(now);
            let looked_for = state.looks_again && message != Message::Turn;
            let next_turn = state.shard.next_turn(now);
            state.looks_again = looked_for || next_turn.is_some();
            (batches, next_turn.filter(|_| !looked_for))
        });
        let Some((batches, next_turn)) = news else { return Ok(()) };
        if let Some(pause) = next_turn {
            me.send_after(Duration::from_micros(pause), || Message::Turn);
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
