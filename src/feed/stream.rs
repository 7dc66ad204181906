//! One subscriber: a pull loop.
//!
//! - Nothing is pushed to it. It holds a cursor and at most one segment, and waits for the head to grow.
//! - Every message carries a true cursor: every matching event at or before it has been delivered.
//! - The segment after the cursor comes from the ring if it is there, and otherwise from the log. Both hold the same
//!   events, so a subscriber moves from the log to the ring without a gap or a repeat.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::Feed;
use super::channel::Channel;
use super::frame::{self, Notice};
use super::ring::{SEGMENT_BYTES, SEGMENT_EVENTS, Segment};
use crate::model::cursor::{CursorSpace, Start};
use crate::model::{Cursor, Filter, Invalid, Mask, Place, Workspace};
use crate::proto::v1::{CaughtUp, Heartbeat, Opened};
use crate::store::{LogBounds, PageSize, Past, Store, StoreError};

/// What a subscriber asks for.
#[derive(Debug)]
pub struct Subscribe {
    /// The workspace whose events to stream. It need not exist yet.
    pub workspace: Workspace,
    /// Where the stream starts.
    pub start: Start,
    /// The events to deliver.
    pub filter: Filter,
    /// The parts to deliver of the profiles inside the events.
    pub mask: Mask,
    /// How long the stream may send nothing before it sends a heartbeat.
    pub heartbeat: Duration,
    /// Whether to end the stream where the log ended when the stream was opened.
    pub until_caught_up: bool,
}

/// Why a stream ends.
#[allow(missing_docs)] // The fields are cursors.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The start is not a place in the log.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The log could not be read, or no longer holds the next event.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The next event is damaged. The cursor skips it, and any damaged events right after it.
    #[error("a stored event is corrupt")]
    Damaged { past: Cursor },
    /// The subscriber read nothing for too long.
    #[error("the subscriber read nothing for too long")]
    Stalled { cursor: Cursor },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining { cursor: Cursor },
}

/// One open stream.
pub struct Subscriber {
    store: Arc<Store>,
    feed: Feed,
    channel: Arc<Channel>,
    head: watch::Receiver<Place>,
    workspace: Workspace,
    cursors: CursorSpace,
    filter: Filter,
    mask: Mask,
    heartbeat: Duration,
    until_caught_up: bool,
    /// Where the log ended when the stream was opened.
    target: Place,
    /// Every matching event at or before it has been delivered.
    cursor: Place,
    phase: Phase,
    segment: Option<(Arc<Segment>, usize)>,
    /// Boxed because it must not move. It is reset only when it fires.
    timer: Pin<Box<Sleep>>,
    sent_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    CatchingUp,
    Live,
    Ended,
}

impl Subscriber {
    /// Opens a stream.
    ///
    /// # Errors
    /// [`FeedError`] if it cannot start where the caller asks.
    pub fn open(feed: &Feed, store: Arc<Store>, subscribe: Subscribe) -> Result<Self, FeedError> {
        let Subscribe { workspace, start, filter, mask, heartbeat, until_caught_up } = subscribe;
        let channel = feed.channel(&workspace);
        let cursors = store.cursors(&workspace);
        let (bounds, cursor) = begin(&store, &workspace, cursors, &start)?;
        channel.advance(bounds.head);
        Ok(Self {
            head: channel.head.subscribe(),
            timer: Box::pin(tokio::time::sleep(heartbeat)),
            sent_at: Instant::now(),
            phase: Phase::Opening,
            segment: None,
            target: bounds.head,
            feed: feed.clone(),
            store,
            channel,
            workspace,
            cursors,
            filter,
            mask,
            heartbeat,
            until_caught_up,
            cursor,
        })
    }

    /// The next message, encoded. `None` means that the stream has ended with OK.
    ///
    /// # Errors
    /// [`FeedError`], which ends the stream.
    pub async fn next(&mut self) -> Option<Result<Bytes, FeedError>> {
        if self.phase == Phase::Ended {
            return None;
        }
        let next = self.advance().await;
        if !matches!(next, Some(Ok(_))) {
            self.phase = Phase::Ended;
        }
        self.sent_at = Instant::now();
        next
    }

    async fn advance(&mut self) -> Option<Result<Bytes, FeedError>> {
        // The transport has not asked for a message since the last one, because the client read nothing.
        if self.sent_at.elapsed() > self.feed.config.stall_timeout {
            return Some(Err(self.stalled()));
        }
        if self.phase == Phase::Opening {
            self.phase = Phase::CatchingUp;
            return Some(Ok(self.opened()));
        }
        loop {
            if self.feed.is_draining() {
                return Some(Err(FeedError::Draining { cursor: self.cursors.at(self.cursor) }));
            }
            if self.phase == Phase::CatchingUp && self.cursor >= self.target {
                self.phase = Phase::Live;
                return Some(Ok(self.notice(&Notice::CaughtUp(CaughtUp { head_sequence: self.target.get() }))));
            }
            if self.phase == Phase::Live && self.until_caught_up {
                return None;
            }
            if let Some(frame) = self.next_of_segment() {
                return Some(frame);
            }
            if self.phase == Phase::CatchingUp && self.cursor >= self.target {
                continue;
            }
            let head = *self.head.borrow_and_update();
            if self.feed.is_draining() {
                continue; // It began since the check above. If it begins later, `wait` returns at once.
            }
            if let Some(message) = self.fetch(head).await {
                return Some(message);
            }
        }
    }

    /// Loads the events up to `head`, or waits for more if there are none. `None` means that there are some to read.
    async fn fetch(&mut self, head: Place) -> Option<Result<Bytes, FeedError>> {
        if self.cursor >= head {
            return self.wait().await;
        }
        if self.sent_at.elapsed() >= self.heartbeat {
            return Some(Ok(self.heartbeat())); // A long run without a match can then be resumed.
        }
        match self.load(head).await {
            Ok(segment) => self.segment = Some((segment, 0)),
            Err(error) => return Some(Err(self.refused(error))),
        }
        tokio::task::consume_budget().await; // A filter that matches nothing must not starve others.
        None
    }

    /// The next matching event of the current segment. Moves the cursor past events that do not match.
    fn next_of_segment(&mut self) -> Option<Result<Bytes, FeedError>> {
        let (segment, at) = self.segment.as_mut()?;
        while let Some(entry) = segment.entries.get(*at) {
            if self.phase == Phase::CatchingUp && Place::from(entry.sequence) > self.target {
                self.cursor = self.target; // First report that the stream has caught up.
                return None;
            }
            *at += 1;
            if Place::from(entry.sequence) <= self.cursor {
                continue;
            }
            self.cursor = entry.sequence.into();
            if !self.filter.matches(entry.kind, entry.mpid, entry.silent) {
                continue;
            }
            if self.mask.is_all() {
                return Some(Ok(entry.frame.clone()));
            }
            let cut = self.mask.event(entry.event());
            let cut = cut.map_err(|_| FeedError::Damaged { past: self.cursors.at(entry.sequence) });
            return Some(cut.map(|event| frame::event(self.cursors, entry.sequence, &event)));
        }
        self.cursor = self.cursor.max(segment.through);
        self.segment = None;
        None
    }

    /// The segment after the cursor: from the ring, or else from the log.
    async fn load(&self, head: Place) -> Result<Arc<Segment>, StoreError> {
        if let Some(segment) = self.channel.segment_after(self.cursor) {
            return Ok(segment);
        }
        let (workspace, filter) = (self.workspace.clone(), self.filter.clone());
        let (cursors, after) = (self.cursors, self.cursor);
        self.store.on_read_pool(move |store| read_segment(store, &workspace, cursors, after, head, &filter)).await
    }

    /// The error of a failed read. If an event is damaged, it holds the cursor to continue from.
    fn refused(&self, error: StoreError) -> FeedError {
        match error {
            StoreError::Corrupt { past: Some(Past::Event(past)), .. } => {
                FeedError::Damaged { past: self.cursors.at(past) }
            }
            other => other.into(),
        }
    }

    /// Waits until there is something to read (`None`) or something to send.
    async fn wait(&mut self) -> Option<Result<Bytes, FeedError>> {
        tokio::select! {
            biased;
            () = &mut self.timer => {
                let due = self.sent_at + self.heartbeat;
                if due.elapsed() > self.feed.config.stall_timeout {
                    return Some(Err(self.stalled())); // The transport never asked for the heartbeat that was due.
                }
                if due > Instant::now() {
                    self.timer.as_mut().reset(due);
                    return None;
                }
                self.timer.as_mut().reset(Instant::now() + self.heartbeat);
                Some(Ok(self.heartbeat()))
            }
            changed = self.head.changed() => {
                changed.expect("the channel is held by this subscriber");
                None
            }
        }
    }

    fn heartbeat(&self) -> Bytes {
        self.notice(&Notice::Heartbeat(Heartbeat { time: Some(self.store.now().to_timestamp()) }))
    }

    fn opened(&self) -> Bytes {
        let heartbeat_interval = prost_types::Duration::try_from(self.heartbeat).ok();
        let (after_sequence, head_sequence) = (self.cursor.get(), self.target.get());
        let opened = Opened { after_sequence, head_sequence, heartbeat_interval };
        self.notice(&Notice::Opened(opened))
    }

    fn notice(&self, notice: &Notice) -> Bytes {
        frame::notice(self.cursors, self.cursor, notice)
    }

    fn stalled(&self) -> FeedError {
        FeedError::Stalled { cursor: self.cursors.at(self.cursor) }
    }
}

/// The bounds of the log when a stream is opened, and the place where the stream starts.
fn begin(
    store: &Store,
    workspace: &Workspace,
    cursors: CursorSpace,
    start: &Start,
) -> Result<(LogBounds, Place), FeedError> {
    let Some(id) = store.workspace_id(workspace) else {
        let bounds = LogBounds::default();
        return Ok((bounds, cursors.resolve(start, bounds.floor, bounds.head)?));
    };
    let snapshot = store.snapshot()?;
    let bounds = snapshot.log_bounds(id)?;
    let cursor = cursors.resolve(start, bounds.floor, bounds.head)?;
    snapshot.check_held(id, bounds, cursor)?;
    Ok((bounds, cursor))
}

fn read_segment(
    store: &Store,
    workspace: &Workspace,
    cursors: CursorSpace,
    after: Place,
    head: Place,
    filter: &Filter,
) -> Result<Arc<Segment>, StoreError> {
    let id = store.workspace_id(workspace).ok_or(StoreError::Closed)?;
    let size = PageSize { items: SEGMENT_EVENTS, bytes: SEGMENT_BYTES };
    let mut segment = Segment::default();
    let page = store.snapshot()?.events(id, after, head, filter, size, |event| Ok(segment.push(cursors, event)))?;
    segment.through = page.through;
    Ok(Arc::new(segment))
}
