//! The event streams. Each subscriber is a pull loop over the log, with a cursor and a filter.
//!
//! - After a commit the writer calls [`Feed::publish`], which gives waiting subscribers one number, the new head.
//!   Subscribers then read `(cursor, head]` themselves, so catching up and being live are one code path ([`stream`]).
//! - Recent events are kept in a `ring`, encoded once ([`frame`]). All subscribers of a workspace share it through the
//!   `channel` of the workspace, a `segment` at a time. A subscriber that is further behind reads the log in bounded
//!   pages, so a slow subscriber takes no extra memory.
//! - A filter that tests changes, or a mask, makes a `view` of the segments. Equal ones share it.
//! - A stream may begin with a `snapshot`: the profiles as of a place in the log, read page by page.
//! - The transport holds each stream as [`Frames`] (`open`). The `watchdog` frees the memory of streams that the
//!   transport no longer polls, and ends them after the stall timeout.
//! - The rings of all workspaces share one `budget`. If they exceed it, the least recently used workspace loses its
//!   oldest events first. Its subscribers then read them from the log.
//!
//! Locks: a poll holds the lock of its stream, and takes that of a ring. No thread else holds two at once: the lock of a
//! map is released before any other is taken.
//!
//! `lag` is what operators see of the subscribers, and `attachment` what they see of those that belong to a durable
//! subscription. A subscription has one stream: the newest.

mod attachment;
mod budget;
mod channel;
mod error;
pub mod frame;
mod lag;
mod open;
#[cfg(feature = "planted")]
pub mod planted;
mod ring;
mod segment;
mod snapshot;
pub mod stream;
#[cfg(test)]
mod tests;
mod view;
mod watchdog;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::FeedConfig;
use crate::model::cursor::CursorSpace;
use crate::model::{Client, LogId, Workspace};
use crate::store::{Commit, EndedStreams, Store};
use crate::telemetry::metrics::FeedMetrics;
use attachment::{Attachments, Detached};
use budget::Budget;
use channel::Channel;
use open::Streams;
use segment::Segment;
use view::Room;

pub use attachment::{AttachedStream, Attachment};
pub use error::FeedError;
pub use lag::Subscribers;
pub use open::{Frames, StreamPlace};
pub use stream::{IsOver, Subscribe, Subscriber};

/// The map is swept of dropped channels when it has this many entries, or twice as many as the last sweep left.
const SWEEP_AT: usize = 64;

/// All channels. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    channels: Arc<Mutex<Channels>>,
    budget: Arc<Budget>,
    room: Arc<Room>,
    streams: Arc<Streams>,
    attachments: Arc<Attachments>,
    config: FeedConfig,
    draining: Arc<AtomicBool>,
    /// Ends the watchdog.
    drained: Arc<Notify>,
    metrics: FeedMetrics,
}

/// The channel of each workspace that has subscribers. After the last subscriber has left, the entry remains until the
/// next sweep. So there are never more entries than [`SWEEP_AT`] or twice the peak number of channels, whichever is
/// more.
#[derive(Debug)]
struct Channels {
    by_workspace: HashMap<Workspace, Weak<Channel>>,
    sweep_at: usize,
}

impl Feed {
    /// A feed without subscribers.
    #[must_use]
    pub fn new(config: FeedConfig) -> Self {
        let channels = Arc::new(Mutex::new(Channels { by_workspace: HashMap::new(), sweep_at: SWEEP_AT }));
        let budget = Arc::new(Budget::new(config.ring_bytes));
        Self {
            channels,
            budget,
            room: Arc::default(),
            streams: Arc::default(),
            attachments: Arc::default(),
            config,
            draining: Arc::default(),
            drained: Arc::default(),
            metrics: FeedMetrics::default(),
        }
    }

    /// Opens a stream, which [`Feed::serve`] starts.
    ///
    /// # Errors
    /// [`FeedError`] if it cannot start where the caller asks.
    pub fn open(&self, store: Arc<Store>, subscribe: Subscribe) -> Result<Subscriber, FeedError> {
        Subscriber::open(self, store, subscribe)
    }

    /// Starts a stream, in the place that its client took for it.
    #[must_use]
    pub fn serve(&self, subscriber: Subscriber, place: StreamPlace) -> Frames {
        self.streams.add(subscriber, place)
    }

    /// Takes a place for one more stream of a client.
    ///
    /// # Errors
    /// [`FeedError::TooManyStreams`] if it has as many as it may have.
    pub fn enter(&self, client: Client) -> Result<StreamPlace, FeedError> {
        self.streams.enter(client, self.config.max_streams_per_client)
    }

    /// Counts what the streams do.
    #[must_use]
    pub fn metrics(&self) -> &FeedMetrics {
        &self.metrics
    }

    /// The memory that recent events take, and the most that they may take.
    #[must_use]
    pub fn ring_bytes(&self) -> (usize, usize) {
        (self.budget.taken(), self.budget.capacity())
    }

    /// The subscribers of each workspace that has any, in the order of the names.
    #[must_use]
    pub fn subscribers(&self) -> Vec<Subscribers> {
        let channels = self.channels().named(); // The map's lock ends here.
        let each = channels.into_iter().map(|(workspace, channel)| {
            let head = *channel.head.borrow();
            channel.cursors.behind(workspace, head)
        });
        let mut subscribers: Vec<_> = each.filter(|subscribers| subscribers.streams > 0).collect();
        subscribers.sort_unstable_by(|left, right| left.workspace.as_str().cmp(right.workspace.as_str()));
        subscribers
    }

    /// Tells subscribers what was committed. The writer calls it in commit order. The events of a workspace without
    /// subscribers cost one map lookup. After an erasure no subscriber sends what it has read before: it reads again. The
    /// streams of a subscription that newer ones or a change of it have made useless end.
    pub fn publish(&self, log: LogId, Commit { events: committed, erased, ended }: Commit<'_>) {
        for EndedStreams { workspace, name, below, deleted } in ended {
            let why = if *deleted { Detached::Deleted } else { Detached::TakenOver };
            self.detach(workspace, name, *below, why);
        }
        for workspace in erased {
            let channel = self.channels().get(workspace);
            if let Some(channel) = channel {
                channel.erase();
            }
        }
        for run in committed.chunk_by(|left, right| left.workspace == right.workspace) {
            let workspace = &run[0].workspace;
            let Some(channel) = self.channels().get(workspace) else { continue };
            if !self.budget.is_nothing() {
                let cursors = CursorSpace::new(log, workspace);
                self.keep(&channel, Segment::encode(cursors, run));
            }
            channel.advance(run[run.len() - 1].sequence.into());
        }
    }

    /// Appends events to the ring of a channel, then sheds events if the budget is exceeded.
    fn keep(&self, channel: &Channel, segments: Vec<Segment>) {
        channel.append(segments);
        if self.budget.is_over() {
            self.shed();
        }
    }

    /// Sheds events, from the least recently used channel first. It looks at every channel, but only once for each
    /// eighth of the budget that is published.
    fn shed(&self) {
        let mut channels = self.channels().alive(); // The map's lock ends here.
        channels.sort_by_cached_key(|channel| channel.last_use()); // Cached: it may change during the sort.
        for channel in channels {
            if !self.budget.must_shed() {
                return;
            }
            channel.shed();
        }
    }

    /// Ends all streams, each with its cursor, and the watchdog. Streams that are opened later end too.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drained.notify_one();
        let channels = self.channels().alive();
        for channel in channels {
            channel.head.send_modify(|_| {}); // Wakes waiting subscribers, which read the flag after the head.
        }
    }

    /// How long a stream that is opened now may be open: the limit, give or take a tenth, so that streams that were
    /// opened together do not end together. `None` without a limit.
    fn stream_age(&self) -> Option<Duration> {
        let age = self.config.max_stream_age;
        (!age.is_zero()).then(|| age.mul_f64(rand::random_range(0.9..1.1)))
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The channel of a workspace. A subscriber must join the channel first and then read the head of the log: earlier
    /// commits are then in the log, and later ones are published to the channel.
    fn channel(&self, workspace: &Workspace) -> Arc<Channel> {
        let mut channels = self.channels();
        channels
            .get(workspace)
            .unwrap_or_else(|| channels.insert(workspace.clone(), Channel::new(&self.budget, &self.room)))
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channels {
    fn get(&self, workspace: &Workspace) -> Option<Arc<Channel>> {
        self.by_workspace.get(workspace).and_then(Weak::upgrade)
    }

    fn alive(&self) -> Vec<Arc<Channel>> {
        self.by_workspace.values().filter_map(Weak::upgrade).collect()
    }

    fn named(&self) -> Vec<(Workspace, Arc<Channel>)> {
        let named = self.by_workspace.iter();
        named.filter_map(|(workspace, channel)| Some((workspace.clone(), channel.upgrade()?))).collect()
    }

    fn insert(&mut self, workspace: Workspace, channel: Channel) -> Arc<Channel> {
        if self.by_workspace.len() >= self.sweep_at {
            self.sweep();
        }
        let channel = Arc::new(channel);
        self.by_workspace.insert(workspace, Arc::downgrade(&channel));
        channel
    }

    /// Removes the entries of dropped channels. The next sweep follows after at least as many inserts as this one
    /// leaves entries, so the cost per insert is small.
    fn sweep(&mut self) {
        self.by_workspace.retain(|_, channel| channel.strong_count() > 0);
        self.sweep_at = SWEEP_AT.max(2 * self.by_workspace.len());
        self.by_workspace.shrink_to(self.sweep_at);
    }
}
