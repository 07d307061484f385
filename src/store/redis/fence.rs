//! Fences a primary that was replaced and does not know it: it must not charge counters any more.
//!
//! The first node that notices the replacement fences the old primary before any core of that node calls the new one.
//! From then on the old primary grants nothing to any node, so the other nodes look for its successor.

use std::sync::Arc;

use bytes::Bytes;

use super::super::location::Address;
use super::call_error::CallError;
use super::connection::Connection;
use super::connection_pool::ConnectionPool;

/// How long a fence holds, in milliseconds. Nodes look for the primary once a second, and a Sentinel makes the old one
/// a replica within about ten seconds. A fence that was set in error expires by itself.
const FENCE_MS: u32 = 30_000;

/// The result of a handover to a new primary.
pub enum Handover {
    /// The new primary may be called. These old primaries are not fenced yet.
    Done(Vec<Fence>),
    /// The new address leads to the server that is known already: the connection to it stays.
    SameServer,
}

/// What a server replies to the fence script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceReply {
    /// The server is a primary and is fenced now.
    Fenced,
    /// The server is the successor itself.
    Successor,
    /// The server is a replica.
    Replica,
}

/// A fence for an old primary.
pub struct Fence {
    old: Arc<Connection>,
    key: Bytes,
    /// The replication id of the new primary.
    successor: Bytes,
}

impl Fence {
    /// Creates a fence with this key for `old`. `successor` is the replication id of the new primary.
    pub const fn new(old: Arc<Connection>, key: Bytes, successor: Bytes) -> Self {
        Self { old, key, successor }
    }

    /// Returns the address of the old primary.
    pub fn address(&self) -> &Address {
        &self.old.address
    }

    /// Fences the old primary if its connection is up. Returns its reply; `None` if there is none.
    pub async fn set(&self) -> Option<FenceReply> {
        if !self.old.is_up() {
            return None;
        }
        let reply = run_fence_script(&self.old, &self.key, &self.successor).await.ok()?;
        if reply == FenceReply::Fenced {
            let address = &self.old.address;
            tracing::info!(old = %address, ip = ?address.ip, "fenced the replaced primary: it grants nothing any more");
        }
        Some(reply)
    }
}

/// Fences the primaries in `old` other than `new`, then lifts the fence of the new one. `key` is the fence's key.
/// Returns the fences of the old primaries that did not reply.
///
/// # Errors
/// Why the new primary cannot be called yet.
pub async fn hand_over(pool: &ConnectionPool, old: &[Address], new: &Address, key: &Bytes) -> Result<Handover, String> {
    let successor = pool.get_or_open(new);
    if !successor.wait_connected().await {
        return Err(format!("no answer from the new primary {}", successor.address_and_error()));
    }
    let id = replication_id(&successor)
        .await
        .ok_or_else(|| format!("the new primary {new} does not act as a primary yet"))?;
    let mut unfenced = Vec::new();
    for address in old.iter().filter(|address| *address != new) {
        let fence = Fence::new(pool.get_or_open(address), key.clone(), id.clone().into());
        match fence.set().await {
            Some(FenceReply::Successor) => return Ok(Handover::SameServer),
            Some(FenceReply::Fenced | FenceReply::Replica) => {}
            None => {
                tracing::warn!(old = %address, %new, "the replaced primary is unreachable and not fenced yet");
                unfenced.push(fence);
            }
        }
    }
    match run_fence_script(&successor, key, &id.into()).await {
        Ok(_) => Ok(Handover::Done(unfenced)),
        Err(_) => Err(format!("no answer from the new primary {}", successor.address_and_error())),
    }
}

async fn run_fence_script(server: &Connection, key: &Bytes, successor: &Bytes) -> Result<FenceReply, CallError> {
    let arguments = [successor.clone(), FENCE_MS.to_string().into()];
    let reply = server.run_script(&counter_script::FENCE, std::slice::from_ref(key), &arguments, false).await?;
    // A fence whose outcome is unknown is tried again.
    Ok(match reply.into_string().as_deref() {
        Some("fenced") => FenceReply::Fenced,
        Some("successor") => FenceReply::Successor,
        Some("replica") => FenceReply::Replica,
        _ => return Err(CallError::Unknown),
    })
}

/// Returns the replication id of a server if it is a primary.
async fn replication_id(connection: &Connection) -> Option<String> {
    let info = connection.command("INFO", &["replication"]).await.ok()?;
    primary_replication_id(&info.as_string()?)
}

/// Returns the replication id in the section `replication` of `INFO` if the server is a primary.
fn primary_replication_id(info: &str) -> Option<String> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    (field("role") == Some("master")).then(|| field("master_replid").map(ToOwned::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_primary_has_a_replication_id_for_the_fence() {
        let info = |role: &str| format!("# Replication\r\nrole:{role}\r\nmaster_replid:8c7a\r\nmaster_replid2:00\r\n");
        assert_eq!(primary_replication_id(&info("master")).as_deref(), Some("8c7a"));
        assert_eq!(primary_replication_id(&info("slave")), None);
    }
}
