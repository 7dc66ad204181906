//! The codec of the servers: requests are decoded by prost, answers are encoded already.
//!
//! tonic keeps a buffer of 8 KiB for each call and stream. Ours is as large as what is sent, so that an idle stream
//! costs no buffer at all.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes that are gathered before they are sent, where a stream has more than one message ready.
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

/// See the module. `E` is always [`Encoded`]; the generated code wants to name it.
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

/// Copies what is encoded.
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
        BufferSettings::new(0, YIELD_BYTES)
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
        D::decode(buf).map(Some).map_err(|_| Status::internal("undecodable"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, YIELD_BYTES)
    }
}
