//! Numbers of events, and the places between them.

use std::fmt;
use std::num::NonZeroU64;

/// The number of an event in its workspace: from 1, without holes, in commit order.
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

    /// As it stands in a message.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl Place {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// After the event of this number; the start for 0.
    #[must_use]
    pub fn after(number: u64) -> Self {
        Self(number)
    }

    /// How many events of the log lie before it, as it stands in a message.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number of the event after it.
    ///
    /// # Panics
    /// After 2^64 - 1 events.
    #[must_use]
    pub fn next(self) -> Sequence {
        self.checked_next().expect("a log ends before its numbers do")
    }

    /// The same; `None` at the end of all numbers, which a damaged row may name.
    #[must_use]
    pub fn checked_next(self) -> Option<Sequence> {
        Sequence::new(self.0.checked_add(1)?)
    }

    /// The event right before it; `None` at the start.
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
