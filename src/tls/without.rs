//! What stands for TLS in a build without it.

use std::io;

/// TLS of a listener, of which there is none in this build.
#[derive(Clone, Debug)]
pub enum ServerTls {}

impl ServerTls {
    /// See the build with TLS.
    #[must_use]
    pub fn speaking(&self, _: &[&[u8]]) -> Self {
        match *self {}
    }

    /// See the build with TLS.
    ///
    /// # Errors
    /// None.
    pub async fn accept<S>(&self, _: S) -> io::Result<S> {
        match *self {}
    }
}
