//! Tokens with the checksum of their bytes. Without it, the fuzzer would test that almost no text has a checksum.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

/// What an input begins with whose other bytes are to be sealed. No token has this character.
const SEAL: u8 = b'=';

/// The token that an input stands for: its text, or its bytes with their checksum. `None` if it is not text.
pub fn token(input: &[u8]) -> Option<String> {
    match input.split_first() {
        Some((&SEAL, body)) => Some(seal(body)),
        _ => String::from_utf8(input.to_vec()).ok(),
    }
}

fn seal(body: &[u8]) -> String {
    let checksum = xxh3_64(body).to_be_bytes();
    URL_SAFE_NO_PAD.encode([body, &checksum[4..]].concat())
}
