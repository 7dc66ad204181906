//! The numbers of events, and the places between events.

use std::fmt;
use std::num::NonZeroU64;

/// The number of an event in its workspace. Numbers start at 1, have no holes and follow the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(NonZeroU64);

/// A place in a log: the start, or right after an event. Reading continues with the event after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

impl Sequence {
    /// `None` for 0.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, as in a message.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl Place {
    /// The place before the first event.
    pub const START: Self = Self(0);
    /// The place after the last event that a log could have.
    pub const LAST: Self = Self(u64::MAX);

    /// The place after the event with this number; the start if it is 0.
    #[must_use]
    pub const fn after(number: u64) -> Self {
        Self(number)
    }

    /// The number of the event right before it, as in a message; 0 at the start.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number of the event right after it.
    ///
    /// # Panics
    /// After 2^64 - 1 events.
    #[must_use]
    pub fn next(self) -> Sequence {
        self.checked_next().expect("a log ends before its numbers do")
    }

    /// As [`Self::next`], but `None` after the largest number, which a damaged row may hold.
    #[must_use]
    pub fn checked_next(self) -> Option<Sequence> {
        Sequence::new(self.0.checked_add(1)?)
    }

    /// The number of the event right before it; `None` at the start.
    #[must_use]
    pub fn last(self) -> Option<Sequence> {
        Sequence::new(self.0)
    }
}

impl From<Sequence> for Place {
    fn from(sequence: Sequence) -> Self {
        Self(sequence.get())
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
