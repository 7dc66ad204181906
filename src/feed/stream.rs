//! One subscriber: a pull loop.
//!
//! - Nothing is pushed to it. It holds a cursor and at most one segment, and waits for the head to grow.
//! - A segment is at most `SEGMENT_BYTES` and one more event, which holds at most two profiles of the largest size.
//! - Every message carries a true cursor: every matching event at or before it has been delivered.
//! - The segment after the cursor comes from the ring if it is there, and otherwise from the log. Both hold the same
//!   events, so a subscriber moves from the log to the ring without a gap or a repeat.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::ReusableBoxFuture;

use super::Feed;
use super::channel::Channel;
use super::frame::{self, Notice};
use super::lag::SharedCursor;
use super::ring::{SEGMENT_BYTES, SEGMENT_EVENTS, Segment};
use crate::model::cursor::{CursorSpace, Start};
use crate::model::{Cursor, Filter, Invalid, Mask, Place, Workspace};
use crate::proto::v1::{CaughtUp, Heartbeat, Opened};
use crate::store::{LogBounds, PageSize, Past, ReadClass, Store, StoreError, begin_unborn};
use crate::telemetry::metrics::{Load, OpenStream, StreamEnd};

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
pub(super) struct Subscriber {
    store: Arc<Store>,
    feed: Feed,
    channel: Arc<Channel>,
    /// Where the log ends, as far as this subscriber knows.
    head: Place,
    changes: Changes,
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
    /// The same, for operators.
    shared_cursor: SharedCursor,
    open: OpenStream,
    phase: Phase,
    segment: Option<(Arc<Segment>, usize)>,
    /// The read of the next segment from the log.
    loading: Option<Loading>,
    /// Boxed because it must not move. It is reset only when it fires.
    timer: Pin<Box<Sleep>>,
    sent_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    CatchingUp,
    Live,
}

type Loading = Pin<Box<dyn Future<Output = Result<Arc<Segment>, StoreError>> + Send>>;
type Next = Option<Result<Bytes, FeedError>>;

/// Waits for the head of the log to move.
struct Changes(ReusableBoxFuture<'static, watch::Receiver<Place>>);

impl Changes {
    fn of(head: watch::Receiver<Place>) -> Self {
        Self(ReusableBoxFuture::new(change(head)))
    }

    /// The new head.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Place> {
        let mut head = ready!(self.0.poll(context));
        let place = *head.borrow_and_update();
        self.0.set(change(head));
        Poll::Ready(place)
    }
}

async fn change(mut head: watch::Receiver<Place>) -> watch::Receiver<Place> {
    head.changed().await.expect("the subscriber holds the channel");
    head
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
        let changes = channel.head.subscribe();
        let head = *changes.borrow();
        Ok(Self {
            head,
            changes: Changes::of(changes),
            shared_cursor: channel.cursors.join(cursor),
            open: feed.metrics.open(),
            timer: Box::pin(tokio::time::sleep(heartbeat)),
            sent_at: Instant::now(),
            phase: Phase::Opening,
            segment: None,
            loading: None,
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

    /// The next message, encoded. `None` means that the stream has ended with OK. After it or an error there is no
    /// other message.
    ///
    /// # Errors
    /// [`FeedError`], which ends the stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let next = ready!(self.poll_advance(context));
        if !matches!(next, Some(Ok(_))) {
            self.open.end(end_of(next.as_ref()));
        }
        self.shared_cursor.moved_to(self.cursor);
        self.sent_at = Instant::now();
        Poll::Ready(next)
    }

    /// Gives up the events that were read and not delivered. They are read again when they are asked for.
    pub fn release(&mut self) {
        self.segment = None;
        self.loading = None;
    }

    #[cfg(test)]
    pub fn segment(&self) -> Option<std::sync::Weak<Segment>> {
        self.segment.as_ref().map(|(segment, _)| Arc::downgrade(segment))
    }

    /// Ends the stream because the transport asks for nothing.
    pub fn stalled(&mut self) -> FeedError {
        self.open.end(StreamEnd::Stalled);
        FeedError::Stalled { cursor: self.cursors.at(self.cursor) }
    }

    fn poll_advance(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.phase == Phase::Opening {
            self.phase = Phase::CatchingUp;
            return Poll::Ready(Some(Ok(self.opened())));
        }
        loop {
            if self.feed.is_draining() {
                return Poll::Ready(Some(Err(FeedError::Draining { cursor: self.cursors.at(self.cursor) })));
            }
            if self.phase == Phase::CatchingUp && self.cursor >= self.target {
                self.phase = Phase::Live;
                let caught_up = Notice::CaughtUp(CaughtUp { head_sequence: self.target.get() });
                return Poll::Ready(Some(Ok(self.notice(&caught_up))));
            }
            if self.phase == Phase::Live && self.until_caught_up {
                return Poll::Ready(None);
            }
            if let Some(frame) = self.next_of_segment() {
                return Poll::Ready(Some(frame.inspect(|_| self.feed.metrics.event())));
            }
            if self.phase == Phase::CatchingUp && self.cursor >= self.target {
                continue;
            }
            if let Some(message) = ready!(self.poll_fetch(context)) {
                return Poll::Ready(Some(message));
            }
        }
    }

    /// Loads the events up to the head, or waits for more if there are none. `None` means that there are some to read.
    fn poll_fetch(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.loading.is_none() {
            if self.cursor >= self.head {
                return self.poll_wait(context);
            }
            if self.sent_at.elapsed() >= self.heartbeat {
                return Poll::Ready(Some(Ok(self.heartbeat()))); // A long run without a match can then be resumed.
            }
        }
        match ready!(self.poll_load(context)) {
            Ok(segment) => self.segment = Some((segment, 0)),
            Err(error) => return Poll::Ready(Some(Err(self.refused(error)))),
        }
        // A filter that matches nothing must not starve others.
        pin!(tokio::task::consume_budget()).poll(context).map(|()| None)
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
    fn poll_load(&mut self, context: &mut Context<'_>) -> Poll<Result<Arc<Segment>, StoreError>> {
        if self.loading.is_none()
            && let Some(segment) = self.channel.segment_after(self.cursor)
        {
            self.feed.metrics.loaded(Load::Ring);
            return Poll::Ready(Ok(segment));
        }
        let loading = self.loading.take().unwrap_or_else(|| self.load());
        let segment = ready!(self.loading.insert(loading).as_mut().poll(context));
        self.loading = None;
        Poll::Ready(segment)
    }

    fn load(&self) -> Loading {
        self.feed.metrics.loaded(Load::Log);
        let (store, workspace, filter) = (Arc::clone(&self.store), self.workspace.clone(), self.filter.clone());
        let (cursors, after, head) = (self.cursors, self.cursor, self.head);
        Box::pin(async move {
            let of = workspace.clone();
            let read = move |store: &Store| read_segment(store, &of, cursors, after, head, &filter);
            store.on_read_pool(ReadClass::Feed, Some(&workspace), read).await
        })
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
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.timer.as_mut().poll(context).is_ready() {
            let (now, due) = (Instant::now(), self.sent_at + self.heartbeat);
            if due > now {
                self.timer.as_mut().reset(due);
                return Poll::Ready(None);
            }
            self.timer.as_mut().reset(now + self.heartbeat);
            return Poll::Ready(Some(Ok(self.heartbeat())));
        }
        self.head = ready!(self.changes.poll(context));
        Poll::Ready(None)
    }

    fn heartbeat(&self) -> Bytes {
        self.feed.metrics.heartbeat();
        self.notice(&Notice::Heartbeat(Heartbeat { time: Some(self.store.now().to_timestamp()) }))
    }

    fn opened(&self) -> Bytes {
        let heartbeat_interval = prost_types::Duration::try_from(self.heartbeat).ok();
        let (after_sequence, head_sequence) = (self.cursor.get(), self.target.get());
        let opened = Opened { after_sequence, head_sequence, heartbeat_interval, ..Opened::default() };
        self.notice(&Notice::Opened(opened))
    }

    fn notice(&self, notice: &Notice) -> Bytes {
        frame::notice(self.cursors, self.cursor, notice)
    }
}

/// Why a stream ends, whose last message this is.
fn end_of(last: Option<&Result<Bytes, FeedError>>) -> StreamEnd {
    match last {
        None | Some(Ok(_)) => StreamEnd::CaughtUp,
        Some(Err(FeedError::Stalled { .. })) => StreamEnd::Stalled,
        Some(Err(FeedError::Draining { .. })) => StreamEnd::Drained,
        Some(Err(FeedError::Damaged { .. } | FeedError::Store(StoreError::Corrupt { .. }))) => StreamEnd::Corrupt,
        Some(Err(FeedError::Store(StoreError::Expired { .. }))) => StreamEnd::Expired,
        Some(Err(FeedError::Store(_) | FeedError::Invalid(_))) => StreamEnd::Failed,
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
        return Ok((LogBounds::default(), begin_unborn(cursors, start)?.place()));
    };
    let (bounds, position) = store.snapshot()?.begin(id, cursors, start)?;
    Ok((bounds, position.place()))
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
