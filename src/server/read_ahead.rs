//! Meters what the HTTP/1 library has read from a connection and not passed on: heads that have not arrived whole, and
//! requests that a client sends before it has the answer to an earlier one.
//!
//! Over HTTP/2, windows bound the bodies, and [`super::head_frames`] meters the heads.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::{HeaderMap, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::budget::Taken;
use super::head_frames::HeadFrames;
use super::meter::{Heads, Meter};

/// The bytes that the library has read and not passed on.
pub(super) struct ReadAhead(Mutex<State>);

struct State {
    taken: Taken,
    last_read: usize,
}

impl ReadAhead {
    /// Returns a meter that has counted nothing. It takes memory as `taken`.
    pub(super) const fn new(taken: Taken) -> Self {
        Self(Mutex::new(State { taken, last_read: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `bytes` that were read. Returns false if the connection may not hold so many more now.
    fn read(&self, bytes: usize) -> bool {
        let mut state = self.state();
        state.last_read = bytes;
        let all = state.taken.bytes() + bytes;
        state.taken.resize(all)
    }

    /// Counts that a head of about `bytes` was passed on. What is left is not longer than what was read last, because
    /// the head was not whole before.
    pub(super) fn head_passed_on(&self, bytes: usize) {
        let mut state = self.state();
        let left = state.taken.bytes().saturating_sub(bytes).min(state.last_read);
        state.shrink(left);
    }

    /// Counts that `bytes` of a body were passed on.
    pub(super) fn body_passed_on(&self, bytes: usize) {
        let mut state = self.state();
        let left = state.taken.bytes().saturating_sub(bytes);
        state.shrink(left);
    }
}

impl State {
    fn shrink(&mut self, bytes: usize) {
        // A share takes less at any time.
        let _ = self.taken.resize(bytes);
    }
}

/// The length of a head, in bytes, with its separators.
pub(super) fn head_length(uri: &Uri, headers: &HeaderMap) -> usize {
    let uri = uri.path_and_query().map_or(0, |path| path.as_str().len());
    headers.iter().fold(uri, |sum, (name, value)| sum + name.as_str().len() + value.len() + ": \r\n".len())
}

/// A connection whose reading is metered.
pub(super) struct MeteredStream<S> {
    stream: S,
    meter: Arc<Meter>,
    /// What is known of the frames of HTTP/2; `None` if its heads are not metered.
    frames: Option<HeadFrames>,
}

impl<S> MeteredStream<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        let frames = (meter.heads == Heads::Http2).then(|| HeadFrames::new(meter.arriving()));
        Self { stream, meter, frames }
    }

    /// Counts what was read. Returns false if the connection may not hold so much now.
    fn count(&mut self, bytes: &[u8]) -> bool {
        let ahead = self.meter.read_ahead.as_ref().is_none_or(|ahead| bytes.is_empty() || ahead.read(bytes.len()));
        ahead && self.frames.as_mut().is_none_or(|frames| frames.read(bytes))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        if self.count(&into.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        self.meter.refuse_head();
        Poll::Ready(Err(io::Error::other("overloaded: too many bytes of heads are arriving")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
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
    use super::super::budget::{Budget, Share};
    use super::*;

    #[test]
    fn what_was_passed_on_is_not_counted_and_what_was_read_ahead_is() {
        let share = Arc::new(Share::new(Arc::new(Budget::new(1 << 20))));
        let ahead = ReadAhead::new(Taken::none(share));
        let counted = || ahead.state().taken.bytes();
        // A head in two pieces, and a body.
        assert!(ahead.read(1000) && ahead.read(300));
        ahead.head_passed_on(1200);
        assert_eq!(counted(), 100);
        ahead.body_passed_on(40);
        assert_eq!(counted(), 60);
        // The framing of chunks is never passed on. It does not add up.
        for _ in 0..100 {
            assert!(ahead.read(50));
            ahead.head_passed_on(45);
        }
        assert!(counted() <= 50, "{}", counted());
        // A second head is in the same piece as the first.
        assert!(ahead.read(60_000));
        ahead.head_passed_on(100);
        assert!((59_900..=60_000).contains(&counted()), "{}", counted());
        assert!(!ahead.read(2 << 20), "beyond the budget");
        ahead.head_passed_on(usize::MAX);
        assert_eq!(counted(), 0);
    }
}
