//! Keeps a core's flusher running: one that ends is started again. Nothing is lost by that, for what is queued and what
//! is in flight are the core's.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::core::Core;
use super::flusher::Flusher;

/// The actor that starts a core's flusher, and starts it again.
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = Arc<Core>;
    type Arguments = Arc<Core>;

    async fn pre_start(&self, me: ActorRef<()>, core: Arc<Core>) -> Result<Arc<Core>, ActorProcessingErr> {
        Actor::spawn_linked(None, Flusher, Arc::clone(&core), me.get_cell()).await?;
        Ok(core)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<()>,
        event: SupervisionEvent,
        core: &mut Arc<Core>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(..) | SupervisionEvent::ActorTerminated(..) = event {
            tracing::error!(%event, "the flusher ended and is started again");
            Actor::spawn_linked(None, Flusher, Arc::clone(core), me.get_cell()).await?;
        }
        Ok(())
    }
}
