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
        let metered = match frame.into_data() {
            Ok(data) => {
                self.meter.unsent(data.remaining()).map(|taken| Frame::data(UnsentData { data, _taken: taken }))
            }
            // Trailers are short, and take nothing.
            Err(frame) => frame.into_trailers().ok().map(Frame::trailers),
        };
        let cut = || h2::Error::from(Reason::ENHANCE_YOUR_CALM).into();
        Poll::Ready(Some(metered.ok_or_else(cut)))
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
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    use super::super::meter::{Budgets, Heads};
    use super::*;
    use crate::telemetry::checks::CheckMetrics;
    use crate::telemetry::registry::MetricsRegistry;

    fn meter() -> (Arc<Meter>, prometheus::IntCounter) {
        let cut = prometheus::IntCounter::new("cut", "answers that were cut off").unwrap();
        let checks = CheckMetrics::new(&MetricsRegistry::new("0", "test").unwrap()).unwrap();
        (Arc::new(Meter::new(Arc::new(Budgets::new(64 << 20, Arc::new(checks), cut.clone())), Heads::Http2)), cut)
    }

    fn answer(
        meter: &Arc<Meter>,
        parts: &[usize],
    ) -> MeteredAnswer<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let parts: Vec<_> = parts.iter().map(|length| Ok(Frame::data(Bytes::from(vec![0; *length])))).collect();
        MeteredAnswer::new(StreamBody::new(stream::iter(parts)), Arc::clone(meter))
    }

    /// The next part that waits to be sent.
    async fn part<B>(answer: &mut MeteredAnswer<B>) -> Result<UnsentData<Bytes>, Box<dyn Error + Send + Sync>>
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        Ok(answer.frame().await.unwrap()?.into_data().ok().unwrap())
    }

    #[tokio::test]
    async fn an_answer_beyond_the_budget_is_cut_off_and_others_go_on() {
        let (meter, cut) = meter();
        let first = part(&mut answer(&meter, &[30 << 20])).await.unwrap();
        let Err(error) = part(&mut answer(&meter, &[30 << 20])).await else { panic!("expected an error") };
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        assert_eq!((reason, cut.get()), (Some(Reason::ENHANCE_YOUR_CALM), 1));
        drop(first);
        assert_eq!(meter.held(), 0);
        part(&mut answer(&meter, &[30 << 20])).await.unwrap();
        assert_eq!(cut.get(), 1);
    }

    proptest! {
        /// A client that reads now and then: what is held is always what it has not read.
        #[test]
        fn what_is_held_is_what_was_not_sent(
            answers in prop::collection::vec(prop::collection::vec(1_usize..100_000, 1..5), 1..20),
            reads in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        ) {
            let (meter, _) = meter();
            let mut unsent = Vec::new();
            for parts in &answers {
                let mut answer = answer(&meter, parts);
                for _ in parts {
                    // Each part is ready at once.
                    unsent.extend(futures_util::FutureExt::now_or_never(part(&mut answer)).unwrap());
                }
            }
            let all = |unsent: &[UnsentData<Bytes>]| unsent.iter().map(|part| part.data.len()).sum::<usize>();
            prop_assert_eq!(meter.held(), all(&unsent));
            for read in reads {
                if !unsent.is_empty() {
                    drop(unsent.swap_remove(read.index(unsent.len())));
                    prop_assert_eq!(meter.held(), all(&unsent));
                }
            }
            drop(unsent);
            prop_assert_eq!(meter.held(), 0);
        }
    }
}
