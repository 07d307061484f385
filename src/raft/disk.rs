//! Where a node keeps its Raft state: a file, or memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError};

use crate::ports::BoxFuture;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The name of the file in `cluster.data_dir`.
pub const FILE: &str = "raft.redb";
/// The memory for pages that were read.
const CACHE_BYTES: usize = 16 << 20;

/// One part of an atomic write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a name.
    Meta(&'static str, Vec<u8>),
    /// Sets a log entry.
    Entry(u64, Vec<u8>),
    /// Removes log entries.
    RemoveEntries(Range<u64>),
}

/// Keeps values by name, and log entries by index. The values are sealed already.
pub trait Disk: Send + Sync + 'static {
    /// Reads the value of a name.
    ///
    /// # Errors
    /// Returns an error if the storage fails or is damaged, as do the other functions.
    fn meta(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Reads entries in order: at least one of those in `range`, and no more than make up about `max_bytes`.
    ///
    /// # Errors
    /// See [`Self::meta`].
    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Vec<u8>)>>;
    /// Reads the last entry.
    ///
    /// # Errors
    /// See [`Self::meta`].
    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>>;
    /// Makes all of `writes` or none, and returns when a crash can no longer undo them.
    ///
    /// # Errors
    /// See [`Self::meta`].
    fn write(&self, writes: Vec<Write>) -> io::Result<()>;
    /// Does what [`Self::write`] does, for the log. A disk that is slow may let other tasks run meanwhile.
    ///
    /// # Errors
    /// See [`Self::meta`].
    fn write_log(&self, writes: Vec<Write>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(self.write(writes)))
    }
}

/// A redb database.
pub struct RedbDisk(Database);

impl RedbDisk {
    /// Opens the file in `folder`, and creates both if they do not exist.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, is in use, or is damaged: all of it is verified.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.open(&path) {
            // redb would take an empty file for a new one.
            Ok(file) if file.metadata()?.len() == 0 => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
            }
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(folder, &path),
            Err(error) => return Err(error),
        };
        drop(file);
        builder().open(&path).map(Self).map_err(failed)
    }

    /// A new file appears under its name only when it is complete, so that a crash leaves no empty file.
    fn create(folder: &Path, path: &Path) -> io::Result<Self> {
        let unfinished = folder.join(format!("{FILE}.new"));
        let _ = fs::remove_file(&unfinished);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        }
        let disk = Self::prepare(builder().create(&unfinished).map_err(failed)?)?;
        fs::rename(&unfinished, path)?;
        File::open(folder)?.sync_all()?;
        Ok(disk)
    }

    /// Keeps everything in memory.
    ///
    /// # Errors
    /// See [`Self::on`].
    pub fn in_memory() -> io::Result<Self> {
        Self::on(redb::backends::InMemoryBackend::new())
    }

    /// Keeps everything in `backend`.
    ///
    /// # Errors
    /// Returns an error if the backend fails or is damaged.
    pub fn on(backend: impl StorageBackend) -> io::Result<Self> {
        Self::prepare(builder().create_with_backend(backend).map_err(failed)?)
    }

    fn prepare(database: Database) -> io::Result<Self> {
        let transaction = database.begin_write().map_err(failed)?;
        transaction.open_table(META).map_err(failed)?;
        transaction.open_table(LOG).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(Self(database))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn failed(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        redb::Error::DatabaseAlreadyOpen => io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"),
        error @ (redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_)) => {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
        error => io::Error::other(error),
    }
}

impl Disk for RedbDisk {
    fn meta(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let transaction = self.0.begin_read().map_err(failed)?;
        match transaction.open_table(META) {
            Ok(table) => Ok(table.get(name).map_err(failed)?.map(|value| value.value().to_vec())),
            Err(TableError::TableDoesNotExist(_)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a table is missing"))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let transaction = self.0.begin_read().map_err(failed)?;
        let table = transaction.open_table(LOG).map_err(failed)?;
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        for entry in table.range(range).map_err(failed)? {
            let (index, value) = entry.map_err(failed)?;
            bytes = bytes.saturating_add(value.value().len());
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push((index.value(), value.value().to_vec()));
        }
        Ok(entries)
    }

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let transaction = self.0.begin_read().map_err(failed)?;
        let table = transaction.open_table(LOG).map_err(failed)?;
        let last = table.last().map_err(failed)?;
        Ok(last.map(|(index, value)| (index.value(), value.value().to_vec())))
    }

    fn write(&self, writes: Vec<Write>) -> io::Result<()> {
        let transaction = self.0.begin_write().map_err(failed)?;
        {
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let mut log = transaction.open_table(LOG).map_err(failed)?;
            for write in writes {
                match write {
                    Write::Meta(name, value) => drop(meta.insert(name, value.as_slice()).map_err(failed)?),
                    Write::Entry(index, value) => drop(log.insert(index, value.as_slice()).map_err(failed)?),
                    Write::RemoveEntries(range) => log.retain_in(range, |_, _| false).map_err(failed)?,
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}
