//! The listening sockets of a node: each core has its own for each listener. The kernel chooses the core that accepts a
//! connection, and the server spreads connections over the cores.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// The most connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets of one listener: one for each core, all on one address.
#[derive(Debug)]
pub struct Listeners {
    pub address: SocketAddr,
    pub each: Vec<TcpListener>,
}

impl Listeners {
    /// Listens `count` times on `address`. Port 0 lets the system choose a port.
    ///
    /// # Errors
    /// When another process listens there already.
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Self> {
        // Sockets that share a port would share it with another node as well. This first socket does not.
        let address = socket(address, false)?.local_addr()?;
        let each: Vec<TcpListener> = (0..count).map(|_| socket(address, true)).collect::<io::Result<_>>()?;
        Ok(Self { address, each })
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::Listeners;

    #[test]
    fn cores_share_an_address_and_nodes_do_not() {
        let first = Listeners::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(first.each.len(), 3);
        let second = Listeners::bind(first.address, 1);
        assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
