//! How often requests may come: each workspace has a rate of its own, and all other requests share one.
//!
//! A request belongs to the workspace that its path names, whatever else is wrong with it. A request that names no
//! existing workspace has the shared rate, so made-up names neither escape the rate nor take memory. So has one that
//! names a workspace of others.

use std::num::NonZeroU32;
use std::time::Instant;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};

use crate::refusal::Refusal;
use crate::store::WorkspaceId;

type Limiter<K, S> = RateLimiter<K, S, MonotonicClock, NoOpMiddleware<Instant>>;

/// The rates. There are never more than one for each workspace of the store, and the shared one.
#[derive(Debug)]
pub(super) struct Rates {
    by_workspace: Limiter<WorkspaceId, HashMapStateStore<WorkspaceId>>,
    shared: Limiter<NotKeyed, InMemoryState>,
}

impl Rates {
    /// The number of requests per second is the size of a burst too.
    pub fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second);
        Self {
            by_workspace: RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock),
            shared: RateLimiter::new(quota, InMemoryState::default(), MonotonicClock),
        }
    }

    /// How many workspaces take memory here.
    #[cfg(test)]
    pub fn workspaces(&self) -> usize {
        self.by_workspace.len()
    }

    /// Counts a request. `None` is a request that names no existing workspace, or one of others.
    pub fn check(&self, workspace: Option<WorkspaceId>) -> Result<(), Refusal> {
        let wait = |refused: NotUntil<Instant>| refused.wait_time_from(MonotonicClock.now());
        match workspace {
            Some(id) => self.by_workspace.check_key(&id).map_err(|refused| Refusal::rate_limited(wait(refused))),
            None => self.shared.check().map_err(|refused| Refusal::unknown_rate_limited(wait(refused))),
        }
    }
}
