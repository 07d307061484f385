//! A TCP proxy that keeps every byte that goes through it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The bytes of each direction of each connection.
type Streams = Arc<Mutex<Vec<Vec<u8>>>>;

/// A proxy for one address. It ends with the test.
pub struct Recorder {
    /// Where it listens.
    pub address: String,
    streams: Streams,
    stopped: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts a proxy for `target`, which need not listen yet.
    pub fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (streams, stopped) = (Streams::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stop) = (Arc::clone(&streams), Arc::clone(&stopped));
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(server) = TcpStream::connect(&target) {
                    relay(&client, &server, &kept);
                    relay(&server, &client, &kept);
                }
            }
        });
        Self { address, streams, stopped }
    }

    /// How many bytes went through it so far.
    pub fn count(&self) -> usize {
        self.streams.lock().unwrap().iter().map(Vec::len).sum()
    }

    /// True if `text` went through it.
    pub fn saw(&self, text: &str) -> bool {
        let text = text.as_bytes();
        self.streams.lock().unwrap().iter().any(|stream| stream.windows(text.len()).any(|window| window == text))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the proxy.
        let _ = TcpStream::connect(&self.address);
    }
}

/// Passes bytes on in one direction, until one side ends.
fn relay(from: &TcpStream, to: &TcpStream, streams: &Streams) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let streams = Arc::clone(streams);
    let at = {
        let mut all = streams.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            streams.lock().unwrap()[at].extend_from_slice(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[expect(clippy::disallowed_methods, reason = "the thread ends with the connections of the test")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
