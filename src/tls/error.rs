//! Why TLS cannot be set up.

use std::path::{Path, PathBuf};

/// Why TLS cannot be set up. The text has no content of the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{setting}: {}: {problem}", .file.display())]
    File {
        /// The setting that names the file: `tls.cert_file`.
        setting: String,
        file: PathBuf,
        problem: String,
    },
    /// With the last error of loading the machine's certificates, if there was one.
    #[error("{setting}: this machine has no trusted root certificates{}", .error.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    NoNativeRoots { setting: String, error: Option<rustls_native_certs::Error> },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A file that a setting names.
#[derive(Clone, Debug)]
pub(super) struct NamedFile {
    setting: String,
    pub(super) path: PathBuf,
}

impl NamedFile {
    /// The file of the setting `section.field`.
    pub(super) fn new(section: &str, field: &str, path: &Path) -> Self {
        Self { setting: format!("{section}.{field}"), path: path.to_owned() }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> TlsError {
        TlsError::File { setting: self.setting.clone(), file: self.path.clone(), problem: problem.into() }
    }
}
