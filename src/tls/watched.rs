//! A value that is read from files, and read again when they change.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use super::error::{NamedFile, TlsError};

/// The largest file, in bytes: the certificate authorities of an operating system have a quarter of it.
const MAX_BYTES: u64 = 1024 * 1024;

/// The hash of what the files have. Private keys are not kept.
type Digest = [u8; 32];

/// Makes the value from the contents of the files, in their order. The second argument is the wall clock in seconds;
/// `None` at the first reading.
type Load<T> = Box<dyn Fn(&[Vec<u8>], Option<i64>) -> Result<T, TlsError> + Send + Sync>;

/// A value from files. What was valid last stays in force.
pub(super) struct Watched<T> {
    files: Vec<NamedFile>,
    load: Load<T>,
    current: RwLock<Arc<T>>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// What is in force.
    taken: Digest,
    /// Other contents, which were read once: files that are being written are not used.
    candidate: Option<Digest>,
    /// The error that was reported last.
    reported: Option<String>,
}

/// What a look at the files found.
pub(super) enum Polled {
    /// Nothing new.
    Same,
    /// New contents are in force.
    Taken,
    /// The contents are invalid, and this was not reported before.
    Invalid(TlsError),
}

impl<T> Watched<T> {
    /// Reads the files.
    pub(super) fn open(
        files: Vec<NamedFile>,
        load: impl Fn(&[Vec<u8>], Option<i64>) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let (contents, taken) = read_all(&files)?;
        let current = RwLock::new(Arc::new(load(&contents, None)?));
        let progress = Mutex::new(Progress { taken, candidate: None, reported: None });
        Ok(Self { files, load: Box::new(load), current, progress })
    }

    /// The value in force.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. New contents are taken at their second reading. `now` is in seconds since the epoch.
    pub(super) fn poll(&self, now: i64) -> Polled {
        let mut progress = self.lock_progress();
        let (contents, digest) = match read_all(&self.files) {
            Ok(read) => read,
            Err(error) => return progress.report(error),
        };
        if digest == progress.taken {
            (progress.candidate, progress.reported) = (None, None);
            return Polled::Same;
        }
        if progress.candidate != Some(digest) {
            progress.candidate = Some(digest);
            return Polled::Same;
        }
        match (self.load)(&contents, Some(now)) {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                *progress = Progress { taken: digest, candidate: None, reported: None };
                Polled::Taken
            }
            Err(error) => progress.report(error),
        }
    }

    fn lock_progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn report(&mut self, error: TlsError) -> Polled {
        let text = error.to_string();
        if self.reported.as_ref() == Some(&text) {
            return Polled::Same;
        }
        self.reported = Some(text);
        Polled::Invalid(error)
    }
}

fn read_all(files: &[NamedFile]) -> Result<(Vec<Vec<u8>>, Digest), TlsError> {
    let mut hash = Sha256::new();
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        let read = read(file).map_err(|error| file.error(error.to_string()))?;
        hash.update((read.len() as u64).to_le_bytes());
        hash.update(&read);
        contents.push(read);
    }
    Ok((contents, hash.finalize().into()))
}

fn read(file: &NamedFile) -> io::Result<Vec<u8>> {
    // A pipe would wait for a writer.
    if !std::fs::metadata(&file.path)?.is_file() {
        return Err(io::Error::other("expected a regular file"));
    }
    let mut contents = Vec::new();
    File::open(&file.path)?.take(MAX_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("expected at most {MAX_BYTES} bytes")));
    }
    Ok(contents)
}
