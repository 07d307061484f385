//! Tells the other regions what this one counted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use limiter::gossip::Message;
use limiter::{NodeTime, RegionNumber};
use proto::tidegate::cluster::gossip_client::GossipClient;
use proto::tidegate::cluster::{Heard, Told};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::config::RegionsConfig;
use super::{RegionGossip, micros, wire};
use crate::peers::{Connector, Transport};
use crate::ports::Shutdown;

/// The version of the protocol. A node talks with the same and the neighbouring versions.
pub const VERSION: u32 = 1;
/// How often the regions are read again.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a node that leaves goes on telling what other regions do not know.
const LEAVE: Duration = Duration::from_secs(1);
/// The pause between two rounds of that.
const RETRY: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest and the longest time that a message may take.
const MIN_DEADLINE: Duration = Duration::from_millis(500);
const MAX_DEADLINE: Duration = Duration::from_secs(5);

/// What became of a message.
struct Sent {
    to: RegionNumber,
    number: u64,
    address: String,
    /// The keys of the message, if some could not be stored.
    failed_keys: Vec<Box<[u8]>>,
    heard: Result<Heard, Status>,
}

impl RegionGossip {
    /// Sends the messages of each interval, until the node leaves. Then it tells what the other regions do not know
    /// yet.
    pub(super) async fn send(&self, mut shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = tokio::time::interval(REFRESH);
        let (mut running, mut clients) = (JoinSet::new(), HashMap::new());
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                _ = refresh.tick() => self.refresh(&mut clients),
                _ = ticks.tick() => self.tick(&mut clients, &mut running),
                Some(sent) = running.join_next() => {
                    if let Ok(sent) = sent {
                        self.end(sent);
                    }
                }
            }
        }
        let rest = async {
            while self.outbox(|outbox| outbox.links().any(|(_, _, behind)| behind > 0)) || !running.is_empty() {
                self.tick(&mut clients, &mut running);
                while let Some(sent) = running.join_next().await {
                    if let Ok(sent) = sent {
                        self.end(sent);
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        if tokio::time::timeout(LEAVE, rest).await.is_err() {
            tracing::warn!("left before every other region knew what this node counted");
        }
    }

    /// Sends the messages of this interval.
    fn tick(&self, clients: &mut HashMap<String, GossipClient<Channel>>, running: &mut JoinSet<Sent>) {
        let now = self.clock.now();
        for message in self.outbox(|outbox| outbox.tick(now)) {
            self.begin(message, clients, running, now);
        }
        self.publish(now);
    }

    /// Follows the regions and their nodes.
    fn refresh(&self, clients: &mut HashMap<String, GossipClient<Channel>>) {
        self.directory.refresh();
        let regions = self.directory.regions();
        self.metrics.set_regions(&regions);
        self.outbox(|outbox| outbox.set_regions(regions.iter().map(|region| RegionNumber::of(region))));
        clients.retain(|address, _| self.directory.has_address(address));
    }

    fn begin(
        &self,
        message: Message,
        clients: &mut HashMap<String, GossipClient<Channel>>,
        running: &mut JoinSet<Sent>,
        now: NodeTime,
    ) {
        let Message { to, number, reports } = message;
        let address = self.directory.name(to).and_then(|region| self.directory.choose(&region, now));
        let Some(address) = address else {
            self.outbox(|outbox| outbox.fail(to, number));
            return;
        };
        let new = || client(&self.transport, &address, &self.config);
        let client = clients.entry(address.clone()).or_insert_with(new).clone();
        let deadline = deadline(&self.config);
        let (bytes, inflated_bytes) = wire::encode(&reports);
        self.metrics.sent(bytes.len(), reports.len());
        let told = Told {
            version: VERSION,
            cluster: self.config.cluster.clone(),
            region: self.config.region.clone(),
            node: self.config.node.clone(),
            hashed_keys: self.config.hashed_keys,
            reports: bytes,
            inflated_bytes,
        };
        running.spawn(async move {
            let mut client = client;
            let heard = tokio::time::timeout(deadline, client.tell(told)).await;
            let heard = heard.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            let heard = heard.map(tonic::Response::into_inner);
            let failed = heard.as_ref().map(|heard| heard.failed.as_slice()).unwrap_or_default();
            let key = |position: &u32| reports.get(usize::try_from(*position).ok()?).map(|report| report.key.clone());
            let failed_keys = failed.iter().filter_map(key).collect();
            Sent { to, number, address, failed_keys, heard }
        });
    }

    fn end(&self, sent: Sent) {
        let Sent { to, number, address, failed_keys, heard } = sent;
        let now = self.clock.now();
        self.metrics.ended(heard.is_ok());
        match heard {
            Ok(Heard { memory, partitioned, .. }) => {
                let tells_again = self.outbox(|outbox| {
                    outbox.hear_partitioned(to, number, partitioned, now);
                    failed_keys.iter().for_each(|key| outbox.retell(key));
                    outbox.acknowledge(to, number, memory, now)
                });
                if tells_again {
                    tracing::info!(%address, "tells everything: another region may have forgotten what it was told");
                }
            }
            Err(error) => {
                tracing::debug!(%address, %error, "another region did not hear this node");
                self.directory.avoid(address, now);
                self.outbox(|outbox| outbox.fail(to, number));
            }
        }
    }

    /// Tells the cores and the metrics what is known of the other regions.
    fn publish(&self, now: NodeTime) {
        let (links, since, stats) = self.outbox(|outbox| {
            let links: Vec<_> = outbox
                .links()
                .map(|(region, link, behind)| {
                    (region, link.partitioned_since().is_some(), link.heard_us_ago(now), behind)
                })
                .collect();
            *self.partitioned.lock().unwrap_or_else(PoisonError::into_inner) = outbox.partitioned().collect();
            (links, outbox.partitioned_since(), outbox.stats())
        });
        for (region, partitioned, heard_us_ago, behind) in &links {
            if let Some(name) = self.directory.name(*region) {
                let changed = self.metrics.set_link(&name, *partitioned, heard_us_ago.unwrap_or(0), *behind);
                if changed {
                    let after = self.config.partition_after;
                    if *partitioned {
                        tracing::warn!(
                            region = name,
                            ?after,
                            "another region does not hear this node: it is partitioned"
                        );
                    } else {
                        tracing::info!(region = name, "another region hears this node again");
                    }
                }
            }
        }
        self.metrics.set_outbox(stats);
        let view = self.view_of(since, links.is_empty());
        self.view.send_if_modified(|known| std::mem::replace(known, view) != view);
    }
}

/// How long a message may take.
pub fn deadline(config: &RegionsConfig) -> Duration {
    (config.partition_after / 2).clamp(MIN_DEADLINE, MAX_DEADLINE)
}

/// A client of another region's node. It connects at the first call.
pub fn client(transport: &Arc<dyn Transport>, address: &str, config: &RegionsConfig) -> GossipClient<Channel> {
    let endpoint = Endpoint::from_static("http://region.invalid")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_millis(micros(config.partition_after) / 1000));
    let connector = Connector { transport: Arc::clone(transport), address: address.to_owned() };
    GossipClient::new(endpoint.connect_with_connector_lazy(connector))
}
