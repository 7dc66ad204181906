//! Decompresses messages before tonic sees them, so that their plain size counts in the budget of requests.
//!
//! tonic decompresses too, into a buffer of each stream, which no budget counts: a few kilobytes could become a gigabyte.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use crate::compression::Encoding;
use crate::refusal::Refusal;

/// A gRPC frame: a byte that tells of compression, the length of the message in 4 bytes, and the message.
pub(super) const HEADER: usize = 5;
pub(super) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The encoding that `grpc-encoding` names. `None` if there is none, or one that tonic refuses.
pub(super) fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    Encoding::named(headers.get(ENCODING)?.as_bytes())
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
    let length = encoding.inflate(message, limit, &mut plain).map_err(|_| Refusal::undecodable())?;
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
        let mut compressed = Vec::new();
        encoding.compress(message, &mut compressed);
        frame(1, &compressed)
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
        let of =
            |text: &str| encoding(&HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!((of("gzip"), of("zstd")), (Some(Encoding::Gzip), Some(Encoding::Zstd)));
        assert_eq!((of("identity"), of("snappy"), encoding(&HeaderMap::new())), (None, None, None));
    }
}
