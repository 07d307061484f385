//! The rule file as a source of rules: read again when it changes or when told to; the last good book stays in force.
//!
//! The file is looked at, not subscribed to: that sees a rename, a write in place and a symlink swapped alike, on every
//! file system. What is being written is not taken: a text counts once it was read twice.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use tokio::sync::watch;

use super::rules::{FileError, compile};
use crate::ports::RuleSource;
use crate::telemetry::metrics::Metrics;
use limiter::Revision;
use limiter::rules::{Diff, RuleBook};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The largest rule file, in bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// A watched rule file.
pub struct FileRules {
    books: watch::Receiver<Arc<RuleBook>>,
    /// The watch ends when this is dropped.
    again: SyncSender<()>,
}

/// Why a rule file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{file}: {error}")]
    Unreadable { file: String, error: io::Error },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<FileError>),
}

impl Refused {
    /// Every error with its place, for programs.
    pub fn errors(&self) -> Vec<serde_json::Value> {
        match self {
            Self::Unreadable { file, error } => vec![serde_json::json!({ "file": file, "message": error.to_string() })],
            Self::Wrong(errors) => {
                let json = |e: &FileError| {
                    let FileError { file, place, field, message } = e;
                    let (line, column) = (place.line, place.column);
                    serde_json::json!({ "file": file, "line": line, "column": column, "field": field, "message": message })
                };
                errors.iter().map(json).collect()
            }
        }
    }
}

/// Reads a rule file.
pub fn read(path: &Path) -> Result<String, Refused> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let read = read.and_then(|bytes| match bytes as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("expected at most {MAX_BYTES} bytes"))),
        false => Ok(()),
    });
    read.map(|()| text).map_err(|error| Refused::Unreadable { file: path.display().to_string(), error })
}

/// Whether it can be read again and again without waiting for somebody to write, as a pipe cannot.
fn regular(path: &Path) -> Result<(), Refused> {
    let regular = std::fs::metadata(path).and_then(|file| match file.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("expected a regular file")),
    });
    regular.map_err(|error| Refused::Unreadable { file: path.display().to_string(), error })
}

/// Reads and compiles a rule file.
pub fn load(path: &Path, revision: Revision) -> Result<(String, RuleBook), Refused> {
    let text = read(path)?;
    let book = compile(&path.display().to_string(), &text, revision).map_err(Refused::Wrong)?;
    Ok((text, book))
}

/// When the file came to be as it is here, in milliseconds since the epoch.
///
/// Uses ctime, not mtime: a rollback installs an old file and must still get a newer revision.
fn committed_at_ms(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| {
        let changed = file.ctime().saturating_mul(1000).saturating_add(file.ctime_nsec() / 1_000_000);
        u64::try_from(changed).unwrap_or(0)
    })
}

impl FileRules {
    /// Reads the file, and watches it from then on.
    ///
    /// # Errors
    /// When the file is not good to begin with.
    pub fn watch(path: PathBuf, metrics: Arc<Metrics>) -> Result<Self, Refused> {
        let (text, book) = load(&path, Revision::NONE.next(committed_at_ms(&path)))?;
        metrics.rules_read(true);
        let (publish, books) = watch::channel(Arc::new(book));
        let (again, told) = mpsc::sync_channel(1);
        let mut watcher = Watcher { path, publish, metrics, tried: text, seen: None, unreadable: None };
        #[expect(clippy::disallowed_methods, reason = "it ends when the source is dropped")]
        std::thread::spawn(move || {
            loop {
                match told.recv_timeout(LOOK) {
                    Ok(()) => watcher.look(true),
                    Err(RecvTimeoutError::Timeout) => watcher.look(false),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
        Ok(Self { books, again })
    }

    /// Reads the file at once, changed or not.
    pub fn reload(&self) {
        // One that is asked for already will do.
        let _ = self.again.try_send(());
    }
}

impl RuleSource for FileRules {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.books.clone()
    }
}

struct Watcher {
    path: PathBuf,
    publish: watch::Sender<Arc<RuleBook>>,
    metrics: Arc<Metrics>,
    /// The text that was last compiled.
    tried: String,
    /// Another text that was read once.
    seen: Option<String>,
    /// Why the file could not be read, which was told.
    unreadable: Option<String>,
}

impl Watcher {
    fn look(&mut self, at_once: bool) {
        let text = match regular(&self.path).and_then(|()| read(&self.path)) {
            Ok(text) => text,
            Err(refused) => {
                let why = refused.to_string();
                if self.unreadable.as_ref() != Some(&why) || at_once {
                    tracing::error!(error = why, "the rule file cannot be read: the rules stay as they are");
                    self.metrics.rules_read(false);
                }
                self.unreadable = Some(why);
                return;
            }
        };
        self.unreadable = None;
        if !at_once {
            if text == self.tried {
                self.seen = None;
                return;
            }
            if self.seen.as_ref() != Some(&text) {
                self.seen = Some(text);
                return;
            }
        }
        self.take(text);
    }

    fn take(&mut self, text: String) {
        let old = Arc::clone(&self.publish.borrow());
        let compiled = compile(&self.path.display().to_string(), &text, old.revision.next(committed_at_ms(&self.path)));
        (self.tried, self.seen) = (text, None);
        match compiled {
            Ok(book) if book.hash == old.hash => tracing::info!(revision = %old.revision, "the rules say the same"),
            Ok(book) => {
                let diff = old.diff(&book);
                self.metrics.rules_read(true);
                self.metrics.rules_changed(&diff);
                let Diff { added, removed, changed } = &diff;
                let [added, removed, changed] = [added, removed, changed].map(|names| names.join(" "));
                tracing::info!(revision = %book.revision, added, removed, changed, "new rules are in force");
                self.publish.send_replace(Arc::new(book));
            }
            Err(errors) => {
                self.metrics.rules_read(false);
                for error in &errors {
                    tracing::error!(%error, "the rule file is refused: the rules stay as they are");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file system's clock is this machine's")]
    fn a_file_of_any_date_is_of_the_day_on_which_it_was_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        let hour = Duration::from_secs(3600);
        for date in [SystemTime::UNIX_EPOCH, SystemTime::now() + hour] {
            std::fs::write(&path, "version: 1").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_times(FileTimes::new().set_modified(date)).unwrap();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
            let off = u128::from(committed_at_ms(&path)).abs_diff(now);
            assert!(off < hour.as_millis() / 2, "{off} ms");
        }
    }
}
