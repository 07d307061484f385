//! A rule file as a source of rules. It is read again when it changes or on request, and the last valid rules stay in
//! force.
//!
//! The file is polled, not subscribed to: polling sees a rename, a write in place and a swapped symbolic link alike, on
//! every file system. A text is compiled after two identical reads in a row, so that a file which is being written is
//! not used.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Diff, RuleBook, has_empty_shares};
use tokio::sync::{Notify, watch};

use super::decode::{FileError, compile, file_warnings};
use super::metrics::RuleFileMetrics;
use crate::ports::{BoxFuture, Fatal, RejectedRules, RuleSource, Service, Shutdown};

/// How often the file is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The most symbolic links on the path of a rule file, as on Linux.
const MAX_LINKS: u32 = 40;
/// The longest text of an error that `/ready` shows, in characters.
const MAX_SHOWN: usize = 500;
/// The most warnings about one file that are logged.
const MAX_LOGGED: usize = 20;
/// What `/ready` advises if a limit is below the divisor of `on_store_failure: local`.
const EMPTY_SHARES: &str = "a limit with on_store_failure: local is below store.min_holders: it admits nothing while the \
                            store does not answer";
/// The largest rule file, in bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// A watched rule file. It is watched while it runs as a service.
pub struct FileRules {
    watcher: Arc<Mutex<Watcher>>,
    books: watch::Receiver<Arc<RuleBook>>,
    rejected: watch::Receiver<Option<RejectedRules>>,
    /// True if a limit in force admits nothing in an outage of the store.
    has_empty_shares: Arc<AtomicBool>,
    reload: Notify,
}

/// Why a rule file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRuleFile {
    #[error("{file}: {error}")]
    Unreadable { file: String, error: io::Error },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<FileError>),
}

impl InvalidRuleFile {
    /// Every error with its place, as JSON.
    pub fn errors(&self) -> Vec<serde_json::Value> {
        match self {
            Self::Unreadable { file, error } => vec![serde_json::json!({ "file": file, "message": error.to_string() })],
            Self::Invalid(errors) => errors.iter().map(FileError::json).collect(),
        }
    }
}

/// Reads a rule file.
pub fn read(path: &Path) -> Result<String, InvalidRuleFile> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let read = read.and_then(|bytes| match bytes as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("expected at most {MAX_BYTES} bytes"))),
        false => Ok(()),
    });
    read.map(|()| text).map_err(|error| InvalidRuleFile::Unreadable { file: path.display().to_string(), error })
}

/// Checks that the file can be read again and again. A pipe would wait for a writer.
fn check_regular(path: &Path) -> Result<(), InvalidRuleFile> {
    let regular = std::fs::metadata(path).and_then(|file| match file.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("expected a regular file")),
    });
    regular.map_err(|error| InvalidRuleFile::Unreadable { file: path.display().to_string(), error })
}

/// A valid rule file.
pub struct Loaded {
    file: String,
    text: String,
    pub book: Arc<RuleBook>,
}

impl Loaded {
    fn new(path: &Path, text: String, revision: Revision) -> Result<Self, Vec<FileError>> {
        let file = path.display().to_string();
        let book = compile(&file, &text, revision)?;
        Ok(Self { file, text, book: Arc::new(book) })
    }

    /// What the file says and cannot do, for a node with this `store.min_holders`.
    pub fn warnings(&self, min_holders: u32) -> Vec<FileError> {
        file_warnings(&self.file, &self.text, &self.book, min_holders)
    }

    fn log_warnings(&self, min_holders: u32) {
        let warnings = self.warnings(min_holders);
        for warning in warnings.iter().take(MAX_LOGGED) {
            tracing::warn!(%warning, "a rule is valid, and cannot do what it seems to say");
        }
        if warnings.len() > MAX_LOGGED {
            let more = warnings.len() - MAX_LOGGED;
            tracing::warn!(more, "there are more warnings: `tidegate rules validate` prints all of them");
        }
    }
}

/// Reads and compiles a rule file.
pub fn load(path: &Path, revision: Revision) -> Result<Loaded, InvalidRuleFile> {
    Loaded::new(path, read(path)?, revision).map_err(InvalidRuleFile::Invalid)
}

/// Returns when the file was last changed or installed, in milliseconds since the epoch: the newest ctime of the file
/// and of the symbolic links on its path.
///
/// Uses ctime, not mtime, and asks the links, too: a rollback installs an old file, or sets a link to one, and must
/// still get a newer revision.
fn changed_at_ms(path: &Path) -> u64 {
    let parts = |path: &Path| path.iter().rev().map(ToOwned::to_owned).collect::<Vec<_>>();
    let (mut resolved, mut rest) = (PathBuf::new(), parts(path));
    let (mut newest, mut links) = (0, 0);
    while let Some(part) = rest.pop() {
        let next = resolved.join(part);
        let Ok(found) = next.symlink_metadata() else { break };
        if found.is_symlink() && links < MAX_LINKS {
            (newest, links) = (newest.max(ctime_ms(&found)), links + 1);
            rest.extend(next.read_link().iter().flat_map(|target| parts(target)));
            continue;
        }
        if rest.is_empty() {
            newest = newest.max(ctime_ms(&found));
        }
        resolved = next;
    }
    newest
}

fn ctime_ms(file: &Metadata) -> u64 {
    let changed = file.ctime().saturating_mul(1000).saturating_add(file.ctime_nsec() / 1_000_000);
    u64::try_from(changed).unwrap_or(0)
}

impl FileRules {
    /// Reads the file. `min_holders` is the node's `store.min_holders`.
    ///
    /// # Errors
    /// When the file is not valid.
    pub fn open(path: PathBuf, min_holders: u32, metrics: RuleFileMetrics) -> Result<Self, InvalidRuleFile> {
        let loaded = load(&path, Revision::NONE.next(changed_at_ms(&path)))?;
        loaded.log_warnings(min_holders);
        let has_empty_shares = Arc::new(AtomicBool::new(has_empty_shares(loaded.book.rules(), min_holders)));
        metrics.valid();
        let Loaded { text: last_compiled, book, .. } = loaded;
        let (publish, books) = watch::channel(book);
        let (publish_rejected, rejected) = watch::channel(None);
        let watcher = Watcher {
            path,
            publish,
            publish_rejected,
            has_empty_shares: Arc::clone(&has_empty_shares),
            min_holders,
            metrics,
            last_compiled,
            candidate: None,
            invalid: None,
            unreadable: None,
        };
        let watcher = Arc::new(Mutex::new(watcher));
        Ok(Self { watcher, books, rejected, has_empty_shares, reload: Notify::new() })
    }

    /// Reads the file at once, even if it has not changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }
}

impl RuleSource for FileRules {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.books.clone()
    }

    fn rejected(&self) -> Option<RejectedRules> {
        self.rejected.borrow().clone()
    }

    fn advice(&self) -> Option<&'static str> {
        self.has_empty_shares.load(Ordering::Relaxed).then_some(EMPTY_SHARES)
    }
}

impl Service for FileRules {
    fn name(&self) -> &'static str {
        "rule file"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            loop {
                let at_once = tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => false,
                    () = self.reload.notified() => true,
                    () = shutdown.requested() => return Ok(()),
                };
                let watcher = Arc::clone(&self.watcher);
                let poll = move || watcher.lock().unwrap_or_else(PoisonError::into_inner).poll(at_once);
                // To read and to compile may take long.
                if tokio::task::spawn_blocking(poll).await.is_err() {
                    return Err(Fatal::Panicked(self.name()));
                }
            }
        })
    }
}

struct Watcher {
    path: PathBuf,
    publish: watch::Sender<Arc<RuleBook>>,
    publish_rejected: watch::Sender<Option<RejectedRules>>,
    has_empty_shares: Arc<AtomicBool>,
    min_holders: u32,
    metrics: RuleFileMetrics,
    /// The text that was compiled last.
    last_compiled: String,
    /// Another text, which was read once.
    candidate: Option<String>,
    /// Why the text that was compiled last is not in force.
    invalid: Option<RejectedRules>,
    /// The logged reason why the file cannot be read.
    unreadable: Option<String>,
}

impl Watcher {
    /// Reads the file. A new text is taken at its second reading, or `at_once`.
    fn poll(&mut self, at_once: bool) {
        let text = match check_regular(&self.path).and_then(|()| read(&self.path)) {
            Ok(text) => text,
            Err(error) => {
                let why = error.to_string();
                if self.unreadable.as_ref() != Some(&why) || at_once {
                    tracing::error!(error = why, "the rule file cannot be read: the rules stay as they are");
                    self.metrics.invalid();
                }
                self.publish_rejected(Some(self.rejection(&why, 1)));
                self.unreadable = Some(why);
                return;
            }
        };
        if self.unreadable.take().is_some() {
            self.publish_rejected(self.invalid.clone());
        }
        if !at_once {
            if text == self.last_compiled {
                self.candidate = None;
                return;
            }
            if self.candidate.as_ref() != Some(&text) {
                self.candidate = Some(text);
                return;
            }
        }
        self.take(text);
    }

    fn take(&mut self, text: String) {
        let old = Arc::clone(&self.publish.borrow());
        let revision = old.revision.next(changed_at_ms(&self.path));
        self.last_compiled.clone_from(&text);
        self.candidate = None;
        let compiled = Loaded::new(&self.path, text, revision);
        self.invalid = compiled.as_ref().err().and_then(|errors| {
            let first = errors.first()?;
            Some(self.rejection(&first.to_string(), errors.len()))
        });
        self.publish_rejected(self.invalid.clone());
        match compiled {
            Ok(loaded) if loaded.book.hash == old.hash => {
                tracing::info!(revision = %old.revision, "the rules are the same");
            }
            Ok(loaded) => {
                let book = &loaded.book;
                let diff = old.diff(book);
                self.metrics.valid();
                let Diff { added, removed, changed } = &diff;
                let [added, removed, changed] = [added, removed, changed].map(|names| names.join(" "));
                tracing::info!(revision = %book.revision, added, removed, changed, "new rules are in force");
                self.publish.send_replace(Arc::clone(book));
                let empty = has_empty_shares(book.rules(), self.min_holders);
                self.has_empty_shares.store(empty, Ordering::Relaxed);
                // Looking for warnings takes time in a large file.
                loaded.log_warnings(self.min_holders);
            }
            Err(errors) => {
                self.metrics.invalid();
                for error in &errors {
                    tracing::error!(%error, "the rule file is invalid: the rules stay as they are");
                }
            }
        }
    }

    /// A rejection of the file with this first error.
    fn rejection(&self, error: &str, errors: usize) -> RejectedRules {
        let mut shown: String = error.chars().take(MAX_SHOWN).collect();
        if shown.len() < error.len() {
            shown.push('…');
        }
        let file = self.path.display().to_string();
        RejectedRules { file, error: shown, errors, in_force: self.publish.borrow().revision }
    }

    fn publish_rejected(&self, rejected: Option<RejectedRules>) {
        self.metrics.set_ok(rejected.is_none());
        self.publish_rejected.send_replace(rejected);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file system's clock is this machine's")]
    fn an_installed_file_is_committed_when_it_is_installed_whatever_its_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        let hour = Duration::from_secs(3600);
        for date in [SystemTime::UNIX_EPOCH, SystemTime::now() + hour] {
            std::fs::write(&path, "version: 1").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_times(FileTimes::new().set_modified(date)).unwrap();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
            let off = u128::from(changed_at_ms(&path)).abs_diff(now);
            assert!(off < hour.as_millis() / 2, "{off} ms");
        }
    }

    #[test]
    fn a_link_that_is_set_to_an_older_file_is_a_newer_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["old", "new"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("rules.yaml"), "version: 1").unwrap();
        }
        // As Kubernetes and other deployments do it: a link to the file through a link to a folder.
        std::os::unix::fs::symlink("new", at("current")).unwrap();
        std::os::unix::fs::symlink("current/rules.yaml", at("rules.yaml")).unwrap();
        let before = changed_at_ms(&at("rules.yaml"));
        assert!(before >= changed_at_ms(&at("new").join("rules.yaml")));
        // Wait until the clock of the file system has moved on.
        let after = loop {
            std::os::unix::fs::symlink("old", at("next")).unwrap();
            std::fs::rename(at("next"), at("current")).unwrap();
            let after = changed_at_ms(&at("rules.yaml"));
            if after != before {
                break after;
            }
        };
        assert!(after > before);
        assert!(after > changed_at_ms(&at("old").join("rules.yaml")), "the file itself is older");
    }
}
