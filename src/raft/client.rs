//! Asks other nodes.

use std::sync::Arc;
use std::time::Duration;

use proto::tidegate::cluster::cluster_client::ClusterClient;
use proto::tidegate::cluster::{Envelope, Rejection};
use tonic::transport::{Channel, Endpoint};

use super::contact::Contact;
use super::messages::{ANYONE, MAX_MESSAGE_BYTES, Reply, Request, VERSION};
use crate::peers::{Connector, Transport};

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
        Rejection::Certificate => "the certificate of this node does not name it",
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
    pub fn channel(&self, address: &str) -> ClusterClient<Channel> {
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
        client: ClusterClient<Channel>,
        target: u64,
        request: &Request,
        data: Vec<u8>,
    ) -> Result<Reply, CallError> {
        let request = serde_json::to_vec(request).map_err(|error| CallError::Failed(error.to_string()))?;
        self.send(client, target, request, data).await
    }

    /// Sends a request that is in JSON already.
    pub async fn send(
        &self,
        mut client: ClusterClient<Channel>,
        target: u64,
        request: Vec<u8>,
        data: Vec<u8>,
    ) -> Result<Reply, CallError> {
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
            rejection => {
                // Soon after a node has changed, another one may be at its address.
                if rejection != Rejection::Target {
                    self.contact.rejected(rejection_text(rejection));
                }
                return Err(CallError::Rejected(rejection));
            }
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
