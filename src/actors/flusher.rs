//! The flusher: sends a shard's batches as soon as their lane is free, and brings the answers back.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::core::Core;
use crate::limiter::batch::{BatchAnswer, StoreError};
use crate::limiter::rule_book::RuleBook;

/// How often leases and idle keys are looked at. No check waits for it.
const TICK: Duration = Duration::from_millis(50);

/// What the flusher is told.
#[derive(Debug)]
pub enum Message {
    /// Something is queued.
    Flush,
    Answer {
        lane: u16,
        flight: u64,
        answer: Result<BatchAnswer, StoreError>,
    },
    Rules(Arc<RuleBook>),
    Tick,
}

/// The actor; its state is the core that it serves.
pub struct Flusher;

impl Actor for Flusher {
    type Msg = Message;
    type State = Arc<Core>;
    type Arguments = Arc<Core>;

    async fn pre_start(&self, me: ActorRef<Message>, core: Arc<Core>) -> Result<Arc<Core>, ActorProcessingErr> {
        core.attach(me.clone());
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
        let now = core.clock().now();
        let batches = core.with(|state| {
            match message {
                Message::Flush => {}
                Message::Answer { lane, flight, answer } => state.shard.answer(lane, flight, answer, now),
                Message::Rules(book) => state.shard.set_book(book),
                Message::Tick => state.shard.tick(now),
            }
            state.shard.take_batches(now)
        });
        for out in batches.into_iter().flatten() {
            let (core, me) = (Arc::clone(core), me.clone());
            tokio::spawn(async move {
                let answer = core.store().run(out.lane, out.batch).await;
                // Without an actor there is no shard that waits for it.
                let _ = me.cast(Message::Answer { lane: out.lane, flight: out.flight, answer });
            });
        }
        Ok(())
    }
}
