//! A proxy before one server: it delays what passes, swallows it, or cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it does with what passes; one number, so that all threads see it at once.
#[derive(Clone)]
pub struct Proxy {
    /// Milliseconds that every answer is late; [`SWALLOW`]: nothing passes.
    late: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

const SWALLOW: u64 = u64::MAX;

impl Proxy {
    /// Listens at `port` for the server at `to`, until the process ends.
    #[expect(clippy::disallowed_methods, reason = "its threads end with the test's process")]
    pub fn start(port: u16, to: u16) -> Self {
        let proxy = Self { late: Arc::default(), open: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let own = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                for (from, to, answers) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to, own) = (from.try_clone().unwrap(), to.try_clone().unwrap(), own.clone());
                    let _ = from.set_nodelay(true);
                    own.open.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || own.pass(from, to, answers));
                }
            }
        });
        proxy
    }

    #[expect(clippy::disallowed_methods, reason = "the delay is what it is for")]
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            match self.late.load(Ordering::Relaxed) {
                // What was swallowed is gone, as are packets that were dropped for too long.
                SWALLOW => continue,
                late if answers && late > 0 => std::thread::sleep(Duration::from_millis(late)),
                _ => {}
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// From now on every answer is so late.
    pub fn delay(&self, late: Duration) {
        self.late.store(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// From now on nothing passes, and nobody is told.
    pub fn swallow(&self) {
        self.late.store(SWALLOW, Ordering::Relaxed);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Everything passes again; connections of which something was swallowed are cut.
    pub fn heal(&self) {
        if self.late.swap(0, Ordering::Relaxed) == SWALLOW {
            self.cut();
        }
    }
}
