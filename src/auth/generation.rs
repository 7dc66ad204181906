//! A number that grows when the keys of JWTs change, so that tokens that were verified before are verified again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number. Clones share it.
#[derive(Clone, Default)]
pub struct Generation(Arc<AtomicU64>);

impl Generation {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Called after the new credentials are in place. Who reads the number and then a credential may keep an old number
    /// with a new credential, which is harmless, and never a new number with an old one.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}
