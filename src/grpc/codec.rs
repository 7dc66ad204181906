//! The codec of the servers. prost decodes requests; responses are encoded already.
//!
//! tonic keeps a buffer of 8 KiB for each call and stream. This codec allocates only what it sends, so an idle stream
//! costs no buffer.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::large;

/// The step in which buffers grow, in bytes. tonic makes a buffer of one step for each call and stream.
const BUFFER_STEP: usize = 1;
/// Bytes that are gathered before they are sent, if a stream has several messages ready.
const YIELD_BYTES: usize = 32 << 10;

/// An encoded message.
#[derive(Debug)]
pub struct Encoded(pub Bytes);

impl Encoded {
    /// Encodes a message.
    pub fn new(message: &impl Message) -> Self {
        Self(message.encode_to_vec().into())
    }
}

impl From<Vec<u8>> for Encoded {
    fn from(message: Vec<u8>) -> Self {
        Self(message.into())
    }
}

/// The codec. `E` is always [`Encoded`]; it is a parameter because the generated code names it.
#[derive(Debug)]
pub struct FrameCodec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for FrameCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default + 'static> Codec for FrameCodec<Encoded, D> {
    type Encode = Encoded;
    type Decode = D;
    type Encoder = FrameEncoder;
    type Decoder = MessageDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Copies the encoded message.
#[derive(Debug)]
pub struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, item: Encoded, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.0.len());
        out.put_slice(&item.0);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_STEP, YIELD_BYTES)
    }
}

/// Decodes a request.
#[derive(Debug)]
pub struct MessageDecoder<D>(PhantomData<D>);

impl<D: Message + Default> Decoder for MessageDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        // prost's error names our types, which tell the caller nothing. `status::explained` gives the reason.
        large::apart(buf.remaining(), || D::decode(buf)).map(Some).map_err(|_| Status::internal("undecodable"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_STEP, YIELD_BYTES)
    }
}
