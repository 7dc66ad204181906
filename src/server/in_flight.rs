//! How many calls are in flight on all connections, by what they count as.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a call counts as. Each kind has room of its own, so no kind takes that of another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A call of a known caller.
    Call,
    /// A health check. There is room for a few when there is none for other calls.
    Check,
    /// Another call that needs no credential.
    Open,
    /// A call that waits for the key that verifies its token. It may be a stranger's.
    Unknown,
    /// A call that is refused a little later, because its client calls too often or is not known.
    Held,
    /// A refusal that its client may never read.
    Refused,
}

/// The number of calls of each [`Kind`].
#[derive(Debug, Default)]
pub(super) struct InFlight([AtomicUsize; Kind::Refused as usize + 1]);

impl InFlight {
    /// Counts one more call, unless there are `most`. Returns whether it counts.
    pub fn enter(&self, kind: Kind, most: usize) -> bool {
        let has_room = self.0[kind as usize].fetch_add(1, Ordering::Relaxed) < most;
        if !has_room {
            self.leave(kind);
        }
        has_room
    }

    /// Counts one call less.
    pub fn leave(&self, kind: Kind) {
        self.0[kind as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
