//! Asks the Sentinels which server is the primary, and listens to their announcements of a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fred::clients::SubscriberClient;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::Notify;

use super::super::location::Address;
use super::connect_options::ConnectOptions;
use super::connection::Connection;
use super::connection_pool::ConnectionPool;

/// The channel on which Sentinels announce that another server became the primary of a service.
const SWITCH_CHANNEL: &str = "+switch-master";

/// The Sentinels of one service.
pub struct Sentinels {
    service: String,
    seeds: Vec<Address>,
    pool: ConnectionPool,
    options: ConnectOptions,
    /// The report that was chosen last.
    known: Mutex<Option<PrimaryReport>>,
}

/// Which server a Sentinel reports as the primary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PrimaryReport {
    /// The number of the configuration. Each failover increases it.
    epoch: u64,
    primary: Address,
}

/// Chooses between the reports of Sentinels. Replaces the `known` report only by one with a newer configuration, or by
/// one that a majority of all `seeds` agrees on: after a failover that was undone, or if the Sentinels were set up
/// anew.
fn choose(reports: &[PrimaryReport], seeds: usize, known: Option<&PrimaryReport>) -> Option<PrimaryReport> {
    let count = |report: &PrimaryReport| reports.iter().filter(|other| *other == report).count();
    let newest = reports.iter().max_by_key(|report| (report.epoch, count(report)))?;
    let Some(known) = known else { return Some(newest.clone()) };
    if newest.epoch > known.epoch {
        return Some(newest.clone());
    }
    let agreed = reports.iter().find(|report| count(report) * 2 > seeds);
    Some(agreed.unwrap_or(known).clone())
}

impl Sentinels {
    pub fn new(service: String, seeds: Vec<Address>, options: ConnectOptions) -> Self {
        Self { service, seeds, pool: ConnectionPool::new(options.clone()), options, known: Mutex::new(None) }
    }

    /// Returns the primary according to all Sentinels that answer.
    ///
    /// # Errors
    /// Why no Sentinel named a primary.
    pub async fn primary(&self) -> Result<Address, String> {
        let all: Vec<Arc<Connection>> = self.seeds.iter().map(|seed| self.pool.get_or_open(seed)).collect();
        let up: Vec<Arc<Connection>> = all.iter().filter(|sentinel| sentinel.is_up()).cloned().collect();
        // An unreachable Sentinel must not delay the answers of the others.
        let asked = if up.is_empty() { all } else { up };
        let (mut reports, mut errors) = (Vec::new(), Vec::new());
        for report in join_all(asked.iter().map(|sentinel| self.ask(sentinel))).await {
            match report {
                Ok(report) => reports.push(report),
                Err(error) => errors.push(error),
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = choose(&reports, self.seeds.len(), known.as_ref()).ok_or_else(|| errors.join(", "))?;
        *known = Some(chosen.clone());
        Ok(chosen.primary)
    }

    async fn ask(&self, sentinel: &Connection) -> Result<PrimaryReport, String> {
        if !sentinel.wait_connected().await {
            return Err(format!("no answer from {}", sentinel.address_and_error()));
        }
        // The epoch first, then the address. If a failover ends in between, a new address with an old epoch is only
        // taken up later; an old address with a new epoch would be believed. During a failover the first command still
        // names the old primary.
        let configuration = sentinel.command("SENTINEL", &["MASTER", &self.service]).await;
        let epoch = configuration.ok().map(field_map).and_then(|fields| fields.get("config-epoch")?.parse().ok());
        let primary = sentinel.command("SENTINEL", &["GET-MASTER-ADDR-BY-NAME", &self.service]).await;
        if let Ok(Value::Array(address)) = primary
            && let [host, port] = address.as_slice()
            && let Some((host, Ok(port))) = host.as_string().zip(port.as_string().map(|port| port.parse()))
        {
            // A user without the right to read the epoch gets epoch 0: the majority of the Sentinels decides.
            return Ok(PrimaryReport { epoch: epoch.unwrap_or(0), primary: Address::new(host, port) });
        }
        Err(format!("{} knows no primary of {}", sentinel.address, self.service))
    }

    /// Notifies `changed` whenever a Sentinel announces another primary. Never returns.
    pub async fn watch(&self, changed: &Notify) {
        join_all(self.seeds.iter().map(|seed| self.subscribe(seed, changed))).await;
    }

    async fn subscribe(&self, seed: &Address, changed: &Notify) {
        let (config, performance, connection, policy) = self.options.client_config(seed);
        let sentinel = SubscriberClient::new(config, Some(performance), Some(connection), Some(policy));
        let mut messages = sentinel.message_rx();
        let connecting = sentinel.connect();
        // Subscribes again after each reconnection.
        let managing = sentinel.manage_subscriptions();
        let _abort_on_return = (AbortOnDrop(connecting.abort_handle()), AbortOnDrop(managing.abort_handle()));
        let mut logged = false;
        while let Err(error) = sentinel.subscribe(SWITCH_CHANNEL).await {
            if !std::mem::replace(&mut logged, true) && error.details().starts_with("NOPERM") {
                tracing::warn!(
                    %seed, %error,
                    "this Sentinel does not permit SUBSCRIBE: it is polled once a second instead"
                );
            }
            tokio::time::sleep(self.options.deadline).await;
        }
        loop {
            match messages.recv().await {
                Ok(message) => {
                    let text = message.value.as_string().unwrap_or_default();
                    if text.split(' ').next() == Some(self.service.as_str()) {
                        changed.notify_one();
                    }
                }
                // An announcement may be among the lost messages.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => changed.notify_one(),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the fields of a reply that is a map, or an array in which names and values alternate.
fn field_map(reply: Value) -> HashMap<String, String> {
    match reply {
        Value::Array(all) => {
            let text = |value: &Value| value.as_string();
            all.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect()
        }
        Value::Map(all) => {
            let text = |(name, value): (fred::types::Key, Value)| Some((name.into_string()?, value.into_string()?));
            all.inner().into_iter().filter_map(text).collect()
        }
        _ => HashMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: u64, port: u16) -> PrimaryReport {
        PrimaryReport { epoch, primary: Address::new("p".to_owned(), port) }
    }

    #[test]
    fn the_newest_configuration_names_the_primary() {
        let known = report(4, 1);
        let choose = |reports: &[PrimaryReport]| choose(reports, 3, Some(&known)).unwrap();
        assert_eq!(choose(&[report(4, 1), report(5, 2), report(4, 1)]), report(5, 2));
        assert_eq!(choose(&[report(4, 1), report(3, 2)]), known, "an old configuration is ignored");
        assert_eq!(choose(&[report(4, 2)]), known, "the address changes only with the epoch");
        assert_eq!(choose(&[report(5, 1)]), report(5, 1), "the same server in a newer configuration");
    }

    #[test]
    fn a_majority_of_all_sentinels_may_return_to_an_older_configuration() {
        let known = report(5, 2);
        let choose = |reports: &[PrimaryReport]| choose(reports, 3, Some(&known)).unwrap();
        assert_eq!(choose(&[report(4, 1)]), known, "a single Sentinel may be out of date");
        assert_eq!(choose(&[report(4, 1), report(5, 1)]), known, "two that disagree are no majority");
        assert_eq!(choose(&[report(4, 1), report(4, 1)]), report(4, 1), "the failover was undone");
        let anew = [report(0, 1), report(0, 1), report(0, 1)];
        assert_eq!(choose(&anew), report(0, 1), "the Sentinels were set up anew");
    }

    #[test]
    fn the_first_choice_is_the_newest_report_that_most_agree_on() {
        assert_eq!(choose(&[report(5, 1), report(5, 2), report(5, 2)], 3, None), Some(report(5, 2)));
        assert_eq!(choose(&[], 3, None), None);
    }
}
