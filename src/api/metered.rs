//! What is read of requests that have not come in whole. Each may be as large as a message may, and many may come at once and
//! never end: together they are bounded.

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
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What its reader keeps as it comes.
    Plain,
    /// A message of gRPC, for which its reader takes as much as it says that it will be.
    Message,
    /// Messages without end, none of which is kept.
    Messages,
}

/// A request's body, metered.
pub struct Metered {
    body: Incoming,
    kind: Kind,
    /// What it takes of what may be read, in bytes: nothing where it comes in one piece.
    taken: usize,
    reading: Arc<Reading>,
}

impl Metered {
    pub const fn new(body: Incoming, kind: Kind, reading: Arc<Reading>) -> Self {
        Self { body, kind, taken: 0, reading }
    }

    /// A piece came that is not the last.
    fn take(&mut self, piece: &[u8]) -> Result<(), Status> {
        let count = match (self.kind, piece) {
            (Kind::Messages, _) => 0,
            // A flag, and the length of what follows; one that says more than a message may have is refused by its reader.
            (Kind::Message, [_, a, b, c, d, ..]) if self.taken == 0 => {
                usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(MOST).min(MAX_MESSAGE)
            }
            (Kind::Message, _) if self.taken > 0 => 0,
            _ => piece.len(),
        };
        self.taken += count;
        if self.reading.bytes.fetch_add(count, Ordering::Relaxed) + count > MOST {
            self.reading.metrics.failed(Some("reading"));
            return Err(Status::unavailable("overloaded: too much is being read"));
        }
        Ok(())
    }
}

impl Body for Metered {
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

impl Drop for Metered {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.reading.bytes.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}
