//! What Sentinels say: who the primary is, and at once when that changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fred::clients::SubscriberClient;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::Notify;

use super::connection::{Connection, Manner};
use super::links::Links;
use super::location::Address;

/// Where Sentinels announce that another server became the primary of a service.
const ANNOUNCEMENTS: &str = "+switch-master";

/// The Sentinels of one service.
pub struct Sentinels {
    service: String,
    seeds: Vec<Address>,
    links: Links,
    manner: Manner,
    /// What was chosen last.
    known: Mutex<Option<Named>>,
}

/// What a Sentinel says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// Number of the configuration: a failover has a higher one than those before.
    epoch: u64,
    primary: Address,
}

/// Which primary to ask, of those that Sentinels name. Another one than is `known` counts with a newer configuration, or where
/// a majority of all `seeds` names the same: after a failover that was undone, or where Sentinels were set up anew.
fn choose(named: &[Named], seeds: usize, known: Option<&Named>) -> Option<Named> {
    let count = |one: &Named| named.iter().filter(|other| *other == one).count();
    let newest = named.iter().max_by_key(|one| (one.epoch, count(one)))?;
    let Some(known) = known else { return Some(newest.clone()) };
    if newest.epoch > known.epoch {
        return Some(newest.clone());
    }
    let agreed = named.iter().find(|one| count(one) * 2 > seeds);
    Some(agreed.unwrap_or(known).clone())
}

impl Sentinels {
    pub fn new(service: String, seeds: Vec<Address>, manner: Manner) -> Self {
        Self { service, seeds, links: Links::new(manner.clone()), manner, known: Mutex::new(None) }
    }

    /// The primary, by what all Sentinels say that answer.
    ///
    /// # Errors
    /// Why no Sentinel named a primary.
    pub async fn primary(&self) -> Result<Address, String> {
        let all: Vec<Arc<Connection>> = self.seeds.iter().map(|seed| self.links.get_or_open(seed)).collect();
        let up: Vec<Arc<Connection>> = all.iter().filter(|sentinel| sentinel.is_up()).cloned().collect();
        // One that is not there must not hold up the others.
        let asked = if up.is_empty() { all } else { up };
        let (mut named, mut why) = (Vec::new(), Vec::new());
        for answer in join_all(asked.iter().map(|sentinel| self.ask(sentinel))).await {
            match answer {
                Ok(found) => named.push(found),
                Err(reason) => why.push(reason),
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = choose(&named, self.seeds.len(), known.as_ref()).ok_or_else(|| why.join(", "))?;
        *known = Some(chosen.clone());
        Ok(chosen.primary)
    }

    async fn ask(&self, sentinel: &Connection) -> Result<Named, String> {
        if !sentinel.connected().await {
            return Err(format!("no answer from {}", sentinel.trouble()));
        }
        // In this order: an address that is newer than its epoch is taken up later, one that is older would be believed. While
        // a failover is under way the first command still names the old primary.
        let configuration = sentinel.command("SENTINEL", &["MASTER", &self.service]).await;
        let epoch = configuration.ok().map(fields).and_then(|fields| fields.get("config-epoch")?.parse().ok());
        let found = sentinel.command("SENTINEL", &["GET-MASTER-ADDR-BY-NAME", &self.service]).await;
        if let Ok(Value::Array(address)) = found
            && let [host, port] = address.as_slice()
            && let Some((host, Ok(port))) = host.as_string().zip(port.as_string().map(|port| port.parse()))
        {
            // Who may not ask for the epoch believes what most Sentinels say.
            return Ok(Named { epoch: epoch.unwrap_or(0), primary: Address::new(host, port) });
        }
        Err(format!("{} knows no primary of {}", sentinel.address, self.service))
    }

    /// Tells `changed` whenever a Sentinel announces another primary; never ends.
    pub async fn watch(&self, changed: &Notify) {
        join_all(self.seeds.iter().map(|seed| self.listen(seed, changed))).await;
    }

    async fn listen(&self, seed: &Address, changed: &Notify) {
        let (config, performance, connection, policy) = self.manner.settings(seed);
        let sentinel = SubscriberClient::new(config, Some(performance), Some(connection), Some(policy));
        let mut announced = sentinel.message_rx();
        let connecting = sentinel.connect();
        // Subscribes again after each reconnection.
        let managing = sentinel.manage_subscriptions();
        let _ended_with_this = (AbortOnDrop(connecting.abort_handle()), AbortOnDrop(managing.abort_handle()));
        let mut told = false;
        while let Err(error) = sentinel.subscribe(ANNOUNCEMENTS).await {
            if !std::mem::replace(&mut told, true) && error.details().starts_with("NOPERM") {
                tracing::warn!(%seed, %error, "this Sentinel announces nothing: it is asked once a second instead");
            }
            tokio::time::sleep(self.manner.deadline).await;
        }
        loop {
            match announced.recv().await {
                Ok(message) => {
                    let text = message.value.as_string().unwrap_or_default();
                    if text.split(' ').next() == Some(self.service.as_str()) {
                        changed.notify_one();
                    }
                }
                // Some were missed.
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

/// Names and values that follow each other.
fn fields(answer: Value) -> HashMap<String, String> {
    match answer {
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

    fn named(epoch: u64, port: u16) -> Named {
        Named { epoch, primary: Address::new("p".to_owned(), port) }
    }

    #[test]
    fn the_newest_configuration_names_the_primary() {
        let known = named(4, 1);
        let choose = |named: &[Named]| choose(named, 3, Some(&known)).unwrap();
        assert_eq!(choose(&[named(4, 1), named(5, 2), named(4, 1)]), named(5, 2));
        assert_eq!(choose(&[named(4, 1), named(3, 2)]), known, "an old configuration counts for nothing");
        assert_eq!(choose(&[named(4, 2)]), known, "the address changes with the epoch, not before");
        assert_eq!(choose(&[named(5, 1)]), named(5, 1), "the same server in a newer configuration");
    }

    #[test]
    fn a_majority_of_all_sentinels_may_go_back() {
        let known = named(5, 2);
        let choose = |named: &[Named]| choose(named, 3, Some(&known)).unwrap();
        assert_eq!(choose(&[named(4, 1)]), known, "one may be out of date");
        assert_eq!(choose(&[named(4, 1), named(5, 1)]), known, "two that do not agree are no majority");
        assert_eq!(choose(&[named(4, 1), named(4, 1)]), named(4, 1), "the failover was undone");
        assert_eq!(choose(&[named(0, 1), named(0, 1), named(0, 1)]), named(0, 1), "they were set up anew");
    }

    #[test]
    fn without_anything_known_the_newest_that_most_agree_on_counts() {
        assert_eq!(choose(&[named(5, 1), named(5, 2), named(5, 2)], 3, None), Some(named(5, 2)));
        assert_eq!(choose(&[], 3, None), None);
    }
}
