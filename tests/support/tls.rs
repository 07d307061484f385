//! Certificates as `tidegate cluster ca` makes them, and a blocking client that speaks TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::Value;

use super::node::output;
use super::wait::TIMEOUT;

/// A folder with an authority and the certificates that it signed.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes an authority, and a certificate of `server` for 127.0.0.1.
    pub fn new() -> Self {
        let new = Self { folder: tempfile::tempdir().unwrap() };
        new.issue("server", &["--host", "127.0.0.1"]);
        new
    }

    /// Runs `tidegate cluster ca` for a node and returns what it reports.
    pub fn issue(&self, node: &str, more: &[&str]) -> Value {
        let folder = self.path("");
        let arguments = ["cluster", "ca", folder.to_str().unwrap(), "--node", node, "--output", "json"];
        let made = output(&[&arguments[..], more].concat());
        assert!(made.status.success(), "{made:?}");
        serde_json::from_slice(&made.stdout).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Puts the files of one certificate in the place of another's, each at once.
    pub fn install(&self, from: &str, to: &str) {
        for suffix in ["-key.pem", ".pem"] {
            let next = self.path("next");
            std::fs::copy(self.path(&format!("{from}{suffix}")), &next).unwrap();
            std::fs::rename(next, self.path(&format!("{to}{suffix}"))).unwrap();
        }
    }

    /// A client that trusts the authority.
    pub fn client(&self) -> Client {
        Client { roots: self.path("ca.pem"), identity: None, version: &rustls::version::TLS13, protocols: Vec::new() }
    }

    /// A client that shows the certificate `name`, too.
    pub fn client_as(&self, name: &str) -> Client {
        let identity = Some((self.path(&format!("{name}.pem")), self.path(&format!("{name}-key.pem"))));
        Client { identity, ..self.client() }
    }
}

/// How a client opens connections.
#[derive(Clone)]
pub struct Client {
    pub roots: PathBuf,
    pub identity: Option<(PathBuf, PathBuf)>,
    pub version: &'static SupportedProtocolVersion,
    /// What it offers (ALPN).
    pub protocols: Vec<&'static str>,
}

/// A connection with TLS.
pub struct TlsConnection(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    fn config(&self) -> ClientConfig {
        let read = |path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap);
        let mut roots = RootCertStore::empty();
        read(&self.roots).for_each(|root| roots.add(root).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[self.version]).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((cert, key)) => {
                builder.with_client_auth_cert(read(cert).collect(), PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Opens a connection. An error of the handshake may also come with the first response.
    pub fn connect(&self, address: &str) -> Result<TlsConnection, String> {
        let host = address.rsplit_once(':').unwrap().0.to_owned();
        let name = ServerName::try_from(host).unwrap();
        let mut session = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        Ok(TlsConnection(StreamOwned::new(session, stream)))
    }

    /// Opens a connection and sends a request for `path`.
    pub fn get(&self, address: &str, path: &str) -> Result<(u16, String), String> {
        self.connect(address)?.get(path)
    }
}

impl TlsConnection {
    /// Sends a request and reads its response. The connection stays open.
    pub fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        self.exchange(path).map_err(|error| error.to_string())
    }

    fn exchange(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        let written = write!(self.0, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").and_then(|()| self.0.flush());
        if let Err(error) = written {
            // A server that rejects the certificate says so, and may have closed before the request was written.
            self.0.conn.read_tls(&mut self.0.sock)?;
            self.0.conn.process_new_packets().map_err(std::io::Error::other)?;
            return Err(error);
        }
        let mut head = self.read_line()?.to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let (mut body, mut length) = (Vec::new(), None);
        while !head.is_empty() {
            length = head.strip_prefix("content-length: ").map(|length| length.parse().unwrap()).or(length);
            head = self.read_line()?.to_lowercase();
        }
        match length {
            Some(length) => self.read(length, &mut body)?,
            None => loop {
                let chunk = usize::from_str_radix(&self.read_line()?, 16).unwrap();
                self.read(chunk, &mut body)?;
                self.read_line()?;
                if chunk == 0 {
                    break;
                }
            },
        }
        Ok((status, String::from_utf8(body).unwrap()))
    }

    /// Reads a line, without its end.
    fn read_line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            self.read(1, &mut line)?;
        }
        Ok(String::from_utf8(line).unwrap().trim_end().to_owned())
    }

    fn read(&mut self, length: usize, into: &mut Vec<u8>) -> std::io::Result<()> {
        let before = into.len();
        into.resize(before + length, 0);
        self.0.read_exact(&mut into[before..])
    }

    /// The leaf certificate of the server.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    /// What both sides agreed to speak.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.0.conn.alpn_protocol()
    }
}
