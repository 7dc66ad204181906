//! The keys that verify JWTs, as a JWK set has them.
//!
//! A key that this server cannot use is left out, as the standard asks: other services may use it. What is left has one
//! algorithm each, so a token cannot choose how its key is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;

use super::Unauthenticated;
use super::signature::without_zeros;

/// The largest key set.
pub const SET_BYTES: u64 = 1 << 20;
/// The most keys of a set, those included that are left out.
const KEYS: usize = 100;
/// The longest id of a key, in bytes.
pub const KID_BYTES: usize = 256;
/// The sizes of RSA keys, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// A point of P-256 that is not compressed, and one of Ed25519.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// A key that verifies JWTs.
pub struct Key {
    kid: Option<String>,
    /// The one algorithm of the key.
    pub algorithm: Algorithm,
    /// The key.
    pub public: DecodingKey,
    /// Whether a newer set lacks the key. The callers that it has verified share this.
    pub is_withdrawn: Arc<AtomicBool>,
}

/// The keys of a set that this server can use.
pub struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Parses a JWK set.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of it.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let document: Result<Document, _> = serde_json::from_slice(content);
        let Document { keys } = document.map_err(|_| "it is no JWK set: JSON with a list `keys`")?;
        if keys.len() > KEYS {
            return Err(format!("it has more than {KEYS} keys"));
        }
        let mut set = Self(Vec::new());
        for key in keys.into_iter().filter_map(usable) {
            let is_there = set.0.iter().any(|other| (&other.kid, other.algorithm) == (&key.kid, key.algorithm));
            if is_there && key.kid.is_some() {
                return Err("two of its keys have the same kid and algorithm".to_owned());
            }
            set.0.push(key);
        }
        if set.0.is_empty() {
            return Err("it has no public key for RS256 (of 2048 bits or more), ES256 or EdDSA (Ed25519)".to_owned());
        }
        Ok(set)
    }

    /// The key of a token. A token that names no key is verified by the only one of its algorithm.
    ///
    /// # Errors
    /// [`Unauthenticated`] if there is no such key, or it is for another algorithm.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Unauthenticated> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        if !self.0.iter().any(|key| named(&key)) {
            return Err(Unauthenticated::UnknownKey);
        }
        let mut fitting = self.0.iter().filter(named).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Unauthenticated::UnknownKey),
            (None, _) => Err(Unauthenticated::Algorithm),
        }
    }

    /// Whether a newer set may have the key of a token, and this one has not.
    #[must_use]
    pub fn lacks(&self, kid: Option<&str>) -> bool {
        kid.is_some() && !self.0.iter().any(|key| key.kid.as_deref() == kid)
    }

    /// Takes the place of an older set. A key that is in both stays the same key, and the others are withdrawn.
    pub fn succeed(&mut self, old: &Self) {
        for old in &old.0 {
            match self.0.iter_mut().find(|new| new.is_same(old)) {
                Some(new) => new.is_withdrawn = Arc::clone(&old.is_withdrawn),
                None => old.is_withdrawn.store(true, Ordering::Relaxed),
            }
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn is_same(&self, other: &Self) -> bool {
        let is_same_public = match (self.public.kind(), other.public.kind()) {
            (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(two)) => one == two,
            (DecodingKeyKind::RsaModulusExponent { n, e }, DecodingKeyKind::RsaModulusExponent { n: n2, e: e2 }) => {
                (n, e) == (n2, e2)
            }
            _ => false,
        };
        is_same_public && (&self.kid, self.algorithm) == (&other.kid, other.algorithm)
    }
}

/// The key, if it can verify tokens of one of the algorithms.
fn usable(jwk: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    let common = &jwk.common;
    let is_to_sign = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let may_verify = common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
    let kid = common.key_id.clone();
    let is_short = kid.as_ref().is_none_or(|kid| kid.len() <= KID_BYTES);
    let algorithm = algorithm(&jwk.algorithm)?;
    let is_for_it = common.key_algorithm.is_none_or(|of| of == KeyAlgorithm::from(algorithm));
    let public = DecodingKey::from_jwk(&jwk).ok().filter(|key| has_size(algorithm, key))?;
    let is_withdrawn = Arc::default();
    (is_to_sign && may_verify && is_short && is_for_it).then_some(Key { kid, algorithm, public, is_withdrawn })
}

/// The algorithm that a key of this type is for.
fn algorithm(parameters: &AlgorithmParameters) -> Option<Algorithm> {
    match parameters {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn has_size(algorithm: Algorithm, key: &DecodingKey) -> bool {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            let n = without_zeros(n);
            let is_whole = n.len() != *RSA_BYTES.start() || n[0] >= 0x80; // 2041 to 2047 bits take as many bytes.
            RSA_BYTES.contains(&n.len()) && is_whole
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == P256_BYTES,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == ED25519_BYTES,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
