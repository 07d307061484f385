//! Sends one command to a server repeatedly during a test and records each new reply with its time.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clients::now;

/// The pause between two commands.
const INTERVAL: Duration = Duration::from_millis(5);
/// The time after which a command without a reply fails.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The replies of one server to one command over time.
pub struct Timeline {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, String)>>,
}

impl Timeline {
    /// Starts to send `command` to the server at `port`. Reconnects after an error.
    #[expect(clippy::disallowed_methods, reason = "`finish` joins the thread")]
    pub fn start(port: u16, command: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, command) = (Arc::clone(&stop), format!("{command}\r\n"));
        let thread = std::thread::spawn(move || {
            let (mut replies, mut server) = (Vec::<(u64, String)>::new(), None);
            while !stopped.load(Ordering::Relaxed) {
                server = server.or_else(|| connect(port).ok());
                match server.as_mut().map(|server| send_command(server, &command)) {
                    Some(Ok(reply)) if replies.last().is_none_or(|(_, last)| *last != reply) => {
                        replies.push((now(), reply));
                    }
                    Some(Ok(_)) => {}
                    _ => server = None,
                }
                std::thread::park_timeout(INTERVAL);
            }
            replies
        });
        Self { stop, thread }
    }

    /// Stops and returns each new reply with the time at which it arrived, in microseconds since the epoch.
    pub fn finish(self) -> Vec<(u64, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn connect(port: u16) -> Result<BufReader<TcpStream>, Error> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn send_command(server: &mut BufReader<TcpStream>, command: &str) -> Result<String, Error> {
    server.get_mut().write_all(command.as_bytes())?;
    read_reply(server)
}

/// Reads one reply. The elements of an array are joined with spaces.
fn read_reply(server: &mut BufReader<TcpStream>) -> Result<String, Error> {
    let mut line = String::new();
    server.read_line(&mut line)?;
    let count = |text: &str| text.trim().parse::<usize>().unwrap_or(0);
    match line.as_bytes() {
        [] => Err(Error::from(ErrorKind::UnexpectedEof)),
        [b'$', b'-', ..] => Ok(String::new()),
        [b'$', ..] => {
            let mut text = vec![0; count(&line[1..]) + 2];
            server.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
        }
        [b'*', ..] => Ok((0..count(&line[1..])).map(|_| read_reply(server)).collect::<Result<Vec<_>, _>>()?.join(" ")),
        _ => Ok(line.trim_end().to_owned()),
    }
}
