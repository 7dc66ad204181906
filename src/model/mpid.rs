//! The key of a profile.

use std::fmt;
use std::num::NonZeroI64;

use super::Invalid;

/// The key of a profile in its workspace: any 64-bit integer except 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mpid(NonZeroI64);

impl Mpid {
    /// Parses a field that must name a profile.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is 0.
    pub fn parse(field: impl fmt::Display, mpid: i64) -> Result<Self, Invalid> {
        Self::new(mpid).ok_or_else(|| Invalid::field(field, "must not be 0"))
    }

    /// `None` for 0.
    #[must_use]
    pub fn new(mpid: i64) -> Option<Self> {
        NonZeroI64::new(mpid).map(Self)
    }

    /// A random positive mpid.
    #[must_use]
    pub fn draw() -> Self {
        Self::new(rand::random_range(1..=i64::MAX)).expect("the range has no 0")
    }

    /// The mpid to try next if this one was chosen at random and is in use.
    #[must_use]
    pub fn next_drawn(self) -> Self {
        Self::new(self.get().checked_add(1).unwrap_or(1)).unwrap_or(self)
    }

    /// The mpid right before this one. `None` before the first.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        let previous = self.get().checked_sub(1)?;
        Self::new(if previous == 0 { -1 } else { previous })
    }

    /// The mpid right after this one. `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next = self.get().checked_add(1)?;
        Self::new(if next == 0 { 1 } else { next })
    }

    /// The number, as in a message.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for Mpid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
