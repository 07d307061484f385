//! Bounds the memory of answers that wait to be sent. A client may ask for many and read none.
//!
//! A part of an answer takes memory from a budget until all of it is sent, or its stream ends. An answer beyond the
//! budget is cut off: over HTTP/2 its stream is reset with ENHANCE_YOUR_CALM, over HTTP/1 its connection is closed.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use h2::Reason;
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Taken;
use super::meter::Meter;

/// The body of an answer. What of it waits to be sent takes memory from a budget.
pub struct MeteredAnswer<B> {
    body: B,
    meter: Arc<Meter>,
}

impl<B> MeteredAnswer<B> {
    pub(super) const fn new(body: B, meter: Arc<Meter>) -> Self {
        Self { body, meter }
    }
}

/// A part of an answer. The HTTP library drops it when it is sent.
pub struct UnsentData<D> {
    data: D,
    /// What it takes from the budget. Goes back with the part.
    _taken: Taken,
}

impl<D: Buf> Buf for UnsentData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(into)
    }
}

impl<B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Body for MeteredAnswer<B> {
    type Data = UnsentData<B::Data>;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let taken = self.meter.unsent(frame.data_ref().map_or(0, Buf::remaining));
        let cut = || h2::Error::from(Reason::ENHANCE_YOUR_CALM).into();
        let metered = taken.map(|taken| frame.map_data(|data| UnsentData { data, _taken: taken }));
        Poll::Ready(Some(metered.ok_or_else(cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
