//! The open streams. The transport polls each of them, and the watchdog may end it from outside.
//!
//! - A stream waits for the transport from when it has returned a message, or was woken, until it is polled again.
//!   Otherwise the transport waits for the stream: then the stream costs little and is never ended.
//! - A stream that waits for the transport first gives up its segment, and later its whole subscriber. What remains is
//!   the refusal, which the next poll returns.
//! - The lock of a stream is free whenever the transport does not poll it. The watchdog never waits for one: a stream
//!   that is being polled is not idle.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::error::FeedError;
use super::stream::Subscriber;
use crate::model::Client;

/// How long a stream keeps its segment while it waits for the transport. A subscriber that reads more often than this
/// never reads a segment twice.
pub(super) const SEGMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The frames of one open stream. After an error there are no others.
pub struct Frames {
    pub(super) open: Arc<Open>,
    number: u64,
    place: StreamPlace,
}

/// A client's place for one more stream.
#[derive(Debug)]
pub struct StreamPlace {
    streams: Arc<Streams>,
    client: Client,
}

/// Every open stream.
#[derive(Default)]
pub(super) struct Streams(Mutex<Numbered>);

#[derive(Default)]
struct Numbered {
    by_number: BTreeMap<u64, Weak<Open>>,
    next: u64,
    /// How many streams each client has. One without streams has no entry.
    by_client: HashMap<Client, usize>,
}

/// One open stream.
pub(super) struct Open {
    state: Mutex<State>,
    wakeup: Arc<Wakeup>,
}

pub(super) struct State {
    held: Held,
    /// Whether the last poll found nothing to send.
    is_pending: bool,
    /// When the watchdog first found the stream waiting for the transport.
    idle_since: Option<Instant>,
}

/// What a stream holds.
enum Held {
    Subscriber(Box<Subscriber>),
    /// The watchdog has ended the stream, and the transport does not know it yet.
    Refusal(FeedError),
    Nothing,
}

/// Wakes the transport, and remembers it.
#[derive(Default)]
struct Wakeup {
    transport: AtomicWaker,
    is_woken: AtomicBool,
}

impl Streams {
    /// Takes a place for a stream of this client.
    ///
    /// # Errors
    /// [`FeedError::TooManyStreams`] if it has as many as it may have.
    pub fn enter(self: &Arc<Self>, client: Client, limit: usize) -> Result<StreamPlace, FeedError> {
        let mut numbered = self.numbered();
        let streams = numbered.by_client.entry(client.clone()).or_default();
        if *streams >= limit {
            return Err(FeedError::TooManyStreams { limit });
        }
        *streams += 1;
        drop(numbered);
        Ok(StreamPlace { streams: Arc::clone(self), client })
    }

    /// Adds a stream. It is removed when its frames are dropped.
    pub fn add(self: &Arc<Self>, subscriber: Subscriber, place: StreamPlace) -> Frames {
        let state = State { held: Held::Subscriber(Box::new(subscriber)), is_pending: false, idle_since: None };
        let open = Arc::new(Open { state: Mutex::new(state), wakeup: Arc::default() });
        let mut numbered = self.numbered();
        let number = numbered.next;
        numbered.next += 1;
        numbered.by_number.insert(number, Arc::downgrade(&open));
        Frames { open, number, place }
    }

    /// Frees what streams hold that have waited for the transport for long. `now` is the time of this look.
    pub fn look(&self, now: Instant, stall_timeout: Duration) {
        let open: Vec<_> = self.numbered().by_number.values().filter_map(Weak::upgrade).collect();
        for stream in open {
            stream.look(now, stall_timeout);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let numbered = self.numbered();
        numbered.by_number.is_empty() && numbered.by_client.is_empty()
    }

    fn numbered(&self) -> MutexGuard<'_, Numbered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn segment(&self) -> Option<Weak<super::segment::Segment>> {
        match &self.lock().held {
            Held::Subscriber(subscriber) => subscriber.segment(),
            Held::Refusal(_) | Held::Nothing => None,
        }
    }

    fn look(&self, now: Instant, stall_timeout: Duration) {
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.is_pending && !self.wakeup.is_woken.load(Ordering::Acquire) {
            state.idle_since = None;
            return;
        }
        let idle = now.saturating_duration_since(*state.idle_since.get_or_insert(now));
        let Held::Subscriber(subscriber) = &mut state.held else { return };
        if idle >= stall_timeout {
            state.held = Held::Refusal(subscriber.stalled());
        } else if idle >= SEGMENT_TIMEOUT {
            subscriber.release();
        }
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, FeedError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let wakeup = &self.open.wakeup;
        let mut state = self.open.lock();
        let Held::Subscriber(subscriber) = &mut state.held else {
            return Poll::Ready(match std::mem::replace(&mut state.held, Held::Nothing) {
                Held::Refusal(error) => Some(Err(error)),
                Held::Subscriber(_) | Held::Nothing => None,
            });
        };
        wakeup.begin(context.waker());
        let waker = Waker::from(Arc::clone(wakeup));
        let next = subscriber.poll_next(&mut Context::from_waker(&waker));
        if let Poll::Ready(None | Some(Err(_))) = next {
            state.held = Held::Nothing;
        }
        state.is_pending = next.is_pending();
        state.idle_since = None;
        next
    }
}

impl Wakeup {
    /// A poll begins. A wakeup during the poll counts.
    fn begin(&self, transport: &Waker) {
        self.is_woken.store(false, Ordering::Release);
        self.transport.register(transport);
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.transport.wake();
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.place.streams.numbered().by_number.remove(&self.number);
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut numbered = self.streams.numbered();
        let streams = numbered.by_client.get_mut(&self.client).map(|streams| {
            *streams -= 1;
            *streams
        });
        if streams == Some(0) {
            numbered.by_client.remove(&self.client);
        }
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Frames")
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Streams").field(&self.numbered().by_number.len()).finish()
    }
}
