//! A disk in memory that loses what was not synced when its node crashes, and that can be slow.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::StorageBackend;
use tidegate::ports::BoxFuture;
use tidegate::raft::disk::{Disk, RedbDisk, Write};

use crate::simulation::Random;

/// The platter of a node. It outlives the node.
#[derive(Default)]
pub struct Platter {
    bytes: Mutex<Bytes>,
    /// How long a write of the log takes, in milliseconds.
    pub slow_ms: AtomicU64,
}

#[derive(Default)]
struct Bytes {
    durable: Vec<u8>,
    /// What the node reads: `durable` with `pending`.
    current: Vec<u8>,
    pending: Vec<Change>,
    /// Counts the starts of the node. What an earlier process still does reaches nothing.
    process: u64,
}

#[derive(Clone)]
enum Change {
    Length(usize),
    Data(usize, Vec<u8>),
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(length, 0),
            Self::Data(at, data) => {
                // The change of the length may be lost.
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(&data);
            }
        }
    }
}

impl Platter {
    /// The process dies. Of the writes that were not synced, none, the first ones, or any may have reached the disk.
    pub fn crash(&self, random: &mut Random) {
        let mut bytes = self.bytes.lock().unwrap();
        bytes.process += 1;
        let pending = std::mem::take(&mut bytes.pending);
        let (kind, kept) = (random.below(3), random.below(pending.len() as u64 + 1) as usize);
        for (index, change) in pending.into_iter().enumerate() {
            let survives = match kind {
                0 => false,
                1 => index < kept,
                _ => random.below(2) == 0,
            };
            if survives {
                change.apply(&mut bytes.durable);
            }
        }
        bytes.current = bytes.durable.clone();
    }

    /// What a process that starts now sees.
    pub fn open(self: &Arc<Self>, forgets_committed: bool) -> SimulatedDisk {
        let process = self.bytes.lock().unwrap().process;
        let view = View { platter: Arc::clone(self), process };
        let disk = RedbDisk::on(view).unwrap();
        SimulatedDisk { disk, platter: Arc::clone(self), forgets_committed }
    }
}

struct View {
    platter: Arc<Platter>,
    process: u64,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process)
    }
}

impl View {
    fn with<T>(&self, act: impl FnOnce(&mut Bytes) -> T) -> io::Result<T> {
        let mut bytes = self.platter.bytes.lock().unwrap();
        if bytes.process == self.process { Ok(act(&mut bytes)) } else { Err(io::Error::other("the process is dead")) }
    }
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        self.with(|bytes| bytes.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|bytes| {
            let at = offset as usize;
            let part = bytes.current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(part);
            Ok(())
        })?
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|bytes| {
            let Bytes { durable, pending, .. } = bytes;
            pending.drain(..).for_each(|change| change.apply(durable));
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Data(offset as usize, data.to_vec()))
    }
}

impl View {
    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|bytes| {
            bytes.pending.push(change.clone());
            change.apply(&mut bytes.current);
        })
    }
}

/// The real store on the platter.
pub struct SimulatedDisk {
    disk: RedbDisk,
    platter: Arc<Platter>,
    /// The planted bug: what is committed is not stored.
    forgets_committed: bool,
}

impl Disk for SimulatedDisk {
    fn meta(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.meta(name)
    }

    fn entries(&self, range: std::ops::Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.disk.entries(range, max_bytes)
    }

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.disk.last_entry()
    }

    fn write(&self, mut writes: Vec<Write>) -> io::Result<()> {
        if self.forgets_committed {
            writes.retain(|write| !matches!(write, Write::Meta("committed", _)));
        }
        self.disk.write(writes)
    }

    fn write_log(&self, writes: Vec<Write>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let slow = self.platter.slow_ms.load(Ordering::Relaxed);
            if slow > 0 {
                tokio::time::sleep(Duration::from_millis(slow)).await;
            }
            self.write(writes)
        })
    }
}
