//! gzip and zstd, for whole messages and bodies.
//!
//! A compressor and a decompressor take up to a megabyte while they run. So nothing keeps one while it waits for a
//! client.

use std::io::{self, Read};

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};

/// The largest window that zstd may ask for, as a power of two: 8 MiB, which RFC 8878 asks every reader to support.
const ZSTD_WINDOW: u32 = 23;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The encoding with this name, which is in lower case.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Gzip, Self::Zstd].into_iter().find(|encoding| encoding.name().as_bytes() == name)
    }

    /// Its name in gRPC and in HTTP.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Appends compressed bytes to `out`.
    pub fn compress(self, plain: &[u8], out: &mut Vec<u8>) {
        let compressed = match self {
            Self::Gzip => GzEncoder::new(plain, Compression::default()).read_to_end(out).map(|_| ()),
            Self::Zstd => zstd::stream::copy_encode(plain, out, 0),
        };
        compressed.expect("memory can be written to");
    }

    /// Appends the plain bytes to `out`. Returns how many they are.
    ///
    /// # Errors
    /// If they are not compressed in this way.
    ///
    /// Beyond `limit` it stops, and returns a number that is larger.
    pub fn inflate(self, compressed: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let most = limit as u64 + 1;
        match self {
            Self::Gzip => GzDecoder::new(compressed).take(most).read_to_end(out),
            Self::Zstd => {
                let mut reader = zstd::Decoder::with_buffer(compressed)?;
                reader.window_log_max(ZSTD_WINDOW)?;
                reader.take(most).read_to_end(out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_they_were_and_no_more_than_the_limit() {
        let plain = [7; 1_000];
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let (mut compressed, mut inflated) = (b"before".to_vec(), b"it".to_vec());
            encoding.compress(&plain, &mut compressed);
            assert!(compressed.len() < 100, "{}", compressed.len());
            assert_eq!(encoding.inflate(&compressed[6..], 1_000, &mut inflated).unwrap(), 1_000);
            assert_eq!(inflated, [&b"it"[..], &plain].concat());
            assert_eq!(encoding.inflate(&compressed[6..], 999, &mut inflated).unwrap(), 1_000);
            assert!(encoding.inflate(b"plain", 9, &mut inflated).is_err());
            assert!(encoding.inflate(&compressed[6..10], 9, &mut inflated).is_err());
        }
    }

    /// A few bytes may ask for 128 MiB.
    #[test]
    fn a_window_beyond_8_mib_is_refused() {
        let of_window = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 0).unwrap();
            encoder.window_log(log).unwrap();
            io::copy(&mut &b"some bytes"[..], &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(Encoding::Zstd.inflate(&of_window(23), 100, &mut Vec::new()).unwrap(), 10);
        assert!(Encoding::Zstd.inflate(&of_window(24), 100, &mut Vec::new()).is_err());
    }

    #[test]
    fn encodings_have_names() {
        let named = [&b"gzip"[..], b"zstd", b"GZIP", b"identity", b""].map(Encoding::named);
        assert_eq!(named, [Some(Encoding::Gzip), Some(Encoding::Zstd), None, None, None]);
    }
}
