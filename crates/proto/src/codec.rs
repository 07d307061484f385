//! How gRPC messages are read and written: by prost, with buffers of the size that a check has.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a call takes at first to read its message, and again to write its answer, in bytes. Larger ones grow. The
/// library's own 8 KiB are most of the memory of a call that is under way, and no cache holds those of some hundred
/// calls.
const BUFFER: usize = 512;
/// A stream hands on what it has written once it is so much, in bytes; the library's own.
const HAND_ON: usize = 32 * 1024;

/// The codec of all calls.
#[derive(Clone, Copy, Debug)]
pub struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for SmallBufferCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, HAND_ON))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, HAND_ON))
    }
}
