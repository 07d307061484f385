//! A running node of the group: what it knows, and its loops.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use limiter::Revision;
use openraft::ServerState;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{CallError, Caller};
use super::config::RaftConfig;
use super::contact::now;
use super::machine::Machine;
use super::messages::{Announced, Announcement, Identified, Reply, Request};
use super::metrics::RaftMetrics;
use super::types::{MemberNode, Metrics, Raft};
use crate::ports::plane::{ClusterStatus, Member, MemberRole, Role};

/// A running node of the group.
pub struct Group {
    pub config: RaftConfig,
    pub caller: Caller,
    pub raft: Raft,
    pub machine: Machine,
    pub metrics: RaftMetrics,
    pub role: watch::Sender<Role>,
    /// What members reported to this node.
    pub reports: Mutex<BTreeMap<u64, Report>>,
    /// Changes of the members are made one after the other.
    pub changing: tokio::sync::Mutex<()>,
    /// True once this node leaves: it does not announce itself any more. It is held during an announcement, so that
    /// none is on its way when the node leaves.
    pub leaving: tokio::sync::Mutex<bool>,
    /// True once the node or its Raft stops. Nothing waits for Raft any more.
    pub stopping: watch::Sender<bool>,
}

/// What a member reported last.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub at: Instant,
    pub revision: Revision,
}

impl Group {
    pub fn raft_metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// This node, as the others see it.
    pub fn node(&self) -> MemberNode {
        let RaftConfig { node, region, advertise, data_dir, .. } = &self.config;
        let (name, region, address) = (node.clone(), region.clone(), advertise.clone());
        MemberNode { name, region, address, keeps_disk: data_dir.is_some() }
    }

    pub fn revision(&self) -> Revision {
        self.machine.plane().borrow().mark().revision
    }

    pub fn identify(&self) -> Identified {
        let metrics = self.raft_metrics();
        let initialised = metrics.last_log_index.is_some() || metrics.membership_config.nodes().next().is_some();
        Identified { id: self.caller.id, node: self.node(), initialised }
    }

    /// The leader that this node knows: its id, and what the members know of it.
    pub fn leader(&self) -> Option<(u64, MemberNode)> {
        let metrics = self.raft_metrics();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some((id, node.clone()))
    }

    /// Follows what the Raft library says and what the contact to a quorum is. Returns when Raft has stopped.
    pub async fn watch(&self) -> String {
        let mut metrics = self.raft.metrics();
        let (mut candidate_term, mut fresh) = (None, true);
        loop {
            let now = metrics.borrow_and_update().clone();
            if let Err(fatal) = &now.running_state {
                return fatal.to_string();
            }
            if now.state == ServerState::Candidate && candidate_term != Some(now.current_term) {
                candidate_term = Some(now.current_term);
                self.metrics.election();
            }
            self.observe(&now, fresh);
            let changed = tokio::time::timeout(self.config.timings.heartbeat, metrics.changed()).await;
            if let Ok(Err(_)) = changed {
                return "it has stopped".to_owned();
            }
            fresh = changed.is_ok();
        }
    }

    fn observe(&self, metrics: &Metrics, fresh: bool) {
        let contact = &self.caller.contact;
        if metrics.state == ServerState::Leader {
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            if voters == [metrics.id] {
                contact.heard(Duration::ZERO);
            } else if let Some(age) = metrics.millis_since_quorum_ack.filter(|_| fresh) {
                // The age is that of the instant at which the metrics were written: it counts once.
                contact.heard(Duration::from_millis(age));
            }
        }
        if self.machine.has_removed(self.caller.id) {
            contact.set_removed();
        }
        let role = self.role_of(metrics);
        if role == Role::Removed {
            self.raft.runtime_config().elect(false);
        }
        let changed = self.role.send_if_modified(|known| std::mem::replace(known, role) != role);
        if changed && role == Role::Removed {
            tracing::error!("the cluster has removed this node: it gets no newer rules and no revocations");
        }
        let leads = matches!(role, Role::Leader { .. });
        let members = metrics.membership_config.nodes().count();
        let index = metrics.last_log_index.unwrap_or_default();
        self.metrics.set(metrics.current_term, leads, index, self.revision(), members);
    }

    fn role_of(&self, metrics: &Metrics) -> Role {
        if self.caller.contact.is_removed() {
            return Role::Removed;
        }
        if metrics.membership_config.membership().get_node(&metrics.id).is_none() {
            return Role::Joining;
        }
        let term = metrics.current_term;
        // The first entry of a leader's term follows everything that earlier leaders committed.
        let applied = metrics.last_applied.is_some_and(|applied| applied.leader_id.term == term);
        let followed = self.caller.contact.age().is_some_and(|age| age < self.config.quorum_timeout());
        if metrics.state == ServerState::Leader && applied && followed { Role::Leader { term } } else { Role::Follower }
    }

    /// Reports to the leader, and asks to be admitted while this node is no member.
    pub async fn announce(&self) {
        let mut warned = false;
        loop {
            let member = self.announce_once(&mut warned).await;
            let timings = &self.config.timings;
            tokio::time::sleep(if member { timings.report } else { timings.heartbeat }).await;
        }
    }

    /// Returns true if the leader confirmed that this node is a member.
    async fn announce_once(&self, warned: &mut bool) -> bool {
        let leaving = self.leaving.lock().await;
        let metrics = self.raft_metrics();
        if *leaving || metrics.current_leader == Some(metrics.id) || self.caller.contact.is_removed() {
            return true;
        }
        let mut addresses: Vec<String> = self.leader().map(|(_, node)| node.address).into_iter().collect();
        let knows_leader = !addresses.is_empty();
        let others = metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id);
        let others = others.map(|(_, node)| node.address.clone());
        addresses.extend(self.config.join.iter().cloned().chain(others));
        let announcement = Announcement { node: self.node(), revision: self.revision() };
        let request = Request::Announce(announcement);
        let mut asked = Vec::new();
        // An address that was named as the leader's is asked next.
        while let Some(address) = (!addresses.is_empty()).then(|| addresses.remove(0)) {
            if address == self.config.advertise || asked.contains(&address) {
                continue;
            }
            asked.push(address.clone());
            let reply = self.caller.ask(&address, &request, Vec::new(), self.config.timings.write).await;
            match reply {
                Ok(Reply::Announced(Announced::Member)) => {
                    *warned = false;
                    return true;
                }
                Ok(Reply::Announced(Announced::Leader(leader))) => addresses.insert(0, leader),
                Ok(Reply::Announced(Announced::Refused(reason))) => {
                    if !std::mem::replace(warned, true) {
                        tracing::error!(%address, %reason, "the cluster does not admit this node");
                    }
                    return false;
                }
                Ok(_) => {}
                // It is logged already.
                Err(CallError::Rejected(_)) => {}
                Err(error) if !std::mem::replace(warned, true) => {
                    tracing::warn!(%address, %error, "no member has answered this node: it goes on asking");
                }
                Err(error) => tracing::debug!(%address, %error, "a member did not answer"),
            }
        }
        knows_leader
    }

    /// What this node knows of the cluster.
    pub fn status(&self) -> ClusterStatus {
        let metrics = self.raft_metrics();
        let leads = metrics.current_leader == Some(metrics.id);
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| {
            let own = *id == metrics.id;
            let report = reports.get(id).filter(|_| leads);
            let matched = metrics.replication.as_ref().and_then(|replication| replication.get(id)).copied().flatten();
            let role = match id {
                // A voter that was demoted may lead a moment longer, without a vote.
                id if !voters.contains(id) => MemberRole::Learner,
                id if metrics.current_leader == Some(*id) => MemberRole::Leader,
                _ => MemberRole::Voter,
            };
            let log_index = if own { metrics.last_log_index } else { matched.map(|matched| matched.index) };
            let last_seen = report.map(|report| now().saturating_duration_since(report.at));
            Member {
                name: node.name.clone(),
                region: node.region.clone(),
                role,
                address: node.address.clone(),
                log_index,
                revision: if own { Some(self.revision()) } else { report.map(|report| report.revision) },
                last_seen_ms: match last_seen {
                    _ if own => Some(0),
                    age => age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                },
            }
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        ClusterStatus {
            name: self.config.cluster.clone(),
            node: self.config.node.clone(),
            leader: self.leader().map(|(_, node)| node.name),
            term: metrics.current_term,
            revision: self.revision(),
            members,
        }
    }
}
