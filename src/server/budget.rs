//! Memory that connections share: a budget for requests that are being received, and one for responses that wait for
//! their readers.
//!
//! - Every connection has an [`Account`] with each budget. A [`Hold`] is a number of bytes on an account; they are
//!   given back when it is dropped, so it lives as long as the memory that it stands for.
//! - One connection may hold only a share of a budget, so one bad client cannot take it all.
//! - The last quarter of a budget is for small messages, so lookups get through while large messages fill the rest. The
//!   quarter before that is not for pages, so batches get through while pages fill the first half. The last eighth is
//!   for connections that hold nothing, so one that reads its responses gets through while others do not.
//! - A connection may always receive a [`FLOOR`], so a few bad clients cannot shut the small requests of others out.
//! - Bytes that several streams of a connection send at about the same time, from one buffer, are held once.
//! - Taking never fails. Admission asks first, with [`Account::has_room`]; what was admitted at the same time may
//!   take a budget past its capacity by the messages that were then under way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::telemetry::metrics;

/// The part of a budget that one connection may hold: an eighth.
const SHARES: usize = 8;
/// The parts of a budget that are kept from pages, from large messages, and from the second message of a connection: a
/// half, a quarter and an eighth.
const KEPT_FROM_PAGES: usize = 2;
const KEPT_FROM_LARGE: usize = 4;
const KEPT_FROM_SECOND: usize = 8;
/// The bytes of requests that a connection may hold although the budget is full: a call that waits for its message, and
/// a small message. All connections together hold little by it.
const FLOOR: usize = 8 << 10;

/// The buffers of a connection that are remembered, so that they are held once. Its streams send the same events at about
/// the same time, in as many forms as they have masks.
const RECENT: usize = 8;

/// The part of what a connection holds that it must give back from look to look, or it stands still: an eighth.
const PROGRESS: u64 = 8;

/// There was progress at the last look.
const MOVES: u64 = u64::MAX;

/// How large a message may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// About one profile.
    Small,
    /// A batch of profiles, or a large request.
    Large,
    /// A page of a list.
    Page,
}

/// Memory that all connections share.
#[derive(Debug)]
pub(super) struct Budget {
    capacity: usize,
    start: Instant,
    /// Pages that wait for room, and other large messages.
    pages: Line,
    large: Line,
    /// Counts what is held.
    held: metrics::Budget,
}

/// What one connection holds of a budget.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    held: AtomicUsize,
    /// Calls of the connection that wait for room.
    line: Line,
    /// Buffers that its streams took lately.
    recent: Mutex<VecDeque<Taken>>,
    /// The bytes that were given back, since the beginning.
    given: AtomicU64,
    /// The same, at the last [`look`](Account::look).
    seen: AtomicU64,
    /// When that was, in milliseconds since the budget was made.
    looked: AtomicU64,
    /// The first look since which there has been no progress, or [`MOVES`].
    since: AtomicU64,
}

/// Calls that wait for room.
#[derive(Debug, Default)]
struct Line {
    waiting: AtomicUsize,
    freed: Notify,
}

/// A buffer that may still be held.
#[derive(Debug)]
struct Taken {
    /// Where it begins in memory.
    address: usize,
    bytes: usize,
    hold: Weak<Hold>,
}

/// Bytes that are in memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    account: Arc<Account>,
    bytes: usize,
}

impl Budget {
    /// A budget of which `held` counts what is held.
    pub fn new(capacity: usize, held: metrics::Budget) -> Arc<Self> {
        held.limit(capacity);
        Arc::new(Self { capacity, start: Instant::now(), pages: Line::default(), large: Line::default(), held })
    }

    pub fn account(self: &Arc<Self>) -> Arc<Account> {
        Arc::new(Account {
            budget: Arc::clone(self),
            held: AtomicUsize::new(0),
            line: Line::default(),
            recent: Mutex::default(),
            given: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            since: AtomicU64::new(MOVES),
        })
    }

    /// The bytes that all connections hold.
    pub fn held(&self) -> usize {
        self.held.held()
    }

    fn is_full_for(&self, size: Size, is_first: bool) -> bool {
        let reserve = match size {
            Size::Small if is_first => 0,
            Size::Small => self.capacity / KEPT_FROM_SECOND,
            Size::Large => self.capacity / KEPT_FROM_LARGE,
            Size::Page => self.capacity / KEPT_FROM_PAGES,
        };
        self.held() >= self.capacity - reserve
    }

    /// What one connection may hold.
    fn share(&self) -> usize {
        self.capacity / SHARES
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Account {
    /// Whether a message of this size may still be taken in.
    pub fn has_room(&self, size: Size) -> bool {
        self.has_share() && !self.budget.is_full_for(size, self.held() == 0)
    }

    /// Whether a stream may take its next message. Streams that are not read leave room for small messages, and pages
    /// leave room for streams.
    pub fn has_room_for_stream(&self) -> bool {
        self.has_room(if self.held() == 0 { Size::Small } else { Size::Large })
    }

    /// Whether so many more bytes of a request may be taken in, of a message of this size.
    pub fn may_receive(&self, bytes: usize, size: Size) -> bool {
        self.has_room(size) || self.held() + bytes <= FLOOR
    }

    /// Whether the connection holds less than its share.
    pub fn has_share(&self) -> bool {
        self.held() < self.budget.share()
    }

    /// Whether the connection holds more than twice its share. Only responses of writes can lead there: what is
    /// committed is not refused.
    pub fn is_far_over(&self) -> bool {
        self.held() > 2 * self.budget.share()
    }

    /// The bytes that the connection holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Notes whether there was progress since the last look: an eighth of what is held was given back, at least. Small
    /// calls must not hide that large ones stand still. Calls do not read a clock for it.
    pub fn look(&self) {
        self.look_at(self.budget.now());
    }

    /// The same, at a time in milliseconds since the budget was made.
    fn look_at(&self, now: u64) {
        let given = self.given.load(Ordering::Relaxed);
        let back = given.saturating_sub(self.seen.swap(given, Ordering::Relaxed));
        self.looked.store(now, Ordering::Relaxed);
        if back.saturating_mul(PROGRESS) >= self.held() as u64 {
            self.since.store(MOVES, Ordering::Relaxed);
        } else {
            // What is held may have been taken a moment ago, so the time before this look does not count.
            let _ = self.since.compare_exchange(MOVES, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// How long the connection has held bytes without progress, from look to look.
    pub fn still_for(&self) -> Duration {
        let still = match self.since.load(Ordering::Relaxed) {
            MOVES => 0,
            since => self.looked.load(Ordering::Relaxed).saturating_sub(since),
        };
        Duration::from_millis(still)
    }

    /// Holds this many bytes.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Hold {
        let mut hold = Hold { account: Arc::clone(self), bytes: 0 };
        hold.grow(bytes);
        hold
    }

    /// Holds a buffer that other streams of the connection may hold as well.
    pub fn take_shared(self: &Arc<Self>, buffer: &Bytes) -> Arc<Hold> {
        let (address, bytes) = (buffer.as_ptr().addr(), buffer.len());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = recent.iter().filter(|taken| (taken.address, taken.bytes) == (address, bytes));
        // As long as it is held, nothing else is at its address.
        if let Some(hold) = same.find_map(|taken| taken.hold.upgrade()) {
            return hold;
        }
        let hold = Arc::new(self.take(bytes));
        recent.truncate(RECENT - 1);
        recent.push_front(Taken { address, bytes, hold: Arc::downgrade(&hold) });
        hold
    }

    /// Waits until bytes are given back, by this connection or by one that holds what this message needs. A caller
    /// asks again after a while, so a wake-up that is missed does no harm.
    pub async fn freed(&self, size: Size) {
        let others = async {
            match size {
                Size::Small => std::future::pending().await,
                Size::Large => self.budget.large.wait().await,
                Size::Page => self.budget.pages.wait().await,
            }
        };
        tokio::select! {
            () = self.line.wait() => {}
            () = others => {}
        }
    }

    /// Wakes another call that waits for room.
    pub fn wake_next(&self) {
        self.line.wake();
    }
}

impl Line {
    async fn wait(&self) {
        let _waiting = Waiting::join(&self.waiting);
        self.freed.notified().await;
    }

    fn wake(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }
}

/// Counts a call while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hold {
    /// Holds more bytes.
    pub fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.account.budget.held.take(bytes);
        self.account.held.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Account { budget, held, line, given, .. } = &*self.account;
        budget.held.give_back(self.bytes);
        held.fetch_sub(self.bytes, Ordering::Relaxed);
        given.fetch_add(self.bytes as u64, Ordering::Relaxed);
        for line in [line, &budget.large, &budget.pages] {
            line.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_share_and_small_messages_a_reserve() {
        let budget = Budget::new(800, metrics::Budget::default());
        let (one, other) = (budget.account(), budget.account());
        let hold = one.take(100);
        assert!(!one.has_room(Size::Small), "its share is 100");
        assert!(other.has_room(Size::Large));
        let pages: Vec<_> = (0..3).map(|_| budget.account().take(100)).collect();
        assert!(!other.has_room(Size::Page), "400 are held, and the last 400 are not for pages");
        assert!(other.has_room(Size::Large));
        drop(pages);
        let more: Vec<_> = (0..5).map(|_| budget.account().take(100)).collect();
        assert!(!other.has_room(Size::Large), "600 are held, and the last 200 are for small messages");
        assert!(other.has_room(Size::Small));
        assert!(!other.has_room(Size::Page));
        let first = other.take(99);
        assert!(other.has_room(Size::Small) && !other.has_room_for_stream());
        let second = budget.account().take(1);
        assert!(!other.has_room(Size::Small), "700 are held, and the last 100 are for those that hold nothing");
        let third = budget.account();
        assert!(third.has_room(Size::Small) && third.has_room_for_stream());
        let last = budget.account().take(100);
        assert!(!third.has_room(Size::Small) && !third.has_room_for_stream());
        drop((hold, more, first, second, last));
        assert_eq!((budget.held(), one.held()), (0, 0));
        assert!(one.has_room(Size::Large));
    }

    #[test]
    fn a_small_request_is_received_although_others_hold_everything() {
        let budget = Budget::new(8 * FLOOR, metrics::Budget::default());
        let hold = budget.account().take(8 * FLOOR);
        let account = budget.account();
        assert!(account.may_receive(FLOOR, Size::Small));
        assert!(!account.may_receive(FLOOR + 1, Size::Small));
        let one = account.take(FLOOR);
        assert!(!account.may_receive(1, Size::Small), "the floor is the connection's, not the request's");
        drop((hold, one));
        assert!(account.may_receive(FLOOR + 1, Size::Large));
    }

    #[test]
    fn a_hold_grows_and_gives_everything_back() {
        let budget = Budget::new(800, metrics::Budget::default());
        let account = budget.account();
        let mut hold = account.take(100);
        hold.grow(101);
        assert!(account.is_far_over());
        assert_eq!(budget.held(), 201);
        drop(hold);
        assert_eq!(budget.held(), 0);
        assert!(!account.is_far_over());
    }

    #[test]
    fn a_buffer_that_streams_of_a_connection_share_is_held_once() {
        let budget = Budget::new(800, metrics::Budget::default());
        let (account, other) = (budget.account(), budget.account());
        let buffer = Bytes::from(vec![0; 50]);
        let [first, second] = [0, 1].map(|_| account.take_shared(&buffer));
        assert_eq!(account.held(), 50);
        let elsewhere = other.take_shared(&buffer);
        assert_eq!((other.held(), budget.held()), (50, 100), "each connection holds it");
        let part = account.take_shared(&buffer.slice(..20));
        assert_eq!(account.held(), 70, "another run of it counts apart");
        drop((first, part, elsewhere));
        assert_eq!(account.held(), 50, "one stream still holds it");
        drop(second);
        assert_eq!(budget.held(), 0);
        let [again, and_again] = [0, 1].map(|_| account.take_shared(&buffer));
        assert_eq!(account.held(), 50);
        drop((again, and_again));
        assert_eq!(budget.held(), 0);
        let buffers: Vec<_> = (0..3 * RECENT).map(|_| Bytes::from(vec![0; 1])).collect();
        let _holds: Vec<_> = buffers.iter().map(|buffer| account.take_shared(buffer)).collect();
        assert_eq!(account.recent.lock().unwrap().len(), RECENT);
    }

    #[tokio::test]
    async fn what_is_given_back_wakes_a_call_that_waits() {
        let budget = Budget::new(80, metrics::Budget::default());
        let account = budget.account();
        let hold = account.take(10);
        let mut freed = std::pin::pin!(account.freed(Size::Small));
        assert!(futures_util::poll!(freed.as_mut()).is_pending());
        drop(hold);
        freed.await;
    }

    #[test]
    fn a_connection_is_still_from_the_first_look_that_sees_no_progress() {
        let budget = Budget::new(800, metrics::Budget::default());
        let account = budget.account();
        let still_at = |second: u64| {
            account.look_at(1_000 * second);
            account.still_for().as_secs()
        };
        assert_eq!(still_at(1), 0, "it holds nothing");
        let (large, one, other) = (account.take(80), account.take(10), account.take(9));
        assert_eq!(still_at(2), 0, "it may have begun to hold them a moment ago");
        assert_eq!(still_at(3), 1);
        drop(other);
        assert_eq!(still_at(5), 3, "nine bytes of ninety are too few");
        drop(one);
        assert_eq!(account.still_for().as_secs(), 3, "as of the last look");
        assert_eq!(still_at(6), 0, "ten of eighty are enough");
        assert_eq!((still_at(7), still_at(8)), (0, 1), "nothing more was given back");
        drop(large);
        assert_eq!(still_at(9), 0);
    }
}
