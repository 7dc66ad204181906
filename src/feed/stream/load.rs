//! What a stream reads at once.
//!
//! An erasure makes invalid what was read before it, because that may hold values that are gone. Erasures may follow each
//! other for long, and the stream must get on meanwhile:
//! - A read counts the erasures when its turn has come, so it may wait for its turn for as long as it must.
//! - What a batch passed over is never read again, also if the batch is given up: a stream that got there sooner would
//!   not have sent it either.
//! - The batch after one that was given up is half as large, down to a single event or profile, and takes less time to
//!   read. Each run of frames that is sent lets the batches grow again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::super::segment::{SEGMENT_BYTES, SEGMENT_EVENTS, Segment};
use super::super::snapshot;
use super::{Phase, Subscriber};
use crate::model::{Place, Position};
use crate::store::{PageSize, ReadClass, Store, StoreError};
use crate::telemetry::metrics::Load;

/// A batch that was halved so often holds one event or one profile.
const MOST_HALVINGS: u32 = SEGMENT_EVENTS.ilog2();

/// What was read, and how many of its entries have been handed out or passed over.
pub(super) enum Batch {
    Events(Arc<Segment>, usize),
    /// Boxed: it is large, and most streams never have one.
    Profiles(Box<snapshot::Page>, usize),
}

/// A read, which counts the erasures before it begins.
pub(super) type Loading = Pin<Box<dyn Future<Output = Result<(u64, Batch), StoreError>> + Send>>;

impl Batch {
    /// The position before the entry that would be handed out next: everything up to it has been, or does not match.
    fn passed(&self) -> Position {
        match self {
            Self::Events(segment, at) => match segment.entries.get(*at) {
                Some(next) => Place::after(next.sequence.get() - 1).into(),
                None => segment.through.into(),
            },
            Self::Profiles(page, from) => page.passed(*from),
        }
    }
}

impl Subscriber {
    /// The last place that the batch may reach. While the stream catches up, that is where the log ended when it was
    /// opened.
    pub(super) fn limit(&self) -> Place {
        if self.phase == Phase::Live { Place::LAST } else { self.target }
    }

    /// Gives up the batch, because it was read before an erasure.
    pub(super) fn discard(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        self.halvings = MOST_HALVINGS.min(self.halvings + 1);
        let passed = match batch.passed() {
            Position::Log(place) => place.min(self.limit()).into(),
            in_snapshot @ Position::Snapshot { .. } => in_snapshot,
        };
        self.position = self.position.max(passed);
    }

    /// The batch after the position: from the ring, or else from the store.
    pub(super) fn poll_load(&mut self, context: &mut Context<'_>) -> Poll<Result<Batch, StoreError>> {
        let loading = match self.loading.take() {
            Some(loading) => loading,
            None => match self.load() {
                Ok((erasures, segment)) => {
                    self.erasures = erasures;
                    return Poll::Ready(Ok(Batch::Events(segment, 0)));
                }
                Err(loading) => loading,
            },
        };
        let loaded = ready!(self.loading.insert(loading).as_mut().poll(context));
        self.loading = None;
        Poll::Ready(loaded.map(|(erasures, batch)| {
            self.erasures = erasures;
            batch
        }))
    }

    /// A segment of the ring, or else what loads the next batch.
    fn load(&self) -> Result<(u64, Arc<Segment>), Loading> {
        let (of, after) = match self.position {
            Position::Snapshot { of, after } => (of, after),
            Position::Log(place) => return self.load_events(place),
        };
        let (workspace, cursors, view, size) =
            (self.workspace.clone(), self.cursors, Arc::clone(&self.view), self.size());
        Err(self.on_pool(move |store| {
            let page = snapshot::read(store, &workspace, cursors, of, after, &view, size)?;
            Ok(Batch::Profiles(Box::new(page), 0))
        }))
    }

    fn load_events(&self, after: Place) -> Result<(u64, Arc<Segment>), Loading> {
        let (cursors, view) = (self.cursors, Arc::clone(&self.view));
        let erasures = self.channel.erasures(); // Before the ring is read.
        if let Some(source) = self.channel.segment_after(after) {
            self.metrics.loaded(Load::Ring);
            return match (view.is_plain(&source), view.is_costly()) {
                (true, _) => Ok((erasures, source)),
                (false, false) => Ok((erasures, view.of(cursors, &source))),
                (false, true) => {
                    Err(self.waiting(move |_| Ok((erasures, Batch::Events(view.of(cursors, &source), 0)))))
                }
            };
        }
        self.metrics.loaded(Load::Log);
        let (workspace, head, size) = (self.workspace.clone(), self.head, self.size());
        Err(self.on_pool(move |store| {
            view.read(store, &workspace, cursors, after, head, size).map(|segment| Batch::Events(segment, 0))
        }))
    }

    fn size(&self) -> PageSize {
        PageSize { items: SEGMENT_EVENTS >> self.halvings, bytes: SEGMENT_BYTES >> self.halvings }
    }

    /// Reads the store when the read's turn has come.
    fn on_pool(&self, read: impl FnOnce(&Store) -> Result<Batch, StoreError> + Send + 'static) -> Loading {
        let channel = Arc::clone(&self.channel);
        self.waiting(move |store| {
            let erasures = channel.erasures(); // Before the read: an erasure during the read makes it invalid.
            read(store).map(|batch| (erasures, batch))
        })
    }

    fn waiting(&self, read: impl FnOnce(&Store) -> Result<(u64, Batch), StoreError> + Send + 'static) -> Loading {
        let (store, workspace) = (Arc::clone(&self.store), self.workspace.clone());
        Box::pin(async move { store.on_read_pool(ReadClass::Feed, Some(&workspace), read).await })
    }
}
