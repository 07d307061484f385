//! What stands for TLS in a build without it.

use std::error::Error;
use std::io;

use tokio::net::TcpStream;

use super::{Duplex, TlsArgs};

/// TLS of a command, of which there is none in this build.
pub enum Tls {}

impl Tls {
    /// # Errors
    /// Always: this build has no TLS.
    pub fn new(_: &TlsArgs) -> Result<Self, String> {
        Err("this program was built without the feature tls: cargo build --release builds all of it".to_owned())
    }

    /// See the build with TLS.
    ///
    /// # Errors
    /// None.
    pub async fn connect(&self, _: &str, _: &'static [u8], _: TcpStream) -> io::Result<Box<dyn Duplex>> {
        match *self {}
    }

    /// See the build with TLS.
    pub fn explain(&self, _: &(dyn Error + 'static)) -> String {
        match *self {}
    }
}
