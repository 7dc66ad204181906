//! The keys behind a URL: fetched from time to time, and when a token names a key that is not known.
//!
//! - At most one fetch runs at a time. Calls that need it wait for that one, as many as their server has room for.
//! - However many tokens name unknown keys, they cause one fetch in [`ASK_GAP`].
//! - A fetch that fails changes nothing: the keys that are known stay in force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fetch::{FETCH_TIMEOUT, FetchError, Fetcher};
use super::keys::KeySet;
use super::refused::Unauthenticated;
use super::token::Hash;
use crate::telemetry::audit;
use crate::telemetry::metrics::{ReloadMetrics, Reloaded};

/// The least time between two fetches that calls cause, with the tokens of all callers.
const ASK_GAP: Duration = Duration::from_secs(10);
/// The wait after the first fetch that fails. It doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest wait after a fetch that fails.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// The least time between two warnings of fetches that fail.
const WARNING_GAP: Duration = Duration::from_secs(60);

/// The keys behind a URL.
pub struct Remote {
    source: Arc<Fetcher>,
    refresh: Duration,
    current: ArcSwapOption<(Hash, KeySet)>,
    state: Mutex<State>,
    /// Changes when a fetch ends.
    ended: watch::Sender<()>,
    reloads: ReloadMetrics,
}

/// When the keys were fetched, and when they will be.
struct State {
    is_running: bool,
    due: Instant,
    /// When a call last caused a fetch.
    asked: Option<Instant>,
    failures: u32,
    warned: Option<Instant>,
}

impl Remote {
    /// The keys are fetched when [`Self::refresh_if_due`] is called, or a token needs them.
    pub fn new(source: Fetcher, refresh: Duration, reloads: ReloadMetrics) -> Arc<Self> {
        let due = Instant::now();
        let state = State { is_running: false, due, asked: None, failures: 0, warned: None };
        let (current, ended) = (ArcSwapOption::empty(), watch::Sender::new(()));
        let source = Arc::new(source);
        Arc::new(Self { source, refresh, current, state: Mutex::new(state), ended, reloads })
    }

    /// The keys that were fetched last, with the hash of their set. `None` if none have been yet.
    pub fn keys(&self) -> Option<Arc<(Hash, KeySet)>> {
        self.current.load_full()
    }

    /// Begins a fetch if it is time.
    pub fn refresh_if_due(self: &Arc<Self>) {
        let mut state = self.state();
        if !state.is_running && state.due <= Instant::now() {
            self.begin(&mut state);
        }
    }

    /// Waits for the fetch that runs, and begins one if none does and the last was not just now. If there is something to
    /// wait for, `has_room` says whether one more may.
    ///
    /// # Errors
    /// [`Unauthenticated::Crowded`] if none may.
    pub async fn ask(self: &Arc<Self>, has_room: impl FnOnce() -> bool) -> Result<(), Unauthenticated> {
        let mut ended = self.ended.subscribe(); // Before the look at the state, so that no end is missed.
        if self.runs_when_asked(Instant::now()) {
            if !has_room() {
                return Err(Unauthenticated::Crowded);
            }
            let _ = tokio::time::timeout(FETCH_TIMEOUT, ended.changed()).await;
        }
        Ok(())
    }

    fn runs_when_asked(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = self.state();
        if !state.is_running && state.asked.is_none_or(|asked| now - asked >= ASK_GAP) {
            state.asked = Some(now);
            self.begin(&mut state);
        }
        state.is_running
    }

    /// The fetch is a task of its own: the call that needs it may be cancelled, and others wait for it too.
    fn begin(self: &Arc<Self>, state: &mut State) {
        state.is_running = true;
        let (remote, source) = (Arc::clone(self), Arc::clone(&self.source));
        let fetch = tokio::spawn(async move { source.fetch().await });
        tokio::spawn(async move {
            let fetched = fetch.await.unwrap_or(Err(FetchError::Failed)); // It panicked: it must not seem to run for ever.
            remote.end(fetched);
        });
    }

    fn end(&self, fetched: Result<(bytes::Bytes, KeySet), FetchError>) {
        // Before the lock is taken: `replace` writes to the log, which may be slow.
        let fetched = fetched.map(|(body, keys)| self.replace(Hash::of(&body), keys));
        let now = Instant::now();
        let mut state = self.state();
        state.is_running = false;
        self.reloads.note(Reloaded::Jwks, fetched.is_ok());
        match fetched {
            Ok(()) => {
                (state.failures, state.warned) = (0, None);
                state.due = now + self.refresh;
            }
            Err(cause) => {
                state.due = now + retry(state.failures).min(self.refresh);
                state.failures = state.failures.saturating_add(1);
                self.warn(&mut state, now, &cause);
            }
        }
        drop(state);
        self.ended.send_replace(());
    }

    fn replace(&self, hash: Hash, mut keys: KeySet) {
        if let Some((old_hash, old)) = self.current.load().as_deref() {
            if *old_hash == hash {
                return;
            }
            keys.succeed(old);
        }
        tracing::info!(source = self.source.name(), keys = keys.len(), "fetched the keys that verify tokens");
        tracing::info!(target: audit::TARGET, reloaded = "the keys that verify tokens", entries = keys.len());
        self.current.store(Some(Arc::new((hash, keys))));
    }

    fn warn(&self, state: &mut State, now: Instant, cause: &FetchError) {
        if state.warned.is_some_and(|warned| now - warned < WARNING_GAP) {
            return;
        }
        state.warned = Some(now);
        let held = self.current.load().as_ref().map_or(0, |current| current.1.len());
        let (source, failures) = (self.source.name(), state.failures);
        tracing::warn!(source, %cause, failures, keys = held, "cannot fetch the keys that verify tokens: the known ones stay in force");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait after so many failures and one more.
fn retry(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests;
