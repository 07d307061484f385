//! Changes of the members. The leader makes them, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use plane::{Command, DROP_LEARNER_AFTER, Outcome};
use tokio::time::timeout;

use super::backup;
use super::client::CallError;
use super::contact::now;
use super::group::{Group, Report};
use super::messages::{Announced, Announcement, MAX_MESSAGE_BYTES, Reply, Request};
use super::types::{MemberNode, Proposal};
use crate::ports::plane::{ConsensusError, MemberChange, Role};

type Changes = ChangeMembers<u64, MemberNode>;
type WriteError = RaftError<u64, ClientWriteError<u64, MemberNode>>;

/// The largest proposal. A message of the log with nothing else in it must fit into one message.
const MAX_PROPOSAL_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 20);
/// How often the leader looks after the members.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

fn invalid(text: impl Into<String>) -> ConsensusError {
    ConsensusError::Invalid(text.into())
}

impl Group {
    fn write_error(&self, error: WriteError) -> ConsensusError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                ConsensusError::NotLeader { leader: forward.leader_node.map(|node| node.name) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                ChangeMembershipError::InProgress(_) => invalid("another change of the members is being made"),
                error => invalid(error.to_string()),
            },
            RaftError::Fatal(_) => ConsensusError::Unknown,
        }
    }

    /// Proposes, and waits for the outcome until the deadline of writes.
    pub async fn propose(&self, proposal: Proposal) -> Result<Option<Outcome>, ConsensusError> {
        let bytes = serde_json::to_vec(&proposal).map_err(|error| invalid(error.to_string()))?.len();
        if bytes > MAX_PROPOSAL_BYTES {
            return Err(invalid(format!("the change has {bytes} bytes: expected at most {MAX_PROPOSAL_BYTES}")));
        }
        self.written(self.raft.client_write(proposal)).await.map(|response| response.data.0)
    }

    async fn change(&self, changes: Changes, retain: bool) -> Result<(), ConsensusError> {
        self.written(self.raft.change_membership(changes, retain)).await.map(drop)
    }

    /// Waits for a write until the deadline of writes, or until this node stops: the library calls an answer that does
    /// not come an error, and logs it.
    async fn written<T>(&self, write: impl Future<Output = Result<T, WriteError>>) -> Result<T, ConsensusError> {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => Err(ConsensusError::Unknown),
            written = timeout(self.config.timings.write, write) => match written {
                Ok(written) => written.map_err(|error| self.write_error(error)),
                Err(_) => Err(ConsensusError::Unknown),
            },
        }
    }

    /// Makes a change at the leader: here, or at the node that leads, which must do it itself.
    pub async fn administer(&self, change: MemberChange) -> Result<(), ConsensusError> {
        match change {
            MemberChange::Init { voters } => return self.init(voters).await,
            MemberChange::Snapshot => {
                return self.raft.trigger().snapshot().await.map_err(|_| ConsensusError::Stopping);
            }
            _ => {}
        }
        if self.caller.contact.is_removed() {
            return Err(ConsensusError::Removed);
        }
        let own = self.raft_metrics().id;
        let Some((_, leader)) = self.leader().filter(|(id, _)| *id != own) else {
            return self.lead_change(change).await;
        };
        let (change, data) = match change {
            MemberChange::Restore { backup } => (MemberChange::Restore { backup: Vec::new() }, backup),
            change => (change, Vec::new()),
        };
        let timings = &self.config.timings;
        let deadline = timings.write.saturating_mul(3).saturating_add(timings.catch_up);
        match self.caller.ask(&leader.address, &Request::Administer(change), data, deadline).await {
            Ok(Reply::Administered(done)) => done,
            Ok(_) | Err(CallError::Failed(_) | CallError::Rejected(_)) => {
                Err(ConsensusError::NotLeader { leader: Some(leader.name) })
            }
            Err(CallError::TooLarge) => Err(invalid("the backup is too large")),
            Err(_) => Err(ConsensusError::Unknown),
        }
    }

    /// Makes a change that only the leader can make.
    pub async fn lead_change(&self, change: MemberChange) -> Result<(), ConsensusError> {
        let own = self.caller.id;
        match self.leader() {
            None => return Err(ConsensusError::NoQuorum),
            Some((id, node)) if id != own => return Err(ConsensusError::NotLeader { leader: Some(node.name) }),
            Some(_) => {}
        }
        if let MemberChange::Restore { backup } = &change {
            let state = backup::open(self.machine.store(), &self.config.cluster, backup).map_err(invalid)?;
            let restored = self.propose(Proposal::Command(Box::new(Command::Restore { state: Box::new(state) }))).await;
            return restored.map(drop);
        }
        let _changing = timeout(self.config.timings.write, self.changing.lock()).await;
        let _changing = _changing.map_err(|_| invalid("another change of the members is being made"))?;
        match change {
            MemberChange::Promote { node } => self.promote(&node).await,
            MemberChange::Demote { node } => self.demote(&node).await,
            MemberChange::Remove { node } => self.remove(&node).await,
            MemberChange::Init { .. } | MemberChange::Snapshot | MemberChange::Restore { .. } => {
                Err(invalid("the leader is not asked for this"))
            }
        }
    }

    /// The id of the member with this name, what is known of it, and whether it votes.
    fn find(&self, name: &str) -> Option<(u64, MemberNode, bool)> {
        let metrics = self.raft_metrics();
        let membership = metrics.membership_config.membership();
        let (id, node) = membership.nodes().find(|(_, node)| node.name == name)?;
        let votes = membership.voter_ids().any(|voter| voter == *id);
        Some((*id, node.clone(), votes))
    }

    fn known(&self, name: &str) -> Result<(u64, MemberNode, bool), ConsensusError> {
        self.find(name).ok_or_else(|| invalid(format!("the cluster has no member {name}")))
    }

    fn is_last_voter(&self, id: u64) -> bool {
        self.raft_metrics().membership_config.voter_ids().all(|voter| voter == id)
    }

    async fn promote(&self, name: &str) -> Result<(), ConsensusError> {
        let (id, node, votes) = self.known(name)?;
        if votes {
            return Ok(());
        }
        if !node.keeps_disk {
            return Err(invalid(format!("{name} has no cluster.data_dir: a voter must keep its log on a disk")));
        }
        self.caught_up(id, name).await?;
        self.change(Changes::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// Waits until a learner has the log of the leader, as it was when the wait began.
    async fn caught_up(&self, id: u64, name: &str) -> Result<(), ConsensusError> {
        let mut metrics = self.raft.metrics();
        let goal = metrics.borrow().last_log_index.unwrap_or_default();
        let matched = |metrics: &super::types::Metrics| {
            let replication = metrics.replication.as_ref()?;
            Some(replication.get(&id).copied().flatten().map_or(0, |matched| matched.index))
        };
        let reached = metrics.wait_for(|metrics| matched(metrics).is_none_or(|index| index >= goal));
        let reached = timeout(self.config.timings.catch_up, reached).await.map(|metrics| metrics.map(drop));
        let index = matched(&metrics.borrow());
        match (reached, index) {
            (_, None) => Err(ConsensusError::NotLeader { leader: None }),
            (Ok(_), Some(_)) => Ok(()),
            (Err(_), Some(index)) => {
                Err(invalid(format!("{name} has not caught up: it has {index} of {goal} log entries")))
            }
        }
    }

    async fn demote(&self, name: &str) -> Result<(), ConsensusError> {
        let (id, _, votes) = self.known(name)?;
        if !votes {
            return Ok(());
        }
        if self.is_last_voter(id) {
            return Err(invalid(format!("{name} is the last voter")));
        }
        self.change(Changes::RemoveVoters(BTreeSet::from([id])), true).await
    }

    async fn remove(&self, name: &str) -> Result<(), ConsensusError> {
        let (id, _, votes) = self.known(name)?;
        if votes && self.is_last_voter(id) {
            return Err(invalid(format!("{name} is the last voter")));
        }
        // The decision comes first. If this leader fails then, the next one completes it.
        self.propose(Proposal::Remove { id }).await?;
        self.complete_removal(id).await
    }

    async fn complete_removal(&self, id: u64) -> Result<(), ConsensusError> {
        let votes = self.raft_metrics().membership_config.voter_ids().any(|voter| voter == id);
        let ids = BTreeSet::from([id]);
        self.change(if votes { Changes::RemoveVoters(ids) } else { Changes::RemoveNodes(ids) }, false).await?;
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    /// Forms a new cluster of `voters`, of which this node must be one.
    async fn init(&self, voters: Vec<(String, String)>) -> Result<(), ConsensusError> {
        let names: BTreeSet<&String> = voters.iter().map(|(name, _)| name).collect();
        if voters.is_empty() || names.len() != voters.len() {
            return Err(invalid("voters: expected at least one, each name once"));
        }
        if !names.contains(&self.config.node) {
            return Err(invalid(format!(
                "voters: {} is asked to form the cluster, and is none of them",
                self.config.node
            )));
        }
        let mut members = BTreeMap::new();
        for (name, address) in &voters {
            let identified = if *name == self.config.node {
                self.identify()
            } else {
                let reply = self.caller.ask(address, &Request::Identify, Vec::new(), self.config.timings.write).await;
                match reply {
                    Ok(Reply::Identified(identified)) => identified,
                    Ok(_) => return Err(invalid(format!("{name} at {address}: the node replied with something else"))),
                    Err(error) => return Err(invalid(format!("{name} at {address}: {error}"))),
                }
            };
            if identified.node.name != *name {
                let found = &identified.node.name;
                return Err(invalid(format!("{name} at {address}: the node there is {found}")));
            }
            if identified.initialised {
                return Err(invalid(format!("{name} at {address}: it is in a cluster already")));
            }
            if !identified.node.keeps_disk {
                return Err(invalid(format!("{name} has no cluster.data_dir: a voter must keep its log on a disk")));
            }
            if members.insert(identified.id, identified.node).is_some() {
                return Err(invalid(format!("{name} at {address}: another voter has the same address")));
            }
        }
        self.raft.initialize(members).await.map_err(|error| invalid(error.to_string()))
    }

    /// Notes what a node says of itself. The leader admits it if it is no member.
    pub async fn announced(&self, id: u64, announcement: Announcement) -> Announced {
        match self.leader() {
            None => return Announced::NoLeader,
            Some((leader, node)) if leader != self.caller.id => return Announced::Leader(node.address),
            Some(_) => {}
        }
        let Announcement { node, revision } = announcement;
        let report = Report { at: now(), revision };
        if self.raft_metrics().membership_config.membership().get_node(&id) != Some(&node) {
            let Ok(_changing) = timeout(self.config.timings.write, self.changing.lock()).await else {
                return Announced::NoLeader;
            };
            match self.admit(id, node).await {
                Ok(()) => {}
                Err(ConsensusError::Invalid(reason)) => return Announced::Refused(reason),
                Err(_) => return Announced::NoLeader,
            }
        }
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).insert(id, report);
        Announced::Member
    }

    async fn admit(&self, id: u64, node: MemberNode) -> Result<(), ConsensusError> {
        let same_name = self.find(&node.name).filter(|(other, ..)| *other != id);
        if let Some((other, _, votes)) = same_name {
            let name = &node.name;
            if votes {
                let text =
                    format!("a voter has the name {name}: `tidegate cluster remove {name}` lets another take it");
                return Err(invalid(text));
            }
            // A learner without a disk has a new id after each start.
            self.propose(Proposal::Remove { id: other }).await?;
            self.complete_removal(other).await?;
        }
        let known = self.raft_metrics().membership_config.membership().get_node(&id).map(|node| node.name.clone());
        if let Some(known) = known.as_ref().filter(|known| **known != node.name) {
            return Err(invalid(format!(
                "the member with this data_dir has the name {known}: `tidegate cluster remove {known}` and an empty \
                 data_dir let it take another"
            )));
        }
        let is_member = known.is_some();
        let nodes = BTreeMap::from([(id, node)]);
        self.change(if is_member { Changes::SetNodes(nodes) } else { Changes::AddNodes(nodes) }, true).await
    }

    /// Lets a learner go, until it announces itself again. Returns false if it votes, or if this node does not lead.
    pub async fn left(&self, id: u64) -> bool {
        let Ok(_changing) = timeout(self.config.timings.write, self.changing.lock()).await else { return false };
        let votes = self.raft_metrics().membership_config.voter_ids().any(|voter| voter == id);
        !votes && self.drop_learner(id).await.is_ok()
    }

    async fn drop_learner(&self, id: u64) -> Result<(), ConsensusError> {
        self.change(Changes::RemoveNodes(BTreeSet::from([id])), true).await?;
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    /// Leaves the cluster for now, if this node is a learner.
    pub async fn leave(&self) {
        let metrics = self.raft_metrics();
        let own = metrics.id;
        let membership = metrics.membership_config.membership();
        if membership.get_node(&own).is_none() || membership.voter_ids().any(|voter| voter == own) {
            return;
        }
        *self.leaving.lock().await = true;
        let Some((_, leader)) = self.leader() else { return };
        let asked = self.caller.ask(&leader.address, &Request::Leave, Vec::new(), self.config.timings.write).await;
        if !matches!(asked, Ok(Reply::Left(true))) {
            tracing::warn!("the leader did not confirm that this learner leaves; it will drop it later");
        }
    }

    /// What a leader does besides: it completes changes that an earlier leader began, and drops learners that were not
    /// seen for long.
    pub async fn keep_house(&self) {
        let mut leads_since = None;
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            let leads = matches!(*self.role.borrow(), Role::Leader { .. });
            if !leads {
                leads_since = None;
                continue;
            }
            let since = *leads_since.get_or_insert_with(now);
            let Ok(_changing) = self.changing.try_lock() else { continue };
            if let Err(error) = self.complete(since).await {
                tracing::debug!(%error, "the members could not be brought in order yet");
            }
        }
    }

    async fn complete(&self, leads_since: tokio::time::Instant) -> Result<(), ConsensusError> {
        let metrics = self.raft_metrics();
        let membership = metrics.membership_config.membership();
        if let [_, .., target] = &membership.get_joint_config()[..] {
            self.change(Changes::ReplaceAllVoters(target.clone()), true).await?;
        }
        for id in self.machine.leaving() {
            self.complete_removal(id).await?;
        }
        let limit = self.drop_learner_after();
        let learners: Vec<u64> = membership.learner_ids().collect();
        for id in learners {
            let seen = self.reports.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|report| report.at);
            let seen = seen.map_or(leads_since, |at| at.max(leads_since));
            if now().saturating_duration_since(seen) >= limit {
                self.drop_learner(id).await?;
            }
        }
        Ok(())
    }

    fn drop_learner_after(&self) -> Duration {
        let plane = self.machine.plane();
        let set = plane.borrow().settings().get(DROP_LEARNER_AFTER.name).and_then(serde_json::Value::as_u64);
        Duration::from_millis(set.unwrap_or(DROP_LEARNER_AFTER.default))
    }
}

/// Bounds a wait by `deadline`.
///
/// # Errors
/// Returns [`ConsensusError::Unknown`] at the deadline.
pub async fn within<T>(
    deadline: Duration,
    future: impl Future<Output = Result<T, ConsensusError>>,
) -> Result<T, ConsensusError> {
    timeout(deadline, future).await.unwrap_or(Err(ConsensusError::Unknown))
}
