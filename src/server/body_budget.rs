//! Bounds the memory of requests that are still arriving. The body of each may be as large as a message may be, and
//! many may arrive at once and never end. They take memory from a budget, and so do their heads.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::{Code, Status};

use super::budget::Taken;
use super::meter::Meter;

/// The largest gRPC message that is read, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// How the reader of a body takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// The reader keeps what has arrived.
    Plain,
    /// One or many gRPC messages. As soon as the header of a message has arrived, its reader takes as much as the
    /// header says.
    GrpcMessages,
}

/// What a call says whose message found no room.
const NO_ROOM: &str = "overloaded: too many bytes of requests are arriving";

/// True if this is the error of a body that found no room.
pub fn is_without_room(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message() == NO_ROOM
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

/// A request body that takes its memory, and that of its head, from a budget.
pub struct BudgetedBody<B = Incoming> {
    body: B,
    kind: BodyKind,
    framing: Framing,
    /// The length of the head of the request.
    head: usize,
    /// The memory of the request while it arrives; `None` until it takes some.
    taken: Option<Taken>,
    /// Bytes of the body that its reader holds.
    held: usize,
    /// See [`Self::read_to_the_end`].
    reads_to_the_end: bool,
    /// It found no room, and the rest of it is dropped as it arrives.
    is_dropped: bool,
    meter: Arc<Meter>,
}

impl<B> BudgetedBody<B> {
    /// Returns the body of a request with a head of `head` bytes.
    pub fn new(body: B, kind: BodyKind, head: usize, meter: Arc<Meter>) -> Self {
        let (framing, reads_to_the_end, is_dropped) = (Framing::default(), false, false);
        Self { body, kind, framing, head, taken: None, held: 0, reads_to_the_end, is_dropped, meter }
    }

    /// Makes a body that finds no room arrive to its end before it fails. Otherwise its stream is reset, and the
    /// library ends a connection with many such streams, which is shared by all requests of a gateway. Not for a body
    /// that may be endless.
    pub const fn read_to_the_end(&mut self) {
        self.reads_to_the_end = true;
    }

    /// The meter of the connection.
    pub const fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Takes memory for the head, and for what the reader of the body holds.
    fn take(&mut self) -> Result<(), Status> {
        let Self { taken, head, held, meter, .. } = self;
        if taken.get_or_insert_with(|| meter.arriving()).resize(*head + *held) {
            return Ok(());
        }
        self.meter.rejected();
        self.held = 0;
        self.is_dropped = self.reads_to_the_end;
        Err(Status::unavailable(NO_ROOM))
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> BudgetedBody<B> {
    /// Drops what arrives. Fails at the end.
    fn drop_the_rest(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) {
            if let Err(error) = frame {
                return Poll::Ready(Some(Err(Status::from_error(error.into()))));
            }
        }
        self.is_dropped = false;
        Poll::Ready(Some(Err(Status::unavailable(NO_ROOM))))
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Body for BudgetedBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_dropped {
            return self.drop_the_rest(context);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return match self.take() {
                Err(overloaded) if !self.is_dropped => Poll::Ready(Some(Err(overloaded))),
                _ => Poll::Pending,
            };
        };
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            if let Some(ahead) = &self.meter.read_ahead {
                ahead.body_passed_on(piece.len());
            }
            if !self.body.is_end_stream() {
                self.held = match self.kind {
                    BodyKind::Plain => self.held + piece.len(),
                    BodyKind::GrpcMessages => self.framing.read(piece),
                };
                if let Err(overloaded) = self.take() {
                    if self.is_dropped {
                        return self.drop_the_rest(context);
                    }
                    return Poll::Ready(Some(Err(overloaded)));
                }
            }
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
