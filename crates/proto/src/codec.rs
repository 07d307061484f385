//! How gRPC messages are read and written: by prost, with buffers of the size that a check has.

use std::marker::PhantomData;

use prost::bytes::Buf as _;
use prost::{DecodeError, Message, Name};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::unknown_fields::unknown_fields;

/// What a call takes at first to read its message, and again to write its answer, in bytes. Larger ones grow. The
/// library's own 8 KiB are most of the memory of a call that is under way, and no cache holds those of some hundred
/// calls.
const BUFFER: usize = 512;
/// A stream hands on what it has written once it is so much, in bytes; the library's own.
const HAND_ON: usize = 32 * 1024;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, HAND_ON)
}

/// The codec of all calls.
#[derive(Clone, Copy, Debug)]
pub struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

/// The codec of a server that is told which fields of a message it does not know.
#[derive(Clone, Copy, Debug)]
pub struct CheckedCodec<T, U>(PhantomData<(T, U)>);

/// A message, and the fields in it that this version does not know.
#[derive(Clone, Debug, Default)]
pub struct Checked<M> {
    pub message: M,
    /// By their places and numbers, as `descriptors[0].limit.9`. Not all, if they are many.
    pub unknown: Vec<String>,
}

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Default for CheckedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for SmallBufferCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = SmallBufferDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        SmallBufferDecoder(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Name + Default + Send + 'static> Codec for CheckedCodec<T, U> {
    type Encode = T;
    type Decode = Checked<U>;
    type Encoder = ProstEncoder<T>;
    type Decoder = CheckedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckedDecoder(PhantomData)
    }
}

/// Decodes messages.
#[derive(Clone, Copy, Debug)]
pub struct SmallBufferDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for SmallBufferDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(undecodable)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Decodes messages and finds their unknown fields.
#[derive(Clone, Copy, Debug)]
pub struct CheckedDecoder<U>(PhantomData<U>);

impl<U: Message + Name + Default> Decoder for CheckedDecoder<U> {
    type Item = Checked<U>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Checked<U>>, Status> {
        // The buffer of a message is in one piece.
        let bytes = buffer.chunk();
        let message = U::decode(bytes).map_err(undecodable)?;
        // No encoding of the known fields is shorter than this one.
        let complete = message.encoded_len() == bytes.len();
        let unknown = if complete { Vec::new() } else { unknown_fields(&U::full_name(), bytes) };
        buffer.advance(buffer.remaining());
        Ok(Some(Checked { message, unknown }))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// The client is wrong, not this node: INVALID_ARGUMENT, where the library says INTERNAL.
fn undecodable(error: DecodeError) -> Status {
    Status::invalid_argument(format!("the message cannot be decoded: {error}"))
}
