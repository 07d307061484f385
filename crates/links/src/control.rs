//! Commands to a running proxy, over a Unix socket: one line of JSON each way for each connection.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::network::{Change, LinkStatus};
use crate::proxy::Proxy;

/// The longest request, in bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// The longest time for one command.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a command asks for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Changes links, then answers as `Status` does.
    Set(Change),
    Status,
}

/// What the proxy answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Status {
        links: Vec<LinkStatus>,
        /// Connections that were closed at once: from addresses of no region, and beyond the limit.
        rejected: u64,
    },
    Error(String),
}

/// A Unix socket that listens. Its file is removed when it is dropped.
pub struct Control {
    listener: UnixListener,
    path: std::path::PathBuf,
}

impl Control {
    /// Listens at this path. A socket that an ended proxy left there is replaced.
    ///
    /// # Errors
    ///
    /// When another proxy listens there, or the path cannot be used.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{}: another proxy listens", path.display())));
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path);
        let listener =
            listener.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves commands, one at a time.
    pub async fn run(&self, proxy: Arc<Proxy>) {
        loop {
            match self.listener.accept().await {
                // The other side may have gone, or is too slow.
                Ok((stream, _)) => drop(tokio::time::timeout(DEADLINE, answer(stream, &proxy)).await),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, proxy: &Proxy) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(REQUEST_MAX).read_line(&mut line).await?;
    let done = match serde_json::from_str(&line) {
        Ok(Request::Set(change)) => proxy.network.change(&change),
        Ok(Request::Status) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let reply = match done {
        Ok(()) => Reply::Status { links: proxy.network.status(), rejected: proxy.rejected() },
        Err(error) => Reply::Error(error),
    };
    let text = serde_json::to_string(&reply)?;
    stream.write_all(format!("{text}\n").as_bytes()).await
}

/// Sends a request to the proxy at this path.
///
/// # Errors
///
/// When no proxy listens there, or it does not answer in time.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let exchange = async {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    };
    let answered = tokio::time::timeout(DEADLINE, exchange).await.unwrap_or_else(|elapsed| Err(elapsed.into()));
    answered.map_err(|error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
