//! The flusher: the actor that sends a shard's batches as soon as their lane is free.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use limiter::counter::StoreError;
use limiter::{Event, Outgoing, Reply, TICK};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::core::Core;
use super::messages::FlusherMessage;
use crate::ports::Limiter;

/// The actor. Its state is the core that it serves.
pub struct Flusher;

impl Actor for Flusher {
    type Msg = FlusherMessage;
    type State = Arc<Core>;
    type Arguments = Arc<Core>;

    async fn pre_start(&self, me: ActorRef<Self::Msg>, core: Arc<Core>) -> Result<Arc<Core>, ActorProcessingErr> {
        core.attach(me.clone());
        core.clear_wake();
        me.send_interval(TICK, || FlusherMessage::Tick);
        // The flusher before may have ended while it waited for a delay.
        me.cast(FlusherMessage::DelayOver)?;
        Ok(core)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: FlusherMessage,
        core: &mut Arc<Core>,
    ) -> Result<(), ActorProcessingErr> {
        core.clear_wake();
        let event = match message {
            FlusherMessage::Flush => Event::Flush,
            FlusherMessage::DelayOver => Event::FlushDelayOver,
            FlusherMessage::Tick => Event::Tick,
        };
        let work = core.handle(event);
        if let Some(delay) = work.flush_in {
            me.send_after(Duration::from_micros(delay), || FlusherMessage::DelayOver);
        }
        for batch in work.batches {
            #[expect(clippy::disallowed_methods, reason = "the lane stays in flight until the batch has its reply")]
            tokio::spawn(send_batch(Arc::clone(core), batch));
        }
        Ok(())
    }
}

/// Sends a batch to the store and passes the reply to the shard. Replies need no flusher: its restart loses none. A
/// store that panics or exceeds the deadline has an unknown outcome, so no lane stays in flight for ever.
async fn send_batch(core: Arc<Core>, out: Outgoing) {
    let Outgoing { lane, batch } = out;
    let id = batch.id;
    let run = async { tokio::time::timeout(core.deadline(), core.store().run(lane, batch)).await };
    let run = AssertUnwindSafe(run).catch_unwind().await;
    let result = if let Ok(Ok(result)) = run { result } else { Err(StoreError::Unknown) };
    core.handle(Event::Reply(Reply { lane, batch: id, result }));
}
