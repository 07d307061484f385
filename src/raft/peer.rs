//! A member, as the Raft library calls it.

use std::io;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use proto::tidegate::cluster::cluster_client::ClusterClient;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::client::{CallError, Caller};
use super::messages::{Reply, Request};
use super::types::{LogId, MemberNode, TypeConfig, Vote};

/// A longer append is sent apart from the heartbeats.
const LARGE_BYTES: usize = 128 << 10;
/// How long a large append may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);

impl RaftNetworkFactory<TypeConfig> for Caller {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        let link = Link { caller: self.clone(), target, client: self.channel(&node.address) };
        Peer { link, transfer: None }
    }
}

/// A member, as the Raft library calls it.
pub struct Peer {
    link: Link,
    /// It goes on while the library gives up a call and makes it again.
    transfer: Option<Transfer>,
}

/// How a member is called.
struct Link {
    caller: Caller,
    target: u64,
    client: ClusterClient<Channel>,
}

/// A large append on its way. The library gives every append the time of a heartbeat, which is too short for it.
struct Transfer {
    vote: Vote,
    prev: Option<LogId>,
    last: LogId,
    task: JoinSet<Result<Reply, CallError>>,
}

type RpcResult<T, E = RaftError<u64>> = Result<T, RPCError<u64, MemberNode, E>>;

fn failed<E: std::error::Error>(error: &CallError) -> RPCError<u64, MemberNode, E> {
    match error {
        // The library waits before it asks an unreachable node again. After other errors it asks at once.
        CallError::Rejected(_) | CallError::Io(_) => Unreachable::new(error).into(),
        _ => NetworkError::new(error).into(),
    }
}

#[expect(clippy::result_large_err, reason = "the error is that of the Raft library")]
fn appended(reply: Result<Reply, CallError>) -> RpcResult<AppendEntriesResponse<u64>> {
    match reply {
        Ok(Reply::Append(response)) => Ok(response),
        Ok(_) => Err(failed(&CallError::Unexpected)),
        Err(error) => Err(failed(&error)),
    }
}

impl Link {
    async fn call<E: std::error::Error>(
        &self,
        action: RPCTypes,
        request: Vec<u8>,
        data: Vec<u8>,
        time: Duration,
    ) -> RpcResult<Reply, E> {
        // A removed node sends nothing more.
        if self.caller.contact.is_removed() {
            return Err(Unreachable::new(&io::Error::other("the cluster has removed this node")).into());
        }
        match timeout(time, self.caller.send(self.client.clone(), self.target, request, data)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(Timeout { action, id: self.caller.id, target: self.target, timeout: time }.into()),
        }
    }

    fn append(&self, request: AppendEntriesRequest<TypeConfig>) -> Result<Vec<u8>, NetworkError> {
        let quorum_age_ms = self.caller.contact.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        json(&Request::Append { request, quorum_age_ms })
    }

    async fn append_now(&self, request: Vec<u8>, time: Duration) -> RpcResult<AppendEntriesResponse<u64>> {
        appended(Ok(self.call(RPCTypes::AppendEntries, request, Vec::new(), time).await?))
    }

    fn transfer(&self, vote: Vote, prev: Option<LogId>, last: LogId, request: Vec<u8>) -> Transfer {
        let (caller, client, target) = (self.caller.clone(), self.client.clone(), self.target);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let sent = timeout(TRANSFER_TIMEOUT, caller.send(client, target, request, Vec::new())).await;
            sent.unwrap_or(Err(CallError::Deadline(TRANSFER_TIMEOUT)))
        });
        Transfer { vote, prev, last, task }
    }
}

fn json(request: &Request) -> Result<Vec<u8>, NetworkError> {
    serde_json::to_vec(request).map_err(|error| NetworkError::new(&error))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        let time = option.hard_ttl();
        let AppendEntriesRequest { vote, prev_log_id: prev, leader_commit, .. } = request;
        let Some(last) = request.entries.last().map(|entry| entry.log_id) else {
            return self.link.append_now(self.link.append(request)?, time).await;
        };
        self.transfer.take_if(|known| known.vote != vote || known.prev != prev);
        let transfer = match &mut self.transfer {
            Some(known) => known,
            none => {
                let bytes = self.link.append(request)?;
                if bytes.len() <= LARGE_BYTES {
                    return self.link.append_now(bytes, time).await;
                }
                none.insert(self.link.transfer(vote, prev, last, bytes))
            }
        };
        // While a large append is on its way, a heartbeat keeps the member from calling an election.
        let heartbeat = AppendEntriesRequest { vote, prev_log_id: prev, leader_commit, entries: Vec::new() };
        let heartbeat = self.link.append(heartbeat)?;
        let beat = async {
            let response = self.link.append_now(heartbeat, time / 2).await;
            if matches!(response, Ok(AppendEntriesResponse::Success)) {
                tokio::time::sleep(time / 4).await;
            }
            response
        };
        let sent = transfer.last;
        tokio::select! {
            Some(ended) = transfer.task.join_next() => {
                self.transfer = None;
                let ended = ended.unwrap_or(Err(CallError::Failed("the transfer panicked".to_owned())));
                match appended(ended)? {
                    // The library may have added entries meanwhile.
                    AppendEntriesResponse::Success if last > sent => {
                        Ok(AppendEntriesResponse::PartialSuccess(Some(sent)))
                    }
                    response => Ok(response),
                }
            }
            response = beat => match response? {
                // The member has the entry before the large ones, and follows.
                AppendEntriesResponse::Success => Ok(AppendEntriesResponse::PartialSuccess(prev)),
                response => Ok(response),
            },
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        let InstallSnapshotRequest { vote, meta, offset, data, done } = request;
        let request = json(&Request::Snapshot { vote, meta: Box::new(meta), offset, done })?;
        match self.link.call(RPCTypes::InstallSnapshot, request, data, option.hard_ttl()).await? {
            Reply::Snapshot(vote) => Ok(InstallSnapshotResponse { vote }),
            Reply::SnapshotMismatch(mismatch) => {
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RemoteError::new(self.link.target, error).into())
            }
            _ => Err(failed(&CallError::Unexpected)),
        }
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> RpcResult<VoteResponse<u64>> {
        let request = json(&Request::Vote(request))?;
        match self.link.call(RPCTypes::Vote, request, Vec::new(), option.hard_ttl()).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(failed(&CallError::Unexpected)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(200)))
    }
}
