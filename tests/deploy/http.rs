//! A client of HTTP/1.1 that keeps its connection.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A client that connects from an address to a server.
pub struct Client {
    from: Ipv4Addr,
    to: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub const fn new(from: Ipv4Addr, to: SocketAddr) -> Self {
        Self { from, to, connection: None }
    }

    /// Sends a request. `head` is the request line and the headers, without the final empty line. After an error, the
    /// next request has a new connection.
    pub fn send(&mut self, head: &str, body: &str) -> Result<Response, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let length = body.len();
        let request = format!("{head}\r\nhost: api.example.com\r\ncontent-length: {length}\r\n\r\n{body}");
        connection.get_mut().write_all(request.as_bytes())?;
        let response = read(&mut connection)?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    fn connect(&self) -> Result<BufReader<TcpStream>, Error> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.from, 0)).into())?;
        socket.connect_timeout(&self.to.into(), TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(BufReader::new(socket.into()))
    }
}

fn read(connection: &mut BufReader<TcpStream>) -> Result<Response, Error> {
    let mut line = || {
        let mut line = String::new();
        match connection.read_line(&mut line)? {
            0 => Err(Error::from(ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let unreadable = || Error::from(ErrorKind::InvalidData);
    let status = line()?.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(unreadable)?;
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(unreadable)?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: String::new() };
    let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    connection.take(length).read_to_string(&mut response.body)?;
    Ok(response)
}
