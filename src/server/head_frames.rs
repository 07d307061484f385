//! Meters heads over HTTP/2 that come in several frames. The library decodes each frame when it arrives, and keeps the
//! head until its last frame. A head that comes in one frame is passed on at once, and takes nothing.

use super::budget::Taken;
use super::preface::PREFACE;

/// The memory of a head that has not ended, in bytes: the longest one that a front end takes, and the buffers of its
/// frames.
const HEAD_BYTES: usize = 128 * 1024;

/// The header of a frame (RFC 9113, section 4.1): a length of three bytes, a kind, flags, and a stream of four bytes.
const HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Follows the frames that a client sends.
pub(super) struct HeadFrames {
    /// Bytes of the preface or of a frame that have not arrived.
    left: usize,
    header: [u8; HEADER],
    /// Bytes of the header that have arrived.
    header_received: usize,
    /// What a head takes that has begun and not ended.
    taken: Taken,
}

impl HeadFrames {
    /// Returns a meter for a connection that begins with the preface. It takes memory as `taken`.
    pub(super) const fn new(taken: Taken) -> Self {
        Self { left: PREFACE.len(), header: [0; HEADER], header_received: 0, taken }
    }

    /// Follows the bytes that were read. Returns false if the connection may not hold a head now that does not end.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
            let part;
            (part, bytes) = bytes.split_at(bytes.len().min(HEADER - self.header_received));
            self.header[self.header_received..self.header_received + part.len()].copy_from_slice(part);
            self.header_received += part.len();
            if self.header_received == HEADER {
                let [a, b, c, kind, flags, ..] = self.header;
                self.header_received = 0;
                self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                if matches!(kind, HEADERS | CONTINUATION) && !self.take(flags & END_HEADERS != 0) {
                    return false;
                }
            }
        }
        true
    }

    /// Takes memory for a head that has not ended, or gives it back.
    fn take(&mut self, ended: bool) -> bool {
        let bytes = if ended { 0 } else { HEAD_BYTES };
        bytes == self.taken.bytes() || self.taken.resize(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::budget::{Budget, Share};
    use super::*;

    /// Encodes a frame.
    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![kind; usize::from(length)]].concat()
    }

    #[test]
    fn a_head_takes_memory_from_its_first_frame_to_its_last_unless_they_are_one() {
        const DATA: u8 = 0x0;
        let frames = [
            (PREFACE.to_vec(), 0),
            // Settings, whose flag means something else.
            (frame(0x4, 0, 6), 0),
            (frame(HEADERS, END_HEADERS, 30), 0),
            (frame(DATA, 0x1, 200), 0),
            (frame(HEADERS, 0, 0), HEAD_BYTES),
            (frame(CONTINUATION, 0, 255), HEAD_BYTES),
            (frame(CONTINUATION, 0, 7), HEAD_BYTES),
            (frame(CONTINUATION, END_HEADERS, 9), 0),
            (frame(DATA, 0, 0), 0),
            (frame(HEADERS, 0, 1), HEAD_BYTES),
        ];
        let taken = || Taken::none(Arc::new(Share::new(Arc::new(Budget::new(1 << 20)))));
        let mut whole = HeadFrames::new(taken());
        for (bytes, expected) in &frames {
            assert!(whole.read(bytes));
            assert_eq!(whole.taken.bytes(), *expected, "{bytes:?}");
        }
        let all: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        for size in 1..=all.len() {
            let mut pieces = HeadFrames::new(taken());
            assert!(all.chunks(size).all(|piece| pieces.read(piece)));
            assert_eq!(pieces.taken.bytes(), HEAD_BYTES, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_refused_beyond_the_budget() {
        let budget = Arc::new(Budget::new(4 * HEAD_BYTES));
        let begin = || {
            let mut frames = HeadFrames::new(Taken::none(Arc::new(Share::new(Arc::clone(&budget)))));
            (frames.read(PREFACE) && frames.read(&frame(HEADERS, 0, 1)), frames)
        };
        let open: Vec<_> = (0..20).map(|_| begin()).collect();
        let held = open.iter().filter(|(fits, _)| *fits).count();
        assert!((2..5).contains(&held), "{held} heads");
        drop(open);
        assert_eq!(budget.taken(), 0);
    }
}
