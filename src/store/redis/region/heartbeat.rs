//! A node's heartbeat: compares the region's constants, keeps the node a member, and learns the other members.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use counter_script::{Script, slot};
use fred::types::Value;

use super::super::call_error::CallError;
use super::super::topology::Topology;
use super::RedisRegion;
use super::Unfit;
use super::members::MAX_MEMBERS;

static HEARTBEAT: Script = Script::new(include_str!("heartbeat.lua"));

/// How long a heartbeat makes a node a member, in milliseconds.
const MEMBER_MS: u32 = 10_000;
/// After this many matching heartbeats a node overwrites changed constants: the writer must have joined later.
const ESTABLISHED_BEATS: u32 = 10;
/// The most characters of constants that are not ours, in the log and in `/ready`.
const MAX_SHOWN: usize = 200;

/// Why a heartbeat failed.
pub(super) enum HeartbeatError {
    /// The primary did not answer.
    NoAnswer,
    /// The primary returned an error, or belongs to another kind of deployment than configured. For the log and
    /// `/ready`.
    Failed(String),
    /// The region's constants are not this node's, and never were.
    Unfit(Unfit),
}

impl RedisRegion {
    /// Sends one heartbeat. `counts` says that the members that it does not name get a miss.
    pub(super) async fn heartbeat(&self, topology: &Topology, counts: bool) -> Result<(), HeartbeatError> {
        let left = self.left.lock().await;
        if *left {
            return Ok(());
        }
        let keys = [self.key("constants"), self.key("members")];
        let address = topology.primary(slot(&keys[0])).ok_or(HeartbeatError::NoAnswer)?;
        let connection = self.pool.get_or_open(address);
        if !connection.wait_connected().await {
            return Err(HeartbeatError::NoAnswer);
        }
        let established = u32::from(self.lock_state().matching_heartbeats >= ESTABLISHED_BEATS);
        let (constants, member) = (self.constants.to_string(), self.own_member.to_string());
        let numbers = [MEMBER_MS, established, MAX_MEMBERS].map(|number| number.to_string());
        let arguments: Vec<Bytes> = [constants, member].into_iter().chain(numbers).map(Bytes::from).collect();
        let reply = connection.run_script(&HEARTBEAT, &keys, &arguments, false).await.map_err(|error| match error {
            CallError::ServerError(error) => HeartbeatError::Failed(format!("{address}: {error}")),
            // One of the keys is none of ours, for example.
            CallError::Interrupted(error) => {
                let [constants, members] = [&keys[0], &keys[1]].map(|key| String::from_utf8_lossy(key));
                HeartbeatError::Failed(format!("{address}: {error} (keys {constants} and {members})"))
            }
            CallError::Moved(_) if !self.in_cluster() => {
                HeartbeatError::Failed(format!("{address} is part of a cluster: use redis-cluster://"))
            }
            _ => HeartbeatError::NoAnswer,
        })?;
        let Value::Array(reply) = reply else { return Err(HeartbeatError::NoAnswer) };
        let [in_force, Value::Array(members)] = reply.as_slice() else { return Err(HeartbeatError::NoAnswer) };
        let Some(in_force) = in_force.as_string() else { return Err(HeartbeatError::NoAnswer) };
        if !self.constants.matches(&in_force) {
            let (key, own) = (String::from_utf8_lossy(&keys[0]), self.constants.to_string());
            // Whoever wrote them may have written much more than constants.
            let shown: String = in_force.chars().take(MAX_SHOWN).collect();
            let why = format!("the region's constants are {shown:?} (key {key}), this node's are {own:?}");
            // A node that has counted with its region goes on without the store: the record may be wrong, or may be put
            // right.
            if self.lock_state().reached {
                self.constants_differ.store(true, Ordering::Relaxed);
                return Err(HeartbeatError::Failed(why));
            }
            return Err(HeartbeatError::Unfit(Unfit(why)));
        }
        let members: Vec<String> = members.iter().filter_map(Value::as_string).collect();
        self.constants_differ.store(false, Ordering::Relaxed);
        self.update_members(&members, counts);
        Ok(())
    }

    /// Records a successful heartbeat and the members that it named. Ignores texts that are no members.
    pub(super) fn update_members(&self, named: &[String], counts: bool) {
        let mut state = self.lock_state();
        state.reached = true;
        state.matching_heartbeats = state.matching_heartbeats.saturating_add(u32::from(counts));
        state.members.update(named.iter().filter_map(|text| text.parse().ok()), counts);
        let holders = state.members.total_cores().max(self.config.cores);
        drop(state);
        self.holders.send_if_modified(|known| std::mem::replace(known, holders) != holders);
    }

    /// Removes this process from the members, and sends no more heartbeats.
    pub(super) async fn remove_own_member(&self) {
        *self.left.lock().await = true;
        let key = self.key("members");
        let topology = self.topology.borrow().clone();
        let address = topology.as_ref().and_then(|topology| topology.primary(slot(&key)));
        if let Some(address) = address {
            let member = self.own_member.to_string();
            let key = String::from_utf8_lossy(&key).into_owned();
            // If this fails, the other nodes miss the member's heartbeats.
            let _ = self.pool.get_or_open(address).command("ZREM", &[&key, &member]).await;
        }
    }
}
