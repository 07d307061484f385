//! A TCP proxy in front of one server. It can delay replies, discard data, and close connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The proxy. The mode is one number, so that all threads see a change at once.
#[derive(Clone)]
pub struct Proxy {
    /// The delay of every reply in milliseconds, or [`DISCARD`].
    delay_ms: Arc<AtomicU64>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

/// Discards all data in both directions.
const DISCARD: u64 = u64::MAX;

impl Proxy {
    /// Starts a proxy at `port` for the server at port `to`. It runs until the process exits.
    #[expect(clippy::disallowed_methods, reason = "the threads end with the test process")]
    pub fn start(port: u16, to: u16) -> Self {
        let proxy = Self { delay_ms: Arc::default(), connections: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let own = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                for (from, to, is_reply) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to, own) = (from.try_clone().unwrap(), to.try_clone().unwrap(), own.clone());
                    let _ = from.set_nodelay(true);
                    own.connections.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || own.forward(from, to, is_reply));
                }
            }
        });
        proxy
    }

    #[expect(clippy::disallowed_methods, reason = "the proxy delays replies on purpose")]
    fn forward(&self, mut from: TcpStream, mut to: TcpStream, is_reply: bool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            match self.delay_ms.load(Ordering::Relaxed) {
                // Discarded data is never sent, like packets that are dropped until the connection fails.
                DISCARD => continue,
                delay if is_reply && delay > 0 => std::thread::sleep(Duration::from_millis(delay)),
                _ => {}
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// Delays every reply from now on.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Discards all data from now on without closing connections.
    pub fn discard(&self) {
        self.delay_ms.store(DISCARD, Ordering::Relaxed);
    }

    /// Closes all connections.
    pub fn close_connections(&self) {
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forwards all data again. Closes the connections if data was discarded.
    pub fn restore(&self) {
        if self.delay_ms.swap(0, Ordering::Relaxed) == DISCARD {
            self.close_connections();
        }
    }
}
