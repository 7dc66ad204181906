//! The JWTs that were verified, so that a further call with one costs no check of its signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::Caller;
use super::token::Hash;

/// The most JWTs that are remembered. Each takes about 1 KiB with its caller. A JWT of 8 KiB that names hundreds of
/// workspaces takes up to 40 KiB, and only the identity provider can make such ones.
const TOKENS: usize = 10_000;

/// The JWTs that were verified, by their hashes, and with the generation of the keys that they were verified by.
#[derive(Default)]
pub struct Verified(Mutex<HashMap<Hash, (u64, Arc<Caller>)>>);

impl Verified {
    /// The caller of a token that was verified in this generation, and has not expired.
    pub fn get(&self, token: &Hash, generation: u64, now: SystemTime) -> Option<Arc<Caller>> {
        let tokens = self.tokens();
        tokens.get(token).filter(|entry| is_valid(entry, generation, now)).map(|(_, caller)| Arc::clone(caller))
    }

    /// Remembers a token. If there is no room, those go that are not valid any more, and else all of them: to verify
    /// them again is cheap, and only the identity provider can make so many.
    pub fn put(&self, token: Hash, generation: u64, caller: Arc<Caller>, now: SystemTime) {
        let mut tokens = self.tokens();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, entry| is_valid(entry, generation, now));
        }
        if tokens.len() >= TOKENS {
            tokens.clear();
        }
        tokens.insert(token, (generation, caller));
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<Hash, (u64, Arc<Caller>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_valid((of, caller): &(u64, Arc<Caller>), generation: u64, now: SystemTime) -> bool {
    *of == generation && caller.expires().is_none_or(|expires| now < expires)
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

    fn hash(number: usize) -> Hash {
        Hash::of(&number.to_be_bytes())
    }

    #[test]
    fn a_token_is_remembered_until_it_expires_or_the_keys_change() {
        let (verified, now) = (Verified::default(), SystemTime::now());
        let expires = now + Duration::from_secs(60);
        verified.put(hash(1), 7, caller(expires), now);
        assert!(verified.get(&hash(1), 7, now).is_some());
        assert!(verified.get(&hash(2), 7, now).is_none());
        assert!(verified.get(&hash(1), 8, now).is_none());
        assert!(verified.get(&hash(1), 7, expires).is_none());
        assert!(verified.get(&hash(1), 7, expires - Duration::from_nanos(1)).is_some());
    }

    #[test]
    fn a_bounded_number_of_tokens_is_remembered() {
        let (verified, now) = (Verified::default(), SystemTime::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(60));
        for number in 0..TOKENS {
            verified.put(hash(number), 0, caller(if number == 0 { soon } else { late }), now);
        }
        assert_eq!(verified.tokens().len(), TOKENS);
        verified.put(hash(TOKENS), 0, caller(late), soon);
        assert_eq!(verified.tokens().len(), TOKENS, "the expired one made room");
        assert!(verified.get(&hash(1), 0, soon).is_some());
        verified.put(hash(TOKENS + 1), 0, caller(late), soon);
        assert_eq!(verified.tokens().len(), 1);
    }
}
