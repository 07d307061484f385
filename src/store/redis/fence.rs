//! A primary that was replaced, and does not know it, must not count on.
//!
//! Whoever notices that another server is the primary now tells the old one, before any core of its own node asks the new
//! one. From then on the old one grants nothing to anybody, so other nodes look for its successor.

use std::sync::Arc;

use bytes::Bytes;

use super::connection::{CallError, Connection};
use super::links::Links;
use super::location::Address;

/// How long a fence holds, in milliseconds. Nodes ask who the primary is once a second, and a Sentinel makes the old one a
/// replica within about ten. A fence that should not be there ends by itself.
const HOLDS_MS: u32 = 30_000;

/// What came of a handover.
pub enum Handover {
    /// Cores may ask the new primary.
    Done(Vec<Fence>),
    /// It is the server that is known already, under another address: the connection to it stays.
    SameServer,
}

/// An old primary that could not be told yet that it was replaced.
pub struct Fence {
    old: Arc<Connection>,
    key: Bytes,
    successor: Bytes,
}

impl Fence {
    /// Tells the old primary, if it can be reached now. Answers what it says.
    pub async fn set(&self) -> Option<String> {
        if !self.old.is_up() {
            return None;
        }
        let said = tell(&self.old, &self.key, &self.successor).await.ok()?;
        if said == "fenced" {
            tracing::info!(old = %self.old.address, ip = ?self.old.address.ip, "told the replaced primary that it counts no more");
        }
        Some(said)
    }
}

/// Tells the primaries that are `old` and not `new` that they were replaced, and the new one that it is the primary. `key` is
/// the fence's. Answers which old ones could not be told.
///
/// # Errors
/// Why the new primary cannot be asked yet.
pub async fn hand_over(links: &Links, old: &[Address], new: &Address, key: &Bytes) -> Result<Handover, String> {
    let successor = links.get_or_open(new);
    if !successor.connected().await {
        return Err(format!("no answer from the new primary {}", successor.trouble()));
    }
    let id = primary_id(&successor).await.ok_or_else(|| format!("{new} was named and is no primary yet"))?;
    let mut to_tell = Vec::new();
    for address in old.iter().filter(|address| *address != new) {
        let fence = Fence { old: links.get_or_open(address), key: key.clone(), successor: id.clone().into() };
        match fence.set().await.as_deref() {
            Some("successor") => return Ok(Handover::SameServer),
            Some(_) => {}
            None => {
                tracing::warn!(old = %address, %new, "the replaced primary cannot be reached");
                to_tell.push(fence);
            }
        }
    }
    match tell(&successor, key, &id.into()).await {
        Ok(_) => Ok(Handover::Done(to_tell)),
        Err(_) => Err(format!("no answer from the new primary {}", successor.trouble())),
    }
}

async fn tell(server: &Connection, key: &Bytes, successor: &Bytes) -> Result<String, CallError> {
    let arguments = [successor.clone(), HOLDS_MS.to_string().into()];
    let said = server.script(&counter_script::FENCE, std::slice::from_ref(key), &arguments, false).await?;
    Ok(said.into_string().unwrap_or_default())
}

/// The replication id of a server that is a primary.
async fn primary_id(connection: &Connection) -> Option<String> {
    let info = connection.command("INFO", &["replication"]).await.ok()?;
    id_of_primary(&info.as_string()?)
}

fn id_of_primary(info: &str) -> Option<String> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    (field("role") == Some("master")).then(|| field("master_replid").map(ToOwned::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_primary_takes_over() {
        let info = |role: &str| format!("# Replication\r\nrole:{role}\r\nmaster_replid:8c7a\r\nmaster_replid2:00\r\n");
        assert_eq!(id_of_primary(&info("master")).as_deref(), Some("8c7a"));
        assert_eq!(id_of_primary(&info("slave")), None);
    }
}
