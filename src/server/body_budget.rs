//! Bounds the memory of request bodies that are still arriving. Each may be as large as a message may be, and many may
//! arrive at once and never end. Together they have a budget.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use crate::telemetry::checks::CheckMetrics;

/// The largest gRPC message that is read, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The budget of one listener, in bytes.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// What the arriving bodies of one listener take.
pub struct BodyBudget {
    bytes: AtomicUsize,
    metrics: Arc<CheckMetrics>,
}

impl BodyBudget {
    pub const fn new(metrics: Arc<CheckMetrics>) -> Self {
        Self { bytes: AtomicUsize::new(0), metrics }
    }

    /// The bytes that arriving bodies take now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// How the reader of a body takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// The reader keeps what has arrived.
    Plain,
    /// One or many gRPC messages. As soon as the header of a message has arrived, its reader takes as much as the
    /// header says.
    GrpcMessages,
}

/// The position in the gRPC messages of a body.
#[derive(Default)]
struct Framing {
    /// A flag, and the length of the message.
    header: [u8; 5],
    /// Bytes of the header that have arrived.
    header_received: usize,
    /// Bytes of the message that have not arrived.
    left: usize,
    /// Bytes that the reader has taken for the message.
    held: usize,
}

impl Framing {
    /// Returns the bytes that the reader holds after this piece, for a message that has not arrived whole.
    fn read(&mut self, mut piece: &[u8]) -> usize {
        while !piece.is_empty() {
            if self.header_received < self.header.len() {
                let (part, rest) = piece.split_at(piece.len().min(self.header.len() - self.header_received));
                self.header[self.header_received..self.header_received + part.len()].copy_from_slice(part);
                (self.header_received, piece) = (self.header_received + part.len(), rest);
                if self.header_received == self.header.len() {
                    let [_, length @ ..] = self.header;
                    self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    // The reader rejects a message that is too large.
                    self.held = self.left.min(MAX_MESSAGE);
                }
            } else {
                let part = piece.len().min(self.left);
                (self.left, piece) = (self.left - part, &piece[part..]);
            }
            if self.header_received == self.header.len() && self.left == 0 {
                (self.header_received, self.held) = (0, 0);
            }
        }
        self.held
    }
}

/// A request body that takes its memory from a budget.
pub struct BudgetedBody<B = Incoming> {
    body: B,
    kind: BodyKind,
    framing: Framing,
    /// Bytes that it takes. A body that arrives in one piece takes none.
    taken: usize,
    budget: Arc<BodyBudget>,
}

impl<B> BudgetedBody<B> {
    pub fn new(body: B, kind: BodyKind, budget: Arc<BodyBudget>) -> Self {
        Self { body, kind, framing: Framing::default(), taken: 0, budget }
    }

    /// Takes memory for a piece that is not the last.
    fn take(&mut self, piece: &[u8]) -> Result<(), Status> {
        let before = self.taken;
        self.taken = match self.kind {
            BodyKind::Plain => before + piece.len(),
            BodyKind::GrpcMessages => self.framing.read(piece),
        };
        if self.taken <= before {
            self.budget.bytes.fetch_sub(before - self.taken, Ordering::Relaxed);
            return Ok(());
        }
        let more = self.taken - before;
        if self.budget.bytes.fetch_add(more, Ordering::Relaxed) + more > BUDGET_BYTES {
            self.budget.metrics.failed(Some("reading"));
            return Err(Status::unavailable("overloaded: too many bytes of request bodies are arriving"));
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Body for BudgetedBody<B> {
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

impl<B> Drop for BudgetedBody<B> {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.budget.bytes.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_memory_from_its_header_to_its_end() {
        let message = [&[0, 0, 0, 0, 3][..], b"abc"].concat();
        let two = [&message[..], &[0, 0, 16, 0, 0], b"x"].concat();
        for size in 1..=two.len() {
            let mut framing = Framing::default();
            let held: Vec<usize> = two.chunks(size).map(|piece| framing.read(piece)).collect();
            assert_eq!(held.last(), Some(&MAX_MESSAGE), "the second message has begun");
            let whole = framing.read(&vec![0; MAX_MESSAGE - 1]);
            assert_eq!(whole, 0, "and has arrived");
        }
        let mut framing = Framing::default();
        assert_eq!(framing.read(&message), 0, "a message that arrives in one piece takes nothing");
        assert_eq!(framing.read(&[0, 255, 255, 255, 255]), MAX_MESSAGE);
        assert_eq!(Framing::default().read(&[0, 0, 0, 0, 0]), 0);
    }
}
