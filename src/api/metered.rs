//! What is read of requests that have not come in whole. Each may be as large as a message may, and many may come at once and
//! never end: together they are bounded.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use crate::telemetry::metrics::Metrics;

/// The largest gRPC message that is read, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// What such requests may take on one face, in bytes.
const MOST: usize = 64 * 1024 * 1024;

/// What one face is reading.
pub struct Reading {
    bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Reading {
    pub const fn new(metrics: Arc<Metrics>) -> Self {
        Self { bytes: AtomicUsize::new(0), metrics }
    }

    /// What requests hold now that have not come in whole, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What its reader keeps as it comes.
    Plain,
    /// Messages of gRPC, one or many: for each its reader takes as much as its head says, as soon as it has that.
    Messages,
}

/// Where in its messages a body of gRPC is.
#[derive(Default)]
struct Framing {
    /// A flag, and the length of what follows.
    head: [u8; 5],
    /// So much of the head has come.
    come: usize,
    /// So much of the message is to come.
    left: usize,
    /// What its reader has taken for the message, in bytes.
    held: usize,
}

impl Framing {
    /// What the reader holds after this piece, for a message that has not come in whole.
    fn read(&mut self, mut piece: &[u8]) -> usize {
        while !piece.is_empty() {
            if self.come < self.head.len() {
                let (part, rest) = piece.split_at(piece.len().min(self.head.len() - self.come));
                self.head[self.come..self.come + part.len()].copy_from_slice(part);
                (self.come, piece) = (self.come + part.len(), rest);
                if self.come == self.head.len() {
                    let [_, length @ ..] = self.head;
                    self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    // One that says more than a message may have is refused by its reader.
                    self.held = self.left.min(MAX_MESSAGE);
                }
            } else {
                let part = piece.len().min(self.left);
                (self.left, piece) = (self.left - part, &piece[part..]);
            }
            if self.come == self.head.len() && self.left == 0 {
                (self.come, self.held) = (0, 0);
            }
        }
        self.held
    }
}

/// A request's body, metered.
pub struct Metered<B = Incoming> {
    body: B,
    kind: Kind,
    framing: Framing,
    /// What it takes of what may be read, in bytes: nothing where it comes in one piece.
    taken: usize,
    reading: Arc<Reading>,
}

impl<B> Metered<B> {
    pub fn new(body: B, kind: Kind, reading: Arc<Reading>) -> Self {
        Self { body, kind, framing: Framing::default(), taken: 0, reading }
    }

    /// A piece came that is not the last.
    fn take(&mut self, piece: &[u8]) -> Result<(), Status> {
        let before = self.taken;
        self.taken = match self.kind {
            Kind::Plain => before + piece.len(),
            Kind::Messages => self.framing.read(piece),
        };
        if self.taken <= before {
            self.reading.bytes.fetch_sub(before - self.taken, Ordering::Relaxed);
            return Ok(());
        }
        let more = self.taken - before;
        if self.reading.bytes.fetch_add(more, Ordering::Relaxed) + more > MOST {
            self.reading.metrics.failed(Some("reading"));
            return Err(Status::unavailable("overloaded: too much is being read"));
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
            && !self.body.is_end_stream()
            && let Err(overloaded) = self.take(piece)
        {
            return Poll::Ready(Some(Err(overloaded)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Metered<B> {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.reading.bytes.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_held_from_its_head_to_its_end_however_it_comes() {
        let message = [&[0, 0, 0, 0, 3][..], b"abc"].concat();
        let two = [&message[..], &[0, 0, 16, 0, 0], b"x"].concat();
        for size in 1..=two.len() {
            let mut framing = Framing::default();
            let held: Vec<usize> = two.chunks(size).map(|piece| framing.read(piece)).collect();
            assert_eq!(held.last(), Some(&MAX_MESSAGE), "the second has begun");
            let whole = framing.read(&vec![0; MAX_MESSAGE - 1]);
            assert_eq!(whole, 0, "and has come");
        }
        let mut framing = Framing::default();
        assert_eq!(framing.read(&message), 0, "one that comes in whole is not held");
        assert_eq!(framing.read(&[0, 255, 255, 255, 255]), MAX_MESSAGE);
        assert_eq!(Framing::default().read(&[0, 0, 0, 0, 0]), 0);
    }
}
