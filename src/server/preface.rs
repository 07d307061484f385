//! How a connection begins: with the preface of HTTP/2, or otherwise.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first pause before the preface is read again. Each pause is twice as long as the one before.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
/// The longest of these pauses.
const MAX_PREFACE_PAUSE: Duration = Duration::from_secs(1);

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    Http2,
    /// As HTTP/1, or as something unknown.
    Other,
    /// The client closed it before.
    EndOfStream,
}

/// Looks at the first bytes of a plain connection without taking them.
pub(super) async fn sniff_preface(stream: &TcpStream) -> io::Result<Preface> {
    let mut seen = [0; PREFACE.len()];
    let mut pause = PREFACE_PAUSE;
    loop {
        match stream.peek(&mut seen).await? {
            0 => return Ok(Preface::EndOfStream),
            count if !PREFACE.starts_with(&seen[..count]) => return Ok(Preface::Other),
            count if count == PREFACE.len() => return Ok(Preface::Http2),
            // A peek returns at once while bytes are there, and does not say that no more will come.
            _ if stream.ready(Interest::READABLE).await?.is_read_closed() => return Ok(Preface::EndOfStream),
            _ => tokio::time::sleep(pause).await,
        }
        pause = (2 * pause).min(MAX_PREFACE_PAUSE);
    }
}

/// Reads the first bytes of a connection into `begun`.
pub(super) async fn read_preface<S: AsyncRead + Unpin>(begun: &mut Begun<S>) -> io::Result<Preface> {
    loop {
        if !PREFACE.starts_with(begun.seen()) {
            return Ok(Preface::Other);
        }
        if begun.end == PREFACE.len() {
            return Ok(Preface::Http2);
        }
        match begun.stream.read(&mut begun.first[begun.end..]).await? {
            0 => return Ok(Preface::EndOfStream),
            count => begun.end += count,
        }
    }
}

/// A connection whose first bytes were looked at. Its reader gets them all the same.
pub(super) struct Begun<S> {
    stream: S,
    first: [u8; PREFACE.len()],
    /// The part of `first` that the reader has not got.
    start: usize,
    end: usize,
}

impl<S> Begun<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, first: [0; PREFACE.len()], start: 0, end: 0 }
    }

    fn seen(&self) -> &[u8] {
        &self.first[self.start..self.end]
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.seen().len().min(into.remaining());
        if count == 0 {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        into.put_slice(&self.seen()[..count]);
        self.start += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What a connection is taken for whose client sends `pieces` and closes it, and what its reader gets.
    async fn begin(pieces: &[&[u8]]) -> (Preface, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut begun = Begun::new(server);
        let send = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (preface, ()) = tokio::join!(read_preface(&mut begun), send);
        let mut read = Vec::new();
        begun.read_to_end(&mut read).await.unwrap();
        (preface.unwrap(), read)
    }

    #[tokio::test]
    async fn the_reader_gets_what_was_looked_at() {
        let whole = [&PREFACE[..], b"rest"].concat();
        for at in 0..whole.len() {
            let (preface, read) = begin(&[&whole[..at], &whole[at..]]).await;
            assert_eq!((preface, &read), (Preface::Http2, &whole), "in two pieces at {at}");
        }
        for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.1\r\n\r\n", b"\0"] {
            assert_eq!(begin(&[text]).await, (Preface::Other, text.to_vec()));
        }
        for text in [&b""[..], b"P", &PREFACE[..23]] {
            assert_eq!(begin(&[text]).await.0, Preface::EndOfStream, "{text:?}");
        }
    }
}
