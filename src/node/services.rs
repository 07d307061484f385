//! The runner of background services: it starts them in order, notices the first that ends, and lets them leave in
//! reverse order before it stops them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ports::{Fatal, Service, Shutdown};

/// How long one service may take to leave, and all of them to end.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Running services.
pub struct Services {
    all: Vec<Arc<dyn Service>>,
    running: JoinSet<Fatal>,
    shutdown: watch::Sender<bool>,
}

impl Services {
    /// Starts every service, in order. It must be called within the runtime that they run on.
    pub fn start(all: Vec<Arc<dyn Service>>) -> Self {
        let shutdown = watch::Sender::new(false);
        let mut running = JoinSet::new();
        for service in &all {
            let (service, shutdown) = (Arc::clone(service), Shutdown(shutdown.subscribe()));
            running.spawn(async move {
                let name = service.name();
                match AssertUnwindSafe(service.run(shutdown)).catch_unwind().await {
                    Ok(Ok(())) => Fatal::Ended(name),
                    Ok(Err(fatal)) => fatal,
                    Err(_) => Fatal::Panicked(name),
                }
            });
        }
        Self { all, running, shutdown }
    }

    /// Waits until a service ends, and returns why. It waits for ever if there is none.
    pub async fn failed(&mut self) -> Fatal {
        match self.running.join_next().await {
            Some(Ok(fatal)) => fatal,
            Some(Err(_)) => Fatal::Panicked("unknown"),
            None => std::future::pending().await,
        }
    }

    /// Lets every service leave, the last first, and ends all of them.
    pub async fn stop(mut self) {
        for service in self.all.iter().rev() {
            match tokio::time::timeout(LEAVE_TIMEOUT, AssertUnwindSafe(service.leave()).catch_unwind()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!(service = service.name(), "the service panicked while it left"),
                Err(_) => tracing::warn!(service = service.name(), "the service did not leave in time"),
            }
        }
        self.shutdown.send_replace(true);
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE_TIMEOUT, all).await.is_err() {
            tracing::warn!("a service did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ports::BoxFuture;

    /// A service that records what happens to it. It fails at once if `fatal` says why.
    struct Recorded {
        name: &'static str,
        fatal: Option<Fatal>,
        events: Arc<Mutex<Vec<String>>>,
    }

    impl Recorded {
        fn boxed(name: &'static str, fatal: Option<Fatal>, events: &Arc<Mutex<Vec<String>>>) -> Arc<dyn Service> {
            Arc::new(Self { name, fatal, events: Arc::clone(events) })
        }

        fn record(&self, what: &str) {
            self.events.lock().unwrap().push(format!("{} {what}", self.name));
        }
    }

    impl Service for Recorded {
        fn name(&self) -> &'static str {
            self.name
        }

        fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
            Box::pin(async move {
                match &self.fatal {
                    Some(Fatal::Panicked(_)) => panic!("as the test wants"),
                    Some(fatal) => Err(fatal.clone()),
                    None => {
                        shutdown.requested().await;
                        self.record("ends");
                        Ok(())
                    }
                }
            })
        }

        fn leave(&self) -> BoxFuture<'_, ()> {
            self.record("leaves");
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn services_leave_in_reverse_order_before_any_of_them_ends() {
        let events = Arc::default();
        let all = ["a", "b", "c"].map(|name| Recorded::boxed(name, None, &events));
        Services::start(all.into()).stop().await;
        let mut events = std::mem::take(&mut *events.lock().unwrap());
        events[3..].sort();
        assert_eq!(events, ["c leaves", "b leaves", "a leaves", "a ends", "b ends", "c ends"]);
    }

    #[tokio::test]
    async fn a_service_that_fails_or_panics_is_noticed() {
        for fatal in [Fatal::Configuration("other hash tags".to_owned()), Fatal::Panicked("b")] {
            let events = Arc::default();
            let all = vec![Recorded::boxed("a", None, &events), Recorded::boxed("b", Some(fatal.clone()), &events)];
            assert_eq!(Services::start(all).failed().await, fatal);
        }
    }
}
