//! The reads that the handle offers. Each reads the latest committed state, in a workspace that need not exist.

use super::{AsOf, EventRef, Listing, LogBounds, Lookups, PageSize, Store, StoreError, SubscriptionView};
use crate::model::cursor::Start;
use crate::model::page_token::PageStart;
use crate::model::{Micros, Mpid, Place, Position, ProfileKey, Sequence, SubscriptionName, Workspace};

impl Store {
    /// Calls `read` with the wire bytes of a profile in the latest committed state: see [`super::Snapshot::profile`].
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`] or [`StoreError::Corrupt`].
    pub fn find<T>(
        &self,
        workspace: &Workspace,
        key: &ProfileKey,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        self.lookups(workspace)?.find(key, read)
    }

    /// Prepares several lookups that all see the same committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn lookups(&self, workspace: &Workspace) -> Result<Lookups, StoreError> {
        let workspace = self.workspace_id(workspace);
        Ok(Lookups::new(self.snapshot()?, workspace, self.now()))
    }

    /// Reads a page of a workspace's profiles: see [`super::Snapshot::profiles`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::profiles`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn list_profiles(
        &self,
        workspace: &Workspace,
        start: PageStart,
        size: PageSize,
        take: impl FnMut(&[u8]) -> Result<usize, StoreError>,
    ) -> Result<Option<Mpid>, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Ok(None) };
        self.snapshot()?.profiles(workspace, start, self.now(), size, take)
    }

    /// Prepares the reads of one page of a list: they all see the same committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn listing(&self, workspace: &Workspace) -> Result<Listing<'_>, StoreError> {
        let (id, cursors) = (self.workspace_id(workspace), self.cursors(workspace));
        Ok(Listing::new(self.snapshot()?, &self.walks, cursors, id))
    }

    /// Returns the bounds of a workspace's log, and the position where a reader starts: see [`Listing::begin`].
    ///
    /// # Errors
    /// Those of [`Listing::begin`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn begin(&self, workspace: &Workspace, start: &Start) -> Result<(LogBounds, Position), StoreError> {
        self.listing(workspace)?.begin(start)
    }

    /// Returns a durable subscription: see [`Listing::subscription`].
    ///
    /// # Errors
    /// Those of [`Listing::subscription`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn subscription(&self, workspace: &Workspace, name: &SubscriptionName) -> Result<SubscriptionView, StoreError> {
        self.listing(workspace)?.subscription(name)
    }

    /// Returns the time of the oldest event that the log holds after a place. `None` if there is none, or it is
    /// damaged.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn oldest_after(&self, workspace: &Workspace, place: Place) -> Result<Option<Micros>, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.oldest_after(id, place),
            None => Ok(None),
        }
    }

    /// Reads one event.
    ///
    /// # Errors
    /// [`StoreError::EventNotFound`], [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn event<T>(
        &self,
        workspace: &Workspace,
        sequence: Sequence,
        read: impl FnOnce(EventRef<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let unborn = StoreError::EventNotFound { floor: Place::START, head: Place::START };
        let id = self.workspace_id(workspace).ok_or(unborn)?;
        let snapshot = self.snapshot()?;
        let LogBounds { floor, head, .. } = snapshot.log_bounds(id)?;
        let place = Place::from(sequence);
        if place <= floor || place > head {
            return Err(StoreError::EventNotFound { floor, head });
        }
        snapshot.event(id, sequence, read)
    }

    /// Reads a page of a workspace's profiles as of a place in the log: see [`Listing::profiles_as_of`].
    ///
    /// # Errors
    /// Those of [`Listing::profiles_as_of`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn profiles_as_of(
        &self,
        workspace: &Workspace,
        as_of: AsOf<'_>,
        size: PageSize,
        take: impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<Position, StoreError> {
        self.listing(workspace)?.profiles_as_of(as_of, size, take)
    }
}
