//! How a batch is written for the counter script, and how its reply is read.
//!
//! All numbers are big-endian integers of fixed widths. A number that does not fit its width is written as the largest
//! that does; no number of a sound node comes near that.
//!
//! - A batch has a head (version, holder, batch id, end), and for each item its length, its kind and its text. The
//!   length does not count the kind.
//! - A reply has the version, a byte that tells if the batch ran or was late, the store's clock, and the replies to
//!   the items in order.
//! - [`keys`] returns the keys that the script needs: those of the items, and that of the record of the lane if an item
//!   needs it. So Redis knows all keys that the script touches, also while a slot moves.
//!
//! Most items have a compact form, and so have their replies. Every other item and reply has the general form.

pub(crate) mod codes;
mod decode;
mod encode;

pub use codes::{RECORD_VERSION, VERSION};
pub use decode::{decode_reply, decode_reply_with_error};
pub use encode::{encode_batch, keys};

/// The reply is not what the counter script writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply of the counter script is malformed")]
pub struct Malformed;

#[cfg(test)]
mod tests {
    use limiter::counter::{BatchOutcome, ItemReply};

    use super::encode::Writer;
    use super::*;

    #[test]
    fn a_reply_that_is_cut_or_too_long_is_malformed() {
        let mut out = Writer(vec![VERSION, 1]);
        out.put::<7>(1_700_000_000_000_000);
        out.0.extend([0, 3, b'O', b'O', b'M', 1]);
        out.put::<6>(77);
        let (reply, error) = decode_reply_with_error(&out.0, 2).unwrap();
        assert_eq!(error.as_deref(), Some("OOM"));
        assert_eq!(reply.outcome, BatchOutcome::Ran(vec![ItemReply::Failed, ItemReply::OutOfBounds { newest_ms: 77 }]));
        for cut in 0..out.0.len() {
            assert_eq!(decode_reply(&out.0[..cut], 2), Err(Malformed));
        }
        assert_eq!(decode_reply(&out.0, 1), Err(Malformed));
        out.0[14] = 9;
        assert_eq!(decode_reply(&out.0, 2), Err(Malformed));
        // The reply claims more runs than it has.
        out.0.splice(9.., [2, 0xff, 0xff]);
        assert_eq!(decode_reply(&out.0, 1), Err(Malformed));
    }

    #[test]
    fn a_number_that_does_not_fit_is_written_as_the_largest_that_does() {
        let mut out = Writer(Vec::new());
        out.put::<2>(70_000);
        out.put::<2>(258);
        out.put::<8>(u64::MAX);
        assert_eq!(out.0, [255, 255, 1, 2, 255, 255, 255, 255, 255, 255, 255, 255]);
    }
}
