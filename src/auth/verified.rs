//! The JWTs that were verified, so that a further call with one costs no check of its signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use xxhash_rust::xxh3::Xxh3Builder;

use super::Caller;

/// The most JWTs that are remembered. Each takes about 2 KiB with its caller. A JWT of 8 KiB that names hundreds of
/// workspaces takes up to 50 KiB, and only the identity provider can make such ones.
const TOKENS: usize = 10_000;

/// The callers of the JWTs that were verified, by the whole tokens.
///
/// XXH3 hashes them, because a hash of the standard library, or SHA-256, would be the largest part of the check. It does
/// not withstand an attacker, and need not: only tokens of the identity provider get in here.
pub struct Verified(Mutex<HashMap<Box<str>, Arc<Caller>, Xxh3Builder>>);

impl Default for Verified {
    fn default() -> Self {
        Self(Mutex::new(HashMap::with_hasher(Xxh3Builder::new().with_seed(rand::random()))))
    }
}

impl Verified {
    /// The caller of a token that was verified by a key that is still in force, and has not expired.
    pub fn get(&self, token: &str, now: SystemTime) -> Option<Arc<Caller>> {
        self.tokens().get(token).filter(|caller| !caller.is_over(now)).cloned()
    }

    /// Remembers a token. If there is no room, those go that are not valid any more, and else all of them: to verify
    /// them again is cheap, and only the identity provider can make so many.
    pub fn put(&self, token: &str, caller: Arc<Caller>, now: SystemTime) {
        let mut tokens = self.tokens();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, caller| !caller.is_over(now));
        }
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(token.into(), caller);
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Caller>, Xxh3Builder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Claims;

    fn caller(expires: SystemTime) -> Arc<Caller> {
        let (roles, workspaces) = (vec!["reader".to_owned()], vec!["*/*/*".to_owned()]);
        let claims = Claims { name: "crm".into(), roles, workspaces, expires: Some(expires), ..Claims::default() };
        Arc::new(Caller::new(&claims).unwrap())
    }

    fn token(number: usize) -> String {
        format!("token {number}")
    }

    #[test]
    fn a_token_is_remembered_until_it_expires_or_its_key_is_withdrawn() {
        let (verified, now) = (Verified::default(), SystemTime::now());
        let expires = now + Duration::from_secs(60);
        let known = caller(expires);
        verified.put(&token(1), Arc::clone(&known), now);
        assert!(verified.get(&token(1), now).is_some());
        assert!(verified.get(&token(2), now).is_none());
        assert!(verified.get(&token(1), expires).is_none());
        assert!(verified.get(&token(1), expires - Duration::from_nanos(1)).is_some());
        known.revoke();
        assert!(verified.get(&token(1), now).is_none());
    }

    #[test]
    fn a_bounded_number_of_tokens_is_remembered() {
        let (verified, now) = (Verified::default(), SystemTime::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(60));
        for number in 0..TOKENS {
            verified.put(&token(number), caller(if number == 0 { soon } else { late }), now);
        }
        assert_eq!(verified.tokens().len(), TOKENS);
        verified.put(&token(TOKENS), caller(late), soon);
        assert_eq!(verified.tokens().len(), TOKENS, "the expired one made room");
        assert!(verified.get(&token(1), soon).is_some());
        verified.put(&token(TOKENS + 1), caller(late), soon);
        assert_eq!(verified.tokens().len(), 1);
    }
}
