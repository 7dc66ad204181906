//! The JWTs that were verified, so that a further call with one costs no check of its signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Caller;

/// The most JWTs that are remembered. Each takes about 2 KiB with its caller. A JWT of 8 KiB that names hundreds of
/// workspaces takes up to 50 KiB, and only the identity provider can make such ones.
const TOKENS: usize = 10_000;

/// The callers of the JWTs that were verified.
///
/// A fast hash finds a token, and then the whole token is compared. SHA-256 would be the largest part of the check. The
/// comparison need not take constant time: it only runs if the hashes are equal, and an attacker cannot make a hash
/// equal, because the seed is secret.
pub struct Verified {
    seed: u64,
    tokens: Mutex<HashMap<u64, Known>>,
}

struct Known {
    token: Box<str>,
    caller: Arc<Caller>,
}

impl Default for Verified {
    fn default() -> Self {
        Self { seed: rand::random(), tokens: Mutex::default() }
    }
}

impl Verified {
    /// The caller of a token that was verified by a key that is still in force, and has not expired.
    pub fn get(&self, token: &str, now: SystemTime) -> Option<Arc<Caller>> {
        let hash = self.hash(token);
        let tokens = self.tokens();
        let known = tokens.get(&hash).filter(|known| *known.token == *token && !known.caller.is_over(now));
        known.map(|known| Arc::clone(&known.caller))
    }

    /// Remembers a token. If there is no room, those go that are not valid any more, and else all of them: to verify
    /// them again is cheap, and only the identity provider can make so many.
    pub fn put(&self, token: &str, caller: Arc<Caller>, now: SystemTime) {
        let (hash, known) = (self.hash(token), Known { token: token.into(), caller });
        let mut tokens = self.tokens();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, known| !known.caller.is_over(now));
        }
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(hash, known);
    }

    fn hash(&self, token: &str) -> u64 {
        xxh3_64_with_seed(token.as_bytes(), self.seed)
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// However their hashes are.
    #[test]
    fn a_token_is_compared_whole() {
        let (verified, now) = (Verified::default(), SystemTime::now());
        verified.put(&token(1), caller(now + Duration::from_secs(60)), now);
        let hash = verified.hash(&token(2));
        let known = verified.tokens().drain().next().unwrap().1;
        verified.tokens().insert(hash, known);
        assert!(verified.get(&token(2), now).is_none());
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
