//! Backups of the replicated configuration: one file that any cluster of the same name can be restored from.

use plane::PlaneState;
use serde::{Deserialize, Serialize};

use super::store::Store;

const MAGIC: &[u8] = b"tidegate backup\n";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Backup {
    format: u32,
    cluster: String,
    state: PlaneState,
}

/// Writes a backup, encrypted as the log of the node is.
///
/// # Errors
/// Says why the state cannot be written.
pub fn make(store: &Store, cluster: &str, state: &PlaneState) -> Result<Vec<u8>, String> {
    let mut state = state.clone();
    // A restore forgets them, and they make the file larger.
    state.forget_recent();
    let backup = Backup { format: FORMAT, cluster: cluster.to_owned(), state };
    let json = serde_json::to_vec(&backup).map_err(|error| error.to_string())?;
    Ok([MAGIC, &store.seal_backup(&json)?].concat())
}

/// Reads a backup of the cluster named `cluster`.
///
/// # Errors
/// Says why the backup is not used.
pub fn open(store: &Store, cluster: &str, bytes: &[u8]) -> Result<PlaneState, String> {
    let sealed = bytes.strip_prefix(MAGIC).ok_or("backup: expected a file that `tidegate cluster backup` wrote")?;
    let json = store.open_backup(sealed).map_err(|why| format!("the backup {why}"))?;
    let backup: Backup = serde_json::from_slice(&json).map_err(|error| format!("backup: {error}"))?;
    if backup.format != FORMAT {
        return Err(format!("backup: has the format {}, and this version reads the format {FORMAT}", backup.format));
    }
    if backup.cluster != cluster {
        return Err(format!("backup: of the cluster {}, not of {cluster}", backup.cluster));
    }
    Ok(backup.state)
}
