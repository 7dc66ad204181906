//! The reads of one page of a list: of the log, of one profile's history, or of a snapshot.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::history::HistoryPage;
use super::log::begin_unborn;
use super::{AsOf, EventPage, EventRef, History, LogBounds, PageSize, Snapshot, SubscriptionView, Walks};
use crate::model::cursor::{KnownCursors, Start};
use crate::model::{Filter, Mpid, Place, Position, SubscriptionName};

/// A workspace in one committed state. Retention cannot remove an event between two reads of it.
#[derive(Debug)]
pub struct Listing<'s> {
    snapshot: Snapshot,
    walks: &'s Walks,
    cursors: KnownCursors,
    /// `None` until the workspace's first write.
    workspace: Option<WorkspaceId>,
}

/// A page of events.
#[derive(Debug)]
pub struct ListedEvents {
    /// How far the page has read.
    pub page: EventPage,
    /// Whether the page begins with the oldest event that the log holds, and retention has removed earlier events: of
    /// the log, or of the one profile that the filter names. Also true if such a profile's page has found no event of
    /// it, and therefore cannot tell.
    pub truncated: bool,
}

impl<'s> Listing<'s> {
    pub(in crate::store) fn new(
        snapshot: Snapshot,
        walks: &'s Walks,
        cursors: KnownCursors,
        workspace: Option<WorkspaceId>,
    ) -> Self {
        Self { snapshot, walks, cursors, workspace }
    }

    /// Returns the bounds of the log, and the position where a reader starts: see [`Snapshot::begin`].
    ///
    /// # Errors
    /// Those of [`Snapshot::begin`].
    pub fn begin(&self, start: &Start) -> Result<(LogBounds, Position), StoreError> {
        match self.workspace {
            Some(workspace) => self.snapshot.begin(workspace, &self.cursors, start),
            None => Ok((LogBounds::default(), begin_unborn(&self.cursors, start)?)),
        }
    }

    /// Reads a page of the log after a place, or of one profile's history if the filter names a single profile: see
    /// [`Snapshot::events`].
    ///
    /// # Errors
    /// Those of [`Snapshot::events`].
    pub fn events(
        &self,
        after: Place,
        filter: &Filter,
        size: PageSize,
        take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<ListedEvents, StoreError> {
        let Some(workspace) = self.workspace else {
            return Ok(ListedEvents { page: EventPage { through: after, complete: true }, truncated: false });
        };
        let bounds = self.snapshot.log_bounds(workspace)?;
        self.snapshot.check_held(workspace, bounds, after)?;
        let (through, is_oldest) = (bounds.head, after == bounds.floor && after > Place::START);
        let Some(mpid) = filter.single_mpid() else {
            let page = self.snapshot.events(workspace, after, through, filter, size, take)?;
            return Ok(ListedEvents { page, truncated: is_oldest });
        };
        let history = History { workspace, mpid, after, through, filter };
        let HistoryPage { page, first } = self.snapshot.history(self.walks, history, size, take)?;
        Ok(ListedEvents { page, truncated: is_oldest && self.snapshot.began_by(workspace, mpid, first) })
    }

    /// Reads a page of the profiles as of a place in the log: see `Snapshot::profiles_as_of`.
    ///
    /// # Errors
    /// Those of `Snapshot::profiles_as_of`.
    pub fn profiles_as_of(
        &self,
        as_of: AsOf<'_>,
        size: PageSize,
        take: impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<Position, StoreError> {
        match self.workspace {
            Some(workspace) => self.snapshot.profiles_as_of(&self.walks.parts, workspace, as_of, size, take),
            None => Ok(as_of.of.into()),
        }
    }

    /// Returns a durable subscription.
    ///
    /// # Errors
    /// [`StoreError::SubscriptionNotFound`] or [`StoreError::Corrupt`].
    pub fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionView, StoreError> {
        let found = match self.workspace {
            Some(workspace) => self.snapshot.subscription(workspace, name)?,
            None => None,
        };
        found.ok_or_else(|| StoreError::SubscriptionNotFound { name: name.clone() })
    }
}
