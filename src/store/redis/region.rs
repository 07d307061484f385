//! A node's place in its region: finds the primaries, compares the region's constants, says that it is there and hears who
//! else is, and judges the servers' settings. Runs apart from the cores: no check waits for it.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use counter_script::{Script, Tags, slot};
use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use super::advice::{self, Advice};
use super::complaints::Complaints;
use super::connection::{CallError, Connection, Manner};
use super::fence::{Fence, Handover};
use super::links::Links;
use super::location::Deployment;
use super::topology::{Lookout, Topology};
use super::{RedisConfig, RedisStore, TlsError, fence, tls};
use crate::ports::{BoxFuture, CounterStore, Region, RegionState, Unfit};

/// A node's heartbeat.
static MEMBERS: Script = Script::new(include_str!("members.lua"));

/// How often a node says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// A topology that seems to be another is looked at again no sooner than that.
const PAUSE: Duration = Duration::from_millis(100);
/// A member counts for so long after its last heartbeat, in milliseconds.
const MEMBER_MS: u32 = 10_000;
/// A member that so many heartbeats of others did not name is gone.
const MISSED: u32 = 10;
/// A node that was found fit so often writes the constants again where they became others: whoever wrote them came later.
const SENIOR: u32 = 10;
/// The topology is asked for with every so-many-th heartbeat.
const LOOK_EVERY: u32 = 5;
/// Settings are judged with every so-many-th heartbeat.
const JUDGE_EVERY: u32 = 15;
/// With so many heartbeats it is tried to tell an old primary that it was replaced.
const TELLS: u32 = 60;
/// What these keys are under, so that one script reaches both.
const TAG: &str = "{region}";

/// The region's Redis, as one process sees it.
pub struct RedisRegion {
    config: RedisConfig,
    tags: Arc<Tags>,
    manner: Manner,
    lookout: Lookout,
    links: Links,
    topology: watch::Sender<Option<Arc<Topology>>>,
    stale: Arc<Notify>,
    holders: watch::Sender<u32>,
    stores: Mutex<Vec<Weak<RedisStore>>>,
    complaints: Arc<Complaints>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reached: bool,
    /// Heartbeats that found the region's constants to be this node's.
    beats: u32,
    /// What is the matter; empty when all is well.
    trouble: String,
    advice: Vec<Advice>,
    /// Members by name, with how many heartbeats did not name them.
    members: HashMap<String, u32>,
}

impl RedisRegion {
    /// # Errors
    /// When there can be no TLS as it is asked for.
    pub fn new(config: RedisConfig) -> Result<Self, TlsError> {
        let redis = &config.redis;
        let manner = Manner {
            username: redis.username.clone(),
            password: redis.password.clone(),
            database: redis.database,
            tls: if redis.tls { Some(tls::connector(config.authorities.as_deref())?) } else { None },
            deadline: config.deadline,
            metrics: Arc::clone(&config.metrics),
        };
        // What no check waits for may take longer.
        let calm = Manner { deadline: config.deadline.max(PAUSE * 5), ..manner.clone() };
        Ok(Self {
            tags: Arc::new(Tags::new(config.tags)),
            lookout: Lookout::new(redis, &calm),
            links: Links::new(calm),
            topology: watch::Sender::new(None),
            stale: Arc::new(Notify::new()),
            holders: watch::Sender::new(config.cores),
            stores: Mutex::default(),
            complaints: Arc::default(),
            state: Mutex::default(),
            manner,
            config,
        })
    }

    /// Until the region's constants were compared nothing is sent: stores learn of no primary.
    async fn follow(&self) -> Unfit {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0u32;
        let mut found: Option<Arc<Topology>> = None;
        let mut judged: Vec<Arc<Connection>> = Vec::new();
        // Old primaries that could not be told that they were replaced, and how often it is still tried.
        let mut fences: Vec<(Fence, u32)> = Vec::new();
        // Why no topology was found.
        let mut unknown = String::new();
        loop {
            // Between two beats it looks again when something seems to have changed.
            let on_beat = tokio::select! {
                _ = beat.tick() => true,
                () = self.stale.notified() => false,
            };
            let up = self.links.all().iter().all(|connection| connection.is_up());
            let whole = found.as_ref().is_some_and(|topology| topology.is_whole());
            if !on_beat || !up || !whole || self.lookout.is_cheap() || beats.is_multiple_of(LOOK_EVERY) {
                match self.lookout.find(&self.links.all()).await {
                    Ok(topology) => found = Some(Arc::new(topology)),
                    Err(why) => unknown = why,
                }
            }
            let mut refusal = (found.is_none() && !unknown.is_empty()).then(|| unknown.clone());
            if let Some(topology) = &found
                && let Some(held_up) = self.hand_over(topology, &mut fences).await
            {
                // What was known is asked until then, and this is tried again soon.
                if let Some(why) = held_up {
                    refusal = Some(why);
                    self.stale.notify_one();
                }
                found = self.topology.borrow().clone();
            }
            if let Some(topology) = &found {
                // Those that are new have their time before they are missed.
                let new = self.links.keep(&topology.primaries());
                join_all(new.iter().map(|connection| connection.connected())).await;
                match self.beat(topology, on_beat).await {
                    Ok(()) => self.publish(topology, true),
                    Err(Trouble::Unfit(unfit)) => return unfit,
                    Err(Trouble::Store(why)) => {
                        refusal = why;
                        // Compared once is compared: one dead primary is no reason to lose the others.
                        self.publish(topology, false);
                    }
                }
            }
            // Old primaries that could not be told yet, as long as somebody may still ask them.
            let mut still = Vec::new();
            for (fence, times) in fences.drain(..) {
                if fence.set().await.is_none() && times > 0 {
                    still.push((fence, times - u32::from(on_beat)));
                }
            }
            fences = still;
            self.links.look().await;
            let connections: Vec<_> = self.links.all();
            join_all(connections.iter().map(|connection| connection.ping())).await;
            self.tell(found.is_some(), &connections, refusal);
            let up: Vec<_> = connections.into_iter().filter(|connection| connection.is_up()).collect();
            let known = |connection: &Arc<Connection>| judged.iter().any(|j| Arc::ptr_eq(j, connection));
            if on_beat && (beats.is_multiple_of(JUDGE_EVERY) || !up.iter().all(known)) {
                judged = self.judge(up).await;
            }
            if on_beat {
                beats = beats.wrapping_add(1);
                self.complaints.age();
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Before stores are told of another primary than they know, the old one is told that it was replaced. Answers nothing where
    /// they may be told, else why they may not yet, if that is a trouble. A cluster has its own way.
    async fn hand_over(&self, topology: &Topology, fences: &mut Vec<(Fence, u32)>) -> Option<Option<String>> {
        let known = self.topology.borrow().clone();
        let (Some(known), Some(key), [new]) = (known, self.fence(), &*topology.primaries()) else { return None };
        if *known == *topology {
            return None;
        }
        match fence::hand_over(&self.links, &known.primaries(), new, &key).await {
            Ok(Handover::Done(to_tell)) => {
                *fences = to_tell.into_iter().map(|fence| (fence, TELLS)).collect();
                None
            }
            Ok(Handover::SameServer) => Some(None),
            Err(why) => Some(Some(why)),
        }
    }

    /// The key that says that a server was replaced.
    fn fence(&self) -> Option<Bytes> {
        (self.config.redis.deployment != Deployment::Cluster).then(|| self.key("fence"))
    }

    /// Tells stores of a topology that is new to them; of the first only when the constants were `compared`.
    fn publish(&self, topology: &Arc<Topology>, compared: bool) {
        self.topology.send_if_modified(|known| {
            let new = known.as_ref() != Some(topology) && (compared || known.is_some());
            if new {
                tracing::info!(primaries = ?names(topology), "the region's Redis");
                *known = Some(Arc::clone(topology));
            }
            new
        });
    }

    /// One heartbeat; `counts` says that who is not named in it is missed.
    async fn beat(&self, topology: &Topology, counts: bool) -> Result<(), Trouble> {
        const SILENT: Trouble = Trouble::Store(None);
        let keys = [self.key("constants"), self.key("members")];
        let address = topology.primary(slot(&keys[0])).ok_or(SILENT)?;
        let connection = self.links.get_or_open(address);
        if !connection.connected().await {
            return Err(SILENT);
        }
        let constants = self.constants();
        let senior = u32::from(self.state().beats >= SENIOR).to_string();
        let arguments = [constants.clone(), self.name(), MEMBER_MS.to_string(), senior].map(Bytes::from);
        let answer = connection.script(&MEMBERS, &keys, &arguments, false).await.map_err(|error| {
            Trouble::Store(match error {
                CallError::Refused(why) => Some(format!("{address}: {why}")),
                CallError::Moved(_) if self.config.redis.deployment != Deployment::Cluster => {
                    Some(format!("{address} is of a cluster: use redis-cluster://"))
                }
                _ => None,
            })
        })?;
        let Value::Array(answer) = answer else { return Err(SILENT) };
        let [kept, Value::Array(members)] = answer.as_slice() else { return Err(SILENT) };
        let kept = kept.as_string().unwrap_or_default();
        if kept != constants {
            let key = String::from_utf8_lossy(&keys[0]).into_owned();
            let why = format!("the region counts with {kept:?} (in {key}), this node with {constants:?}");
            return Err(Trouble::Unfit(Unfit(why)));
        }
        let members: Vec<String> = members.iter().filter_map(Value::as_string).collect();
        self.heard(members, counts);
        Ok(())
    }

    /// Members that are named are there; those that are not are remembered for a while, for a store may have forgotten.
    fn heard(&self, named: Vec<String>, counts: bool) {
        let mut state = self.state();
        state.reached = true;
        state.beats = state.beats.saturating_add(u32::from(counts));
        state.members.values_mut().for_each(|missed| *missed += u32::from(counts));
        state.members.extend(named.into_iter().map(|name| (name, 0)));
        state.members.retain(|_, missed| *missed < MISSED);
        let cores = |name: &String| name.rsplit('/').next().and_then(|cores| cores.parse::<u32>().ok());
        let holders = state.members.keys().filter_map(cores).fold(0, u32::saturating_add).max(self.config.cores);
        drop(state);
        self.holders.send_if_modified(|known| std::mem::replace(known, holders) != holders);
    }

    /// Notes what is the matter with the store.
    fn tell(&self, found: bool, connections: &[Arc<Connection>], refusal: Option<String>) {
        let down: Vec<String> = connections.iter().filter(|c| !c.is_up()).map(|c| c.trouble()).collect();
        let trouble = match refusal {
            Some(refusal) => refusal,
            None if !found => "no answer".to_owned(),
            // What cores of this node were told by servers that answer.
            None if down.is_empty() => self.complaints.standing().unwrap_or_default(),
            None => format!("no answer from {}", down.join(", ")),
        };
        let mut state = self.state();
        if state.trouble != trouble {
            match trouble.as_str() {
                "" => tracing::info!("the region's Redis is all there"),
                trouble => tracing::warn!(store = trouble, "the region's Redis is not all there"),
            }
            state.trouble = trouble;
        }
    }

    /// Judges every primary's settings; answers which could be.
    async fn judge(&self, connections: Vec<Arc<Connection>>) -> Vec<Arc<Connection>> {
        let (mut judged, mut found) = (Vec::new(), Vec::new());
        for connection in connections {
            if let Some(advice) = advice::of(&connection, self.config.redis.deployment == Deployment::Cluster).await {
                found.extend(advice);
                judged.push(connection);
            }
        }
        found.sort();
        found.dedup();
        let mut state = self.state();
        for new in found.iter().filter(|new| !state.advice.contains(new)) {
            tracing::warn!(advice = new.word(), "{}", new.text());
        }
        for advice in Advice::ALL {
            self.config.metrics.store_advice(advice.word(), found.contains(&advice));
        }
        state.advice = found;
        judged
    }

    /// What all nodes of a region must have alike to count together.
    fn constants(&self) -> String {
        format!("version=1 tags={} hash=crc16", self.tags.count())
    }

    /// This process among the members; its holders come last.
    fn name(&self) -> String {
        format!("{}/{:x}/{}", self.config.node, self.config.boot, self.config.cores)
    }

    fn key(&self, what: &str) -> Bytes {
        format!("{}:{}:{TAG}{what}", self.config.key_prefix, self.config.region).into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a heartbeat was none.
enum Trouble {
    /// With what the store said, if anything.
    Store(Option<String>),
    Unfit(Unfit),
}

fn names(topology: &Topology) -> Vec<String> {
    topology.primaries().iter().map(ToString::to_string).collect()
}

impl Region for RedisRegion {
    fn store(&self) -> Arc<dyn CounterStore> {
        let begin = |(tag, _)| format!("{}:{}:{{{tag}}}", self.config.key_prefix, self.config.region).into_bytes();
        let store = Arc::new(RedisStore {
            begin: self.tags.each().map(begin).collect(),
            fence: self.fence(),
            tags: Arc::clone(&self.tags),
            links: Links::new(self.manner.clone()),
            routes: Mutex::default(),
            topology: self.topology.subscribe(),
            stale: Arc::clone(&self.stale),
            complaints: Arc::clone(&self.complaints),
            reached: AtomicBool::new(false),
        });
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&store));
        store
    }

    fn holders(&self) -> watch::Receiver<u32> {
        self.holders.subscribe()
    }

    fn state(&self) -> RegionState {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let by_all = stores.iter().filter_map(Weak::upgrade).all(|store| store.is_reached());
        let state = self.state();
        let reached = state.reached && by_all;
        let store = match state.trouble.as_str() {
            "" if reached => "ok".to_owned(),
            "" => "no answer yet".to_owned(),
            trouble => trouble.to_owned(),
        };
        let advice = state.advice.iter().map(|advice| advice.text()).collect();
        RegionState { reached, store, advice }
    }

    fn keep(&self) -> BoxFuture<'_, Unfit> {
        Box::pin(async {
            tokio::select! {
                unfit = self.follow() => unfit,
                () = self.lookout.watch(&self.stale) => std::future::pending().await,
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let key = self.key("members");
            let topology = self.topology.borrow().clone();
            let address = topology.as_ref().and_then(|topology| topology.primary(slot(&key)));
            if let Some(address) = address {
                let member = self.name();
                let key = String::from_utf8_lossy(&key).into_owned();
                // Whoever cannot say so is missed in time.
                let _ = self.links.get_or_open(address).command("ZREM", &[&key, &member]).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::location::{Address, RedisLocation};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn region() -> RedisRegion {
        let redis = RedisLocation {
            deployment: Deployment::Single,
            tls: false,
            seeds: vec![Address::new("127.0.0.1".to_owned(), 1)],
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            database: 0,
        };
        RedisRegion::new(RedisConfig {
            redis,
            authorities: None,
            region: "us-east".to_owned(),
            node: "a".to_owned(),
            boot: 10,
            cores: 2,
            key_prefix: "tidegate".to_owned(),
            tags: 32,
            deadline: Duration::from_millis(100),
            metrics: Arc::new(Metrics::new("1", "abc").unwrap()),
        })
        .unwrap()
    }

    #[test]
    fn holders_are_the_cores_of_all_members_and_outlast_a_store_that_forgot() {
        let region = region();
        assert_eq!(*region.holders().borrow(), 2, "itself");
        let hears = |names: &[&str]| region.heard(names.iter().map(|name| (*name).to_owned()).collect(), true);
        hears(&["a/a/2", "b/7/4"]);
        assert_eq!(*region.holders().borrow(), 6);
        hears(&["a/a/2", "nonsense"]);
        assert_eq!(*region.holders().borrow(), 6, "b is missed for a while");
        (0..MISSED).for_each(|_| region.heard(vec!["a/a/2".to_owned()], false));
        assert_eq!(*region.holders().borrow(), 6, "looks between two beats do not count");
        (0..MISSED).for_each(|_| hears(&["a/a/2"]));
        assert_eq!(*region.holders().borrow(), 2);
    }
}
