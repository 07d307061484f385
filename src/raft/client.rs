//! Asks other nodes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use proto::tidegate::cluster::cluster_client::ClusterClient;
use proto::tidegate::cluster::{Envelope, Rejection};
use tonic::transport::{Channel, Endpoint};

use super::contact::Contact;
use super::messages::{ANYONE, MAX_MESSAGE_BYTES, Reply, Request, VERSION};
use super::transport::{Connector, Transport};
use super::types::{MemberNode, TypeConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that answers nothing for the sum of these is given up.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why another node did not reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Io(String),
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("the node rejected the message: {}", rejection_text(*.0))]
    Rejected(Rejection),
    #[error("the node replied with something else")]
    Unexpected,
    #[error("the message is too large")]
    TooLarge,
    #[error("{0}")]
    Failed(String),
}

fn rejection_text(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::None => "no reason",
        Rejection::Cluster => "it belongs to another cluster",
        Rejection::Version => "it speaks an incompatible version of the protocol",
        Rejection::Removed => "the cluster has removed this node",
        Rejection::Target => "another node is at this address",
        Rejection::Unreadable => "it cannot read the message",
    }
}

/// Calls other nodes in the name of this one.
#[derive(Clone)]
pub struct Caller {
    pub cluster: Arc<str>,
    pub id: u64,
    pub transport: Arc<dyn Transport>,
    pub contact: Arc<Contact>,
}

impl Caller {
    /// A client for the node at `address`. It connects when it is first used, and again after a failure.
    fn channel(&self, address: &str) -> ClusterClient<Channel> {
        let endpoint = Endpoint::from_static("http://cluster.invalid")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let connector = Connector { transport: Arc::clone(&self.transport), address: address.to_owned() };
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client = ClusterClient::new(channel);
        client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Asks the node at `address` once, whatever its id is.
    ///
    /// # Errors
    /// Says why there is no reply within `deadline`.
    pub async fn ask(
        &self,
        address: &str,
        request: &Request,
        data: Vec<u8>,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        let call = self.call(self.channel(address), ANYONE, request, data);
        tokio::time::timeout(deadline, call).await.unwrap_or(Err(CallError::Deadline(deadline)))
    }

    async fn call(
        &self,
        mut client: ClusterClient<Channel>,
        target: u64,
        request: &Request,
        data: Vec<u8>,
    ) -> Result<Reply, CallError> {
        let request = serde_json::to_vec(request).map_err(|error| CallError::Io(error.to_string()))?;
        if request.len().saturating_add(data.len()) > MAX_MESSAGE_BYTES - 1024 {
            return Err(CallError::TooLarge);
        }
        let cluster = self.cluster.to_string();
        let envelope = Envelope { cluster, version: VERSION, sender: self.id, target, request, data };
        let answer = client.call(envelope).await.map_err(|status| CallError::Io(cause(&status)))?.into_inner();
        match answer.rejection() {
            Rejection::None => {}
            Rejection::Removed => {
                self.contact.set_removed();
                return Err(CallError::Rejected(Rejection::Removed));
            }
            rejection => return Err(CallError::Rejected(rejection)),
        }
        match serde_json::from_slice(&answer.reply) {
            Ok(Reply::Failed(text)) => Err(CallError::Failed(text)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(CallError::Io(error.to_string())),
        }
    }
}

/// The innermost cause says most.
fn cause(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, status as &dyn std::error::Error) { status.message().to_owned() } else { cause.to_string() }
}

impl RaftNetworkFactory<TypeConfig> for Caller {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        Peer { caller: self.clone(), target, client: self.channel(&node.address) }
    }
}

/// A member, as the Raft library calls it.
pub struct Peer {
    caller: Caller,
    target: u64,
    client: ClusterClient<Channel>,
}

impl Peer {
    async fn call(
        &self,
        kind: RPCTypes,
        request: Request,
        data: Vec<u8>,
        option: &RPCOption,
    ) -> Result<Reply, RPCError<u64, MemberNode>> {
        // A removed node sends nothing more.
        if self.caller.contact.is_removed() {
            return Err(Unreachable::new(&io::Error::other("the cluster has removed this node")).into());
        }
        let timeout = option.hard_ttl();
        let call = self.caller.call(self.client.clone(), self.target, &request, data);
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(CallError::TooLarge)) => {
                let Request::Append { request, .. } = request else {
                    return Err(NetworkError::new(&CallError::TooLarge).into());
                };
                match request.entries.len() as u64 {
                    0 | 1 => Err(NetworkError::new(&CallError::TooLarge).into()),
                    entries => Err(PayloadTooLarge::new_entries_hint(entries / 2).into()),
                }
            }
            // The library waits before it asks an unreachable node again. After other errors it asks at once.
            Ok(Err(error @ (CallError::Rejected(_) | CallError::Io(_)))) => Err(Unreachable::new(&error).into()),
            Ok(Err(error)) => Err(NetworkError::new(&error).into()),
            Err(_) => Err(Timeout { action: kind, id: self.caller.id, target: self.target, timeout }.into()),
        }
    }
}

fn unexpected() -> NetworkError {
    NetworkError::new(&CallError::Unexpected)
}

/// An error of the network is not one of the remote node.
fn widen<E: std::error::Error>(error: RPCError<u64, MemberNode>) -> RPCError<u64, MemberNode, E> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::PayloadTooLarge(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => NetworkError::new(&error).into(),
    }
}

type RpcResult<T, E = RaftError<u64>> = Result<T, RPCError<u64, MemberNode, E>>;

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        let quorum_age_ms = self.caller.contact.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let request = Request::Append { request, quorum_age_ms };
        match self.call(RPCTypes::AppendEntries, request, Vec::new(), &option).await.map_err(widen)? {
            Reply::Append(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        let InstallSnapshotRequest { vote, meta, offset, data, done } = request;
        let request = Request::Snapshot { vote, meta: Box::new(meta), offset, done };
        match self.call(RPCTypes::InstallSnapshot, request, data, &option).await.map_err(widen)? {
            Reply::Snapshot(vote) => Ok(InstallSnapshotResponse { vote }),
            Reply::SnapshotMismatch(mismatch) => {
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RemoteError::new(self.target, error).into())
            }
            _ => Err(unexpected().into()),
        }
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> RpcResult<VoteResponse<u64>> {
        match self.call(RPCTypes::Vote, Request::Vote(request), Vec::new(), &option).await.map_err(widen)? {
            Reply::Vote(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(200)))
    }
}
