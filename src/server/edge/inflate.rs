//! Decompresses messages before tonic sees them, so that their plain size counts in the budget of requests.
//!
//! tonic decompresses too, into a buffer of each stream, which no budget counts: a few kilobytes could become a gigabyte.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName};

use crate::refusal::Refusal;

/// A gRPC frame: a byte that tells of compression, the length of the message in 4 bytes, and the message.
pub(super) const HEADER: usize = 5;
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// How the messages of a call are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// The encoding that `grpc-encoding` names. `None` if there is none, or one that tonic refuses.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        match headers.get(ENCODING)?.as_bytes() {
            b"gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whether a frame holds a compressed message.
pub(super) fn is_compressed(frame: &[u8]) -> bool {
    frame.first() == Some(&1)
}

/// Makes a plain frame of a compressed one.
///
/// # Errors
/// The refusal of a message that is not compressed as it says, or that comes to more than `limit` bytes.
pub(super) fn inflate(encoding: Encoding, frame: &[u8], limit: usize) -> Result<Bytes, Refusal> {
    let message = frame.get(HEADER..).ok_or_else(Refusal::undecodable)?;
    let mut plain = vec![0; HEADER];
    let most = limit as u64 + 1;
    let read = match encoding {
        Encoding::Gzip => GzDecoder::new(message).take(most).read_to_end(&mut plain),
        Encoding::Zstd => zstd::Decoder::with_buffer(message).and_then(|read| read.take(most).read_to_end(&mut plain)),
    };
    let length = read.map_err(|_| Refusal::undecodable())?;
    let header =
        u32::try_from(length).ok().filter(|_| length <= limit).ok_or_else(|| Refusal::body_too_large(limit))?;
    plain[1..HEADER].copy_from_slice(&header.to_be_bytes());
    Ok(plain.into())
}

/// Frames for tests.
#[cfg(test)]
pub(super) mod frames {
    use super::*;

    /// A frame that is not compressed.
    pub fn plain(message: &[u8]) -> Vec<u8> {
        frame(0, message)
    }

    /// A frame that is said to be compressed and is not.
    pub fn malformed(message: &[u8]) -> Vec<u8> {
        frame(1, message)
    }

    pub fn compressed(encoding: Encoding, message: &[u8]) -> Vec<u8> {
        let compressed = match encoding {
            Encoding::Gzip => {
                let mut compressed = Vec::new();
                let mut encoder = flate2::read::GzEncoder::new(message, flate2::Compression::default());
                encoder.read_to_end(&mut compressed).map(|_| compressed)
            }
            Encoding::Zstd => zstd::encode_all(message, 0),
        };
        frame(1, &compressed.unwrap())
    }

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::frames::{compressed, malformed};
    use super::*;

    #[test]
    fn a_message_is_as_it_was_and_no_larger_than_the_limit() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let frame = compressed(encoding, &[7; 1_000]);
            assert!(is_compressed(&frame));
            let plain = inflate(encoding, &frame, 1_000).unwrap();
            assert!(!is_compressed(&plain));
            assert_eq!((&plain[1..HEADER], &plain[HEADER..]), (&1_000_u32.to_be_bytes()[..], &[7; 1_000][..]));
            let reason = |limit| inflate(encoding, &frame, limit).unwrap_err().reason_name();
            assert_eq!(reason(999), "LIMIT_EXCEEDED", "{encoding:?}");
            assert_eq!(inflate(encoding, &malformed(b"plain"), 9).unwrap_err().reason_name(), "FIELD_INVALID");
            assert_eq!(inflate(encoding, &frame[..frame.len() / 2], 1_000).unwrap_err().reason_name(), "FIELD_INVALID");
        }
    }

    #[test]
    fn the_encoding_is_that_of_the_header() {
        let of = |text: &str| {
            Encoding::of(&HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), text.parse().unwrap())]))
        };
        assert_eq!((of("gzip"), of("zstd")), (Some(Encoding::Gzip), Some(Encoding::Zstd)));
        assert_eq!((of("identity"), of("snappy"), Encoding::of(&HeaderMap::new())), (None, None, None));
    }
}
