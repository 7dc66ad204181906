//! What subscribers see: each is a pull loop over the log, with a cursor and a filter and nothing else.
//!
//! - After a commit the writer calls [`Feed::publish`], which tells a number, the new head, to those who wait.
//!   Subscribers then read `(cursor, head]` themselves: catching up and being live are one code path ([`stream`]).
//! - Recent events lie in a bounded `ring` that all subscribers of a workspace share, encoded once ([`frame`]).
//!   Whoever is further behind reads the log in bounded pages. So a slow subscriber costs no memory.

pub mod frame;
mod ring;
pub mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::sync::watch;

use crate::config::FeedConfig;
use crate::model::cursor::CursorSpace;
use crate::model::{LogId, Sequence, Workspace};
use crate::store::Committed;
use ring::{Ring, Segment};

pub use stream::{FeedError, Start, Subscribe, Subscriber};

/// Entries of dropped channels are swept when the map has grown to this, or to twice what the last sweep left.
const SWEEP_AT: usize = 64;

/// All channels. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    channels: Arc<Mutex<Channels>>,
    config: FeedConfig,
    draining: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Channels {
    live: HashMap<Workspace, Weak<Channel>>,
    sweep_at: usize,
}

/// What the subscribers of one workspace share. It lives as long as they do.
#[derive(Debug)]
struct Channel {
    head: watch::Sender<Sequence>,
    ring: RwLock<Ring>,
}

impl Feed {
    /// A feed without subscribers.
    #[must_use]
    pub fn new(config: FeedConfig) -> Self {
        let channels = Channels { live: HashMap::new(), sweep_at: SWEEP_AT };
        Self { channels: Arc::new(Mutex::new(channels)), config, draining: Arc::default() }
    }

    /// Tells subscribers what was committed. Called by the writer, in order; the events of a workspace nobody
    /// listens to cost one look into a map.
    pub fn publish(&self, log: LogId, committed: &[Committed]) {
        for run in committed.chunk_by(|left, right| left.workspace == right.workspace) {
            let workspace = &run[0].workspace;
            let Some(channel) = self.channels().live.get(workspace).and_then(Weak::upgrade) else { continue };
            let cursors = CursorSpace::new(log, workspace);
            let segments = Segment::encode(cursors, run); // Before the lock, for which subscribers wait.
            channel.ring.write().unwrap_or_else(PoisonError::into_inner).extend(segments);
            channel.advance(run[run.len() - 1].sequence);
        }
    }

    /// Ends all streams, each with its cursor, and those that are opened later.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        for channel in self.channels().live.values().filter_map(Weak::upgrade) {
            channel.head.send_modify(|_| {}); // Wakes those who wait: they look at the flag after the head.
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The channel of a workspace. Whoever joins must read the head of the log afterwards: what was committed before
    /// is there, and what is committed later is published.
    fn channel(&self, workspace: &Workspace) -> Arc<Channel> {
        let mut channels = self.channels();
        if let Some(channel) = channels.live.get(workspace).and_then(Weak::upgrade) {
            return channel;
        }
        if channels.live.len() >= channels.sweep_at {
            channels.live.retain(|_, channel| channel.strong_count() > 0);
            channels.sweep_at = SWEEP_AT.max(2 * channels.live.len());
        }
        let ring = RwLock::new(Ring::new(self.config.ring_bytes));
        let channel = Arc::new(Channel { head: watch::Sender::new(0), ring });
        channels.live.insert(workspace.clone(), Arc::downgrade(&channel));
        channel
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    /// The head never goes back: a subscriber may know of a commit before it is published here.
    fn advance(&self, head: Sequence) {
        self.head.send_if_modified(|current| {
            let newer = head > *current;
            *current = head.max(*current);
            newer
        });
    }
}
