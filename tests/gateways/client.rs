//! A client that may send any bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::gateway::Gateway;
use crate::support::wait::TIMEOUT;

/// A response whose body may have any bytes.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A client that keeps its connection as long as the gateway does.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    /// The longest wait for a part of a response.
    timeout: Duration,
}

impl Client {
    pub fn new(gateway: &Gateway) -> Self {
        Self { address: ([127, 0, 0, 1], gateway.port).into(), stream: None, timeout: TIMEOUT }
    }

    /// Waits for no part of a response longer than this.
    pub fn with_timeout(gateway: &Gateway, timeout: Duration) -> Self {
        Self { timeout, ..Self::new(gateway) }
    }

    /// Connects from 127.0.0.2, which is another machine to a node that trusts only 127.0.0.1.
    fn connect(&self) -> BufReader<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(self.timeout)).unwrap();
        BufReader::new(stream)
    }

    /// Sends a request. `head` is the request line and the headers, without the final empty line.
    pub fn send(&mut self, head: &[u8]) -> Response {
        let mut stream = self.stream.take().unwrap_or_else(|| self.connect());
        // A gateway that responds before it has read the whole head may close the connection. Its response counts.
        let _ = stream.get_mut().write_all(&[head, b"\r\n\r\n"].concat());
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let status =
            line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        if headers.get("connection").is_none_or(|connection| connection != "close") {
            self.stream = Some(stream);
        }
        Response { status, headers, body }
    }

    pub fn get(&mut self, target: &[u8], host: &[u8]) -> Response {
        self.send(&[b"GET ", target, b" HTTP/1.1\r\nHost: ", host].concat())
    }
}
