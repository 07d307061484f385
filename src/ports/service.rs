//! Background parts of a node.

use tokio::sync::watch;

use super::BoxFuture;

/// A background part of a node. One runner starts all of them and ends the node if one fails. At the end they leave in
/// reverse order, and then all of them stop.
pub trait Service: Send + Sync + 'static {
    /// The name in logs.
    fn name(&self) -> &'static str;
    /// Runs until `shutdown`. If it ends earlier, the node ends.
    ///
    /// # Errors
    /// Why the node must not go on.
    fn run(&self, shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>>;
    /// Leaves, after the cores have answered every check and before `shutdown`.
    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Tells a service to end.
#[derive(Clone, Debug)]
pub struct Shutdown(pub watch::Receiver<bool>);

impl Shutdown {
    /// Waits until the service is to end.
    pub async fn requested(&mut self) {
        // A node that is gone has ended as well.
        let _ = self.0.wait_for(|shutdown| *shutdown).await;
    }
}

/// Why a service ends its node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The configuration of the node does not fit its region: it would count separately.
    #[error("{0}")]
    Configuration(String),
    #[error("the service {0} ended")]
    Ended(&'static str),
    #[error("the service {0} panicked")]
    Panicked(&'static str),
}
