//! What subscribers see: each is a pull loop over the log, with a cursor and a filter and nothing else.
//!
//! - After a commit the writer calls [`Feed::publish`], which tells a number, the new head, to those who wait.
//!   Subscribers then read `(cursor, head]` themselves: catching up and being live are one code path ([`stream`]).
//! - Recent events lie in a `ring` that all subscribers of a workspace share (its `channel`), encoded once ([`frame`]).
//!   A subscriber that is further behind reads the log in bounded pages. So a slow subscriber costs no memory.
//! - The rings of all workspaces share one `budget`. Past it, the least recently used workspace gives up its oldest
//!   events first; its subscribers then read them from the log.
//!
//! Locks: no two are ever held at once. The map's is released before a ring's is taken.

mod budget;
mod channel;
pub mod frame;
mod ring;
pub mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::config::FeedConfig;
use crate::model::cursor::CursorSpace;
use crate::model::{LogId, Workspace};
use crate::store::Committed;
use budget::Budget;
use channel::Channel;
use ring::Segment;

pub use stream::{FeedError, Subscribe, Subscriber};

/// Entries of dropped channels are swept when the map has grown to this, or to twice what the last sweep left.
const SWEEP_AT: usize = 64;

/// All channels. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    channels: Arc<Mutex<Channels>>,
    budget: Arc<Budget>,
    config: FeedConfig,
    draining: Arc<AtomicBool>,
}

/// The channel of each workspace that has subscribers. A channel that its last subscriber has dropped leaves its entry
/// behind until the next sweep, so there are never more entries than [`SWEEP_AT`] or twice the most channels ever alive
/// at once.
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
        Self { channels, budget: Arc::new(Budget::new(config.ring_bytes)), config, draining: Arc::default() }
    }

    /// Tells subscribers what was committed. Called by the writer, in order; the events of a workspace without
    /// subscribers cost one look into a map.
    pub fn publish(&self, log: LogId, committed: &[Committed]) {
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

    /// Appends events to the ring of a channel, then takes the budget back below its capacity.
    fn keep(&self, channel: &Channel, segments: Vec<Segment>) {
        channel.append(segments);
        if self.budget.is_over() {
            self.shed();
        }
    }

    /// Sheds from the least recently used channel first. It looks at every channel, but only once for each eighth of
    /// the budget that is published.
    fn shed(&self) {
        let mut channels = self.channels().alive(); // The map's lock ends here.
        channels.sort_by_cached_key(|channel| channel.last_use()); // Cached: it may change while they are sorted.
        for channel in channels {
            if !self.budget.must_shed() {
                return;
            }
            channel.shed();
        }
    }

    /// Ends all streams, each with its cursor, and those that are opened later.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let channels = self.channels().alive();
        for channel in channels {
            channel.head.send_modify(|_| {}); // Wakes those who wait: they look at the flag after the head.
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The channel of a workspace. A subscriber must read the head of the log after it has joined: what was committed
    /// before is in the log, and what is committed later is published.
    fn channel(&self, workspace: &Workspace) -> Arc<Channel> {
        let mut channels = self.channels();
        channels.get(workspace).unwrap_or_else(|| channels.insert(workspace.clone(), Channel::new(&self.budget)))
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

    fn insert(&mut self, workspace: Workspace, channel: Channel) -> Arc<Channel> {
        if self.by_workspace.len() >= self.sweep_at {
            self.sweep();
        }
        let channel = Arc::new(channel);
        self.by_workspace.insert(workspace, Arc::downgrade(&channel));
        channel
    }

    /// The next sweep comes after as many inserts as this one leaves entries, so sweeping costs each insert little.
    fn sweep(&mut self) {
        self.by_workspace.retain(|_, channel| channel.strong_count() > 0);
        self.sweep_at = SWEEP_AT.max(2 * self.by_workspace.len());
        self.by_workspace.shrink_to(self.sweep_at);
    }
}
