//! One subscriber: a pull loop.
//!
//! - Nothing is pushed to it. It holds a position and at most one batch, and waits for the head to grow.
//! - A batch is a segment, or a page of a snapshot: at most `SEGMENT_BYTES` and one more event, which holds at most two
//!   profiles of the largest size. It is handed out in runs of frames that share its memory.
//! - Every message carries a true cursor: every matching event at or before it has been delivered.
//! - The segment after the position comes from the ring if it is there, and otherwise from the log. Both hold the same
//!   events, so a subscriber moves from the log to the ring without a gap or a repeat: `load`.

mod load;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::Feed;
use super::attachment::{Attachment, Detached};
use super::channel::{Changes, Channel};
use super::error::{self, FeedError};
use super::frame::{self, Notice};
use super::lag::SharedCursor;
use super::view::View;
use crate::model::cursor::{CursorSpace, Start};
use crate::model::{Cursor, Filter, Mask, Place, Position, Workspace};
use crate::proto::v1::{CaughtUp, Heartbeat, Opened, SnapshotComplete};
use crate::store::{Past, Store, StoreError};
use crate::telemetry::metrics::{FeedMetrics, OpenStream, StreamEnd};
use load::{Batch, Loading};

/// The most bytes of a run of frames, unless it is a single event: so a stream that is not read holds little.
const RUN_BYTES: usize = 32 << 10;

/// What a subscriber asks for.
pub struct Subscribe {
    /// The workspace whose events to stream. It need not exist yet.
    pub workspace: Workspace,
    /// Where the stream starts. A time has been found before, because the search may read much: [`Start::Since`].
    pub start: Start,
    /// The events to deliver.
    pub filter: Filter,
    /// The parts to deliver of the profiles inside the events.
    pub mask: Mask,
    /// How long the stream may send nothing before it sends a heartbeat.
    pub heartbeat: Duration,
    /// Whether to end the stream where the log ended when the stream was opened.
    pub until_caught_up: bool,
    /// What binds the stream to a durable subscription. `None` without one.
    pub attachment: Option<Attachment>,
    /// Whether the credential that the stream was opened with is over. `None` if it never is.
    pub is_over: Option<IsOver>,
}

/// Asked before each message.
pub type IsOver = Box<dyn Fn() -> bool + Send + Sync>;

/// One open stream.
pub struct Subscriber {
    store: Arc<Store>,
    channel: Arc<Channel>,
    /// Where the log ends, as far as this subscriber knows.
    head: Place,
    changes: Changes,
    workspace: Workspace,
    cursors: CursorSpace,
    view: Arc<View>,
    heartbeat: Duration,
    until_caught_up: bool,
    /// Where the log ended when the stream was opened.
    target: Place,
    /// Where the caller asked to start, if not after a cursor. `None` once the stream has said where it starts.
    start: Option<Box<Start>>,
    /// Everything that matches at or before it has been delivered.
    position: Position,
    /// The same, for operators.
    shared_cursor: SharedCursor,
    open: OpenStream,
    metrics: FeedMetrics,
    /// Whether the server is shutting down. The stream keeps only this and the metrics of the feed, which is large.
    draining: Arc<AtomicBool>,
    phase: Phase,
    batch: Option<Batch>,
    /// The erasures of the log before the batch was read.
    erasures: u64,
    /// How often a batch may be halved: see `load`.
    halvings: u32,
    /// The read of the next batch.
    loading: Option<Loading>,
    /// Boxed because it must not move. It is reset only when it fires.
    timer: Pin<Box<Sleep>>,
    sent_at: Instant,
    /// When it has been open for as long as streams may be.
    end_at: Option<Instant>,
    attachment: Option<Attachment>,
    is_over: Option<IsOver>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Snapshot,
    CatchingUp,
    Live,
}

type Next = Option<Result<Bytes, FeedError>>;

impl Subscriber {
    /// Opens a stream.
    ///
    /// # Errors
    /// [`FeedError`] if it cannot start where the caller asks.
    pub fn open(feed: &Feed, store: Arc<Store>, subscribe: Subscribe) -> Result<Self, FeedError> {
        debug_assert!(!matches!(subscribe.start, Start::At(_)), "it has been found");
        let Subscribe { workspace, start, filter, mask, heartbeat, until_caught_up, attachment, is_over } = subscribe;
        let channel = feed.channel(&workspace);
        let cursors = store.cursors(&workspace);
        let (bounds, position) = store.begin(&workspace, &start)?;
        channel.advance(bounds.head);
        let changes = channel.head.subscribe();
        let head = *changes.borrow();
        let now = Instant::now();
        let end_at = feed.stream_age().map(|age| now + age);
        let is_uncertain = matches!(start, Start::Earliest | Start::Since(..) | Start::Snapshot);
        Ok(Self {
            head,
            changes: Changes::of(changes),
            view: channel.views.join(filter, mask),
            shared_cursor: channel.cursors.join(position.place()),
            open: feed.metrics.open(),
            timer: Box::pin(tokio::time::sleep_until(end_at.map_or(now + heartbeat, |end| end.min(now + heartbeat)))),
            sent_at: now,
            end_at,
            attachment,
            is_over,
            phase: Phase::Opening,
            batch: None,
            erasures: 0,
            halvings: 0,
            loading: None,
            target: bounds.head,
            draining: Arc::clone(&feed.draining),
            metrics: feed.metrics.clone(),
            start: is_uncertain.then(|| Box::new(start)),
            store,
            channel,
            workspace,
            cursors,
            heartbeat,
            until_caught_up,
            position,
        })
    }

    /// The next messages, encoded. `None` means that the stream has ended with OK. After it or an error there is no
    /// other message.
    ///
    /// # Errors
    /// [`FeedError`], which ends the stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let next = ready!(self.poll_advance(context));
        if !matches!(next, Some(Ok(_))) {
            self.open.end(error::end_of(next.as_ref()));
        }
        self.shared_cursor.moved_to(self.position.place());
        if let Some(attachment) = &self.attachment {
            attachment.sent(self.position);
        }
        self.sent_at = Instant::now();
        Poll::Ready(next)
    }

    /// Gives up what was read and not delivered. It is read again when it is asked for.
    pub fn release(&mut self) {
        self.batch = None;
        self.loading = None;
    }

    #[cfg(test)]
    pub(super) fn segment(&self) -> Option<std::sync::Weak<super::segment::Segment>> {
        match self.batch.as_ref()? {
            Batch::Events(segment, _) => Some(Arc::downgrade(segment)),
            Batch::Profiles(..) => None,
        }
    }

    /// Ends the stream because the transport asks for nothing.
    pub fn stalled(&mut self) -> FeedError {
        self.open.end(StreamEnd::Stalled);
        FeedError::Stalled { cursor: self.cursor() }
    }

    fn cursor(&self) -> Cursor {
        self.cursors.at(self.position)
    }

    fn poll_advance(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if let Err(error) = ready!(self.poll_begin(context)) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(next) = self.change_phase() {
                return Poll::Ready(next);
            }
            if self.batch.is_some() {
                match self.next_of_batch() {
                    Some(frames) => return Poll::Ready(Some(Ok(frames))),
                    None => continue, // It has moved the position, perhaps into the next phase.
                }
            }
            if let Some(message) = ready!(self.poll_fetch(context)) {
                return Poll::Ready(Some(message));
            }
        }
    }

    /// Reads the first batch before the stream says where it starts, unless the caller gave a cursor. If retention has
    /// removed the first events since the stream was opened, it starts with what is left. If the read has to wait for
    /// longer than a heartbeat interval, the stream says first where it starts, as it would with a cursor.
    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), FeedError>> {
        while self.start.is_some() && self.has_more() {
            match self.poll_load(context) {
                Poll::Ready(Err(StoreError::Expired { .. })) => self.begin_again()?,
                Poll::Ready(Err(_)) => break, // It is read again, and reported after the stream has said where it starts.
                Poll::Ready(Ok(batch)) => {
                    self.batch = Some(batch);
                    break;
                }
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(context));
                    break;
                }
            }
        }
        self.start = None;
        Poll::Ready(Ok(()))
    }

    fn begin_again(&mut self) -> Result<(), FeedError> {
        let Some(start) = &self.start else { return Ok(()) };
        let (bounds, position) = self.store.begin(&self.workspace, start)?;
        self.channel.advance(bounds.head);
        self.head = self.head.max(bounds.head);
        (self.target, self.position) = (bounds.head, position);
        Ok(())
    }

    /// Whether there is a batch to read.
    fn has_more(&self) -> bool {
        match self.position {
            Position::Snapshot { .. } => true,
            Position::Log(place) => place < self.head,
        }
    }

    /// The notice of a change of phase, or the end of the stream.
    fn change_phase(&mut self) -> Option<Next> {
        if self.phase != Phase::Opening
            && let Some(end) = self.end()
        {
            return Some(Some(Err(end)));
        }
        let (phase, notice) = match (self.phase, self.position) {
            (Phase::Opening, Position::Snapshot { .. }) => (Phase::Snapshot, self.opened()),
            (Phase::Opening, Position::Log(_)) => (Phase::CatchingUp, self.opened()),
            (Phase::Snapshot, Position::Log(place)) => {
                let complete = Notice::SnapshotComplete(SnapshotComplete { sequence: place.get() });
                (Phase::CatchingUp, self.notice(&complete))
            }
            (Phase::CatchingUp, position) if position.place() >= self.target => {
                let caught_up = Notice::CaughtUp(CaughtUp { head_sequence: self.target.get() });
                (Phase::Live, self.notice(&caught_up))
            }
            (Phase::Live, _) if self.until_caught_up => return Some(None),
            (Phase::Snapshot | Phase::CatchingUp | Phase::Live, _) => return None,
        };
        self.phase = phase;
        Some(Some(Ok(notice)))
    }

    /// Why somebody else ends the stream, if so.
    fn end(&self) -> Option<FeedError> {
        if self.draining.load(Ordering::SeqCst) {
            return Some(FeedError::Draining { cursor: self.cursor() });
        }
        if self.is_over.as_ref().is_some_and(|is_over| is_over()) {
            return Some(FeedError::Unauthenticated { cursor: self.cursor() });
        }
        let attachment = self.attachment.as_ref()?;
        Some(match attachment.ended()? {
            Detached::TakenOver => FeedError::TakenOver { cursor: self.cursor() },
            Detached::Deleted => FeedError::Deleted { name: attachment.name().clone() },
        })
    }

    /// Loads the next batch, or waits for more events if there are none. `None` means that there may be one.
    fn poll_fetch(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if self.end_at.is_some_and(|end| end <= Instant::now()) {
            return Poll::Ready(Some(Err(FeedError::TooOld { cursor: self.cursor() })));
        }
        if self.loading.is_none() {
            if !self.has_more() {
                return self.poll_wait(context);
            }
            if self.sent_at.elapsed() >= self.heartbeat {
                return Poll::Ready(Some(Ok(self.heartbeat()))); // A long run without a match can then be resumed.
            }
        }
        let Poll::Ready(loaded) = self.poll_load(context) else {
            return self.poll_heartbeat(context); // The batch may have to wait for the batches of others.
        };
        match loaded {
            Ok(Batch::Events(segment, _)) if segment.through <= self.position.place() => {
                // The next event is in memory, and malformed.
                let past = self.cursors.at(self.position.place().next());
                return Poll::Ready(Some(Err(FeedError::Damaged { past })));
            }
            Ok(batch) => self.batch = Some(batch),
            Err(error) => return Poll::Ready(Some(Err(self.refused(error)))),
        }
        // A filter that matches nothing must not starve others.
        pin!(tokio::task::consume_budget()).poll(context).map(|()| None)
    }

    /// The next frames of the current batch. None if it was read before an erasure: it may hold values that are gone.
    fn next_of_batch(&mut self) -> Option<Bytes> {
        if self.erasures != self.channel.erasures() {
            self.discard();
            return None;
        }
        let frames = match self.batch.as_mut()? {
            Batch::Events(..) => self.next_events(),
            Batch::Profiles(page, from) => {
                let (frames, position) = page.take(from, RUN_BYTES);
                self.position = position;
                if frames.is_none() {
                    self.batch = None;
                }
                frames
            }
        };
        self.halvings = self.halvings.saturating_sub(frames.is_some().into());
        frames
    }

    /// The frames of the next events that match and are next to each other. Moves the position past events that do not
    /// match. While it catches up, it goes no further than to where the log ended when the stream was opened.
    fn next_events(&mut self) -> Option<Bytes> {
        let limit = self.limit();
        let Some(Batch::Events(segment, at)) = &mut self.batch else { return None };
        let (position, filter) = (self.position.place(), &self.view.filter);
        let entries = &segment.entries[*at..];
        let within = entries.iter().take_while(|entry| Place::from(entry.sequence) <= limit);
        let is_wanted = |entry: &&super::segment::Entry| {
            Place::from(entry.sequence) > position && filter.matches(entry.kind, entry.mpid, entry.other, entry.silent)
        };
        #[cfg(feature = "planted")]
        let is_wanted = |entry: &&super::segment::Entry| is_wanted(entry) && !super::planted::drops(entry);
        let first = *at + within.clone().take_while(|entry| !is_wanted(entry)).count();
        let mut bytes = 0;
        let fits = |nth: usize| {
            bytes += segment.frame_len(first + nth);
            nth == 0 || bytes <= RUN_BYTES
        };
        let wanted = within.skip(first - *at).take_while(is_wanted).enumerate().map(|(nth, _)| nth);
        let events = wanted.map(fits).take_while(|fits| *fits).count();
        *at = first + events;
        if events > 0 {
            self.position = segment.entries[*at - 1].sequence.into();
            self.metrics.events(events);
            #[cfg(feature = "planted")]
            return Some(super::planted::run(segment, first..*at));
            #[cfg(not(feature = "planted"))]
            return Some(segment.frames(first..*at));
        }
        let through = segment.through.min(limit);
        self.position = self.position.max(through.into());
        if through == segment.through {
            self.batch = None;
        }
        None
    }

    /// The error of a failed read. If a record is damaged, it holds the cursor to continue from.
    fn refused(&self, error: StoreError) -> FeedError {
        match error {
            StoreError::Corrupt { past: Some(Past::Position(past)), .. } => {
                FeedError::Damaged { past: self.cursors.at(past) }
            }
            other => other.into(),
        }
    }

    /// Waits until there is something to read (`None`) or something to send.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(due) = self.poll_heartbeat(context) {
            return Poll::Ready(due);
        }
        self.head = ready!(self.changes.poll(context));
        Poll::Ready(None)
    }

    /// Waits until a heartbeat is due, or the stream is too old (`None`).
    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        ready!(self.timer.as_mut().poll(context));
        let (now, due) = (Instant::now(), self.sent_at + self.heartbeat);
        let next = if due > now { due } else { now + self.heartbeat };
        self.timer.as_mut().reset(self.end_at.map_or(next, |end| end.min(next)));
        Poll::Ready((due <= now).then(|| Ok(self.heartbeat())))
    }

    fn heartbeat(&self) -> Bytes {
        self.metrics.heartbeat();
        self.notice(&Notice::Heartbeat(Heartbeat { time: Some(self.store.now().to_timestamp()) }))
    }

    fn opened(&self) -> Bytes {
        let opened = Opened {
            after_sequence: self.position.place().get(),
            head_sequence: self.target.get(),
            heartbeat_interval: prost_types::Duration::try_from(self.heartbeat).ok(),
            snapshot: matches!(self.position, Position::Snapshot { .. }),
            stream: self.attachment.as_ref().map_or(0, Attachment::stream),
        };
        self.notice(&Notice::Opened(opened))
    }

    fn notice(&self, notice: &Notice) -> Bytes {
        let position = self.position;
        #[cfg(feature = "planted")]
        let position = super::planted::position(notice, position, *self.channel.head.borrow());
        frame::notice(self.cursors, position, notice)
    }
}
