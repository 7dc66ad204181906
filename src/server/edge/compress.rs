//! Compresses the messages of responses, each when it is sent.
//!
//! tonic compresses too, and then keeps a buffer with the plain message for as long as the response is not read.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

use super::inflate::{ENCODING, HEADER};
use crate::compression::Encoding;
use crate::grpc::large;

const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The size from which a message is compressed, in bytes. Below it, compression costs more than it saves, and many
/// clients ask for it by default.
const COMPRESS_FROM: usize = 1024;

/// The first encoding that the client accepts and we know. `None` if there is none.
pub(super) fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    let mut names = headers.get(ACCEPT)?.as_bytes().split(|byte| *byte == b',');
    names.find_map(|name| Encoding::named(name.trim_ascii()))
}

/// Says in the head of a response how its messages are compressed. A refusal has its status there, and no message.
pub(super) fn announce(encoding: Encoding, headers: &mut HeaderMap) {
    if !headers.contains_key(Status::GRPC_STATUS) {
        headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
    }
}

/// Compresses frames of gRPC that are worth it. They are whole, and plain.
pub(super) fn compress(encoding: Encoding, frames: Bytes) -> Bytes {
    if frames.len() < HEADER + COMPRESS_FROM {
        return frames;
    }
    large::apart(frames.len(), || {
        let (mut rest, mut compressed) = (&*frames, Vec::new());
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let [_, length @ ..] = *header;
            let (message, next) = after.split_at(after.len().min(u32::from_be_bytes(length) as usize));
            rest = next;
            if message.len() < COMPRESS_FROM {
                compressed.extend_from_slice(header);
                compressed.extend_from_slice(message);
                continue;
            }
            let at = compressed.len();
            compressed.extend_from_slice(&[1, 0, 0, 0, 0]);
            encoding.compress(message, &mut compressed);
            let length = u32::try_from(compressed.len() - at - HEADER).expect("it is about as long as the message");
            compressed[at + 1..at + HEADER].copy_from_slice(&length.to_be_bytes());
        }
        compressed.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::inflate::frames::plain;
    use crate::server::edge::inflate::{inflate, is_compressed};

    #[test]
    fn large_frames_are_compressed_and_small_ones_are_not() {
        let frames = [plain(&[1; COMPRESS_FROM - 1]), plain(&[2; COMPRESS_FROM]), plain(&[]), plain(&vec![3; 100_000])];
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let compressed = compress(encoding, frames.concat().into());
            let mut rest = compressed.clone();
            for (frame, is_large) in frames.iter().zip([false, true, false, true]) {
                let length = u32::from_be_bytes(rest[1..HEADER].try_into().unwrap()) as usize;
                let found = rest.split_to(HEADER + length);
                assert_eq!(is_compressed(&found), is_large);
                let found = if is_large { inflate(encoding, &found, 100_000).unwrap() } else { found };
                assert_eq!(found, frame);
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn the_first_known_encoding_of_the_client_is_taken() {
        let of = |text: &str| accepted(&HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())]));
        assert_eq!((of("identity, deflate, gzip,zstd"), of("zstd,gzip")), (Some(Encoding::Gzip), Some(Encoding::Zstd)));
        assert_eq!((of("identity"), of(""), accepted(&HeaderMap::new())), (None, None, None));
    }
}
