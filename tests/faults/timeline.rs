//! What a server answers to one question, asked again and again beside a test: each new answer is noted, with its time.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::crowd::now;

/// So often a question is asked.
const EVERY: Duration = Duration::from_millis(5);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Timeline {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, String)>>,
}

impl Timeline {
    /// Begins to ask the server at `port`. A connection that it closes is made anew.
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    pub fn begin(port: u16, question: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, question) = (Arc::clone(&stop), format!("{question}\r\n"));
        let thread = std::thread::spawn(move || {
            let (mut noted, mut server) = (Vec::<(u64, String)>::new(), None);
            while !stopped.load(Ordering::Relaxed) {
                server = server.or_else(|| connect(port).ok());
                match server.as_mut().map(|server| ask(server, &question)) {
                    Some(Ok(answer)) if noted.last().is_none_or(|(_, last)| *last != answer) => {
                        noted.push((now(), answer));
                    }
                    Some(Ok(_)) => {}
                    _ => server = None,
                }
                std::thread::park_timeout(EVERY);
            }
            noted
        });
        Self { stop, thread }
    }

    /// New answers, each with the microseconds since the epoch at which it was first heard.
    pub fn end(self) -> Vec<(u64, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn connect(port: u16) -> Result<BufReader<TcpStream>, Error> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn ask(server: &mut BufReader<TcpStream>, question: &str) -> Result<String, Error> {
    server.get_mut().write_all(question.as_bytes())?;
    read(server)
}

/// One answer; the parts of an array with spaces between them.
fn read(server: &mut BufReader<TcpStream>) -> Result<String, Error> {
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
        [b'*', ..] => Ok((0..count(&line[1..])).map(|_| read(server)).collect::<Result<Vec<_>, _>>()?.join(" ")),
        _ => Ok(line.trim_end().to_owned()),
    }
}
