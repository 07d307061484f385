//! Keeps the flusher of a core running. A flusher that ends is started again. Nothing is lost: the core has what is
//! queued and what is in flight.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::core::Core;
use super::flusher::Flusher;

/// The actor that starts the flusher of a core, and starts it again after it ended.
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
