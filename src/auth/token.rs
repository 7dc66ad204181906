//! Static tokens: `cameo_`, an id, `_` and a secret. The id finds the caller, and is no secret. A hash of the whole
//! token tells whether the secret is right.

use std::fmt::Write;

use rand::distr::{Alphanumeric, SampleString};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// What a static token begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "cameo_";
/// The length of a new id.
const ID: usize = 12;
/// The lengths that an id may have.
const IDS: std::ops::RangeInclusive<usize> = 8..=64;
/// The length of a new secret: 43 of 62 letters and digits are 256 bits.
const SECRET: usize = 43;

/// The SHA-256 of a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let hash = digest(&SHA256, token);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Parses a hash in hexadecimal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        let bytes: Vec<_> = (0..32).filter(|_| is_hash).filter_map(byte).collect();
        bytes.try_into().ok().map(Self)
    }

    /// The hash in hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        let mut hex = String::with_capacity(2 * self.0.len());
        for byte in self.0 {
            write!(hex, "{byte:02x}").expect("a string takes what is written");
        }
        hex
    }

    /// Compares two hashes. How long that takes tells nothing of where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A new token.
pub struct Fresh {
    /// Its id.
    pub id: String,
    /// The token, which is not kept anywhere.
    pub token: String,
}

/// Makes a new token.
#[must_use]
pub fn fresh() -> Fresh {
    let mut random = rand::rng(); // It is cryptographic, and seeded by the system.
    let id = Alphanumeric.sample_string(&mut random, ID);
    let secret = Alphanumeric.sample_string(&mut random, SECRET);
    Fresh { token: format!("{PREFIX}{id}_{secret}"), id }
}

/// Whether a token is a static one, rather than a JWT.
#[must_use]
pub fn is_static(token: &str) -> bool {
    token.starts_with(PREFIX)
}

/// The id of a static token. `None` if it is malformed.
#[must_use]
pub fn id_of(token: &str) -> Option<&str> {
    let (id, _secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    is_id(id).then_some(id)
}

/// Whether this can be the id of a token.
#[must_use]
pub fn is_id(text: &str) -> bool {
    IDS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_has_an_id_and_a_secret_of_256_bits() {
        let (one, two) = (fresh(), fresh());
        assert_eq!(id_of(&one.token), Some(&*one.id));
        assert_ne!(one.token, two.token);
        assert_ne!(one.id, two.id);
        let secret = one.token.rsplit('_').next().unwrap();
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let bits = f64::from(u8::try_from(secret.len()).unwrap()) * 62_f64.log2();
        assert!(bits >= 256.0, "{bits}");
    }

    #[test]
    fn the_id_is_between_the_underscores() {
        assert_eq!(id_of("cameo_abcd1234_x_y"), Some("abcd1234"));
        for malformed in ["", "cameo_", "cameo_abcd1234", "cameo_abc_x", "cameo_abcd-1234_x", "Cameo_abcd1234_x"] {
            assert_eq!(id_of(malformed), None, "{malformed}");
        }
        assert_eq!(id_of(&format!("cameo_{}_x", "a".repeat(65))), None);
    }

    /// The example of FIPS 180-4.
    #[test]
    fn a_hash_is_sha_256_in_hexadecimal() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = Hash::of(b"abc");
        assert_eq!(hash.to_hex(), hex);
        assert!(Hash::parse(hex).unwrap().matches(&hash));
        assert!(Hash::parse(&hex.to_uppercase()).unwrap().matches(&hash));
        assert!(!Hash::of(b"abd").matches(&hash));
        for malformed in [&hex[1..], &format!("{hex}0"), &hex.replace('b', "+"), &hex.replace('b', "g"), ""] {
            assert!(Hash::parse(malformed).is_none(), "{malformed}");
        }
    }

    #[test]
    fn hashes_that_differ_in_one_bit_do_not_match() {
        let hash = Hash::of(b"abc");
        for bit in 0..256 {
            let mut other = hash.clone();
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!hash.matches(&other), "{bit}");
        }
    }
}
