//! The reads that the handle offers. Each reads the latest committed state, in a workspace that need not exist.

use super::read::History;
use super::{AsOf, EventPage, EventRef, LogBounds, Lookups, PageSize, Store, StoreError, SubscriptionView, read};
use crate::model::cursor::Start;
use crate::model::page_token::PageStart;
use crate::model::{Filter, Micros, Mpid, Place, Position, ProfileKey, Sequence, SubscriptionName, Workspace};

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

    /// Returns the bounds of a workspace's log, and the position where a reader starts: see [`super::Snapshot::begin`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::begin`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn begin(&self, workspace: &Workspace, start: &Start) -> Result<(LogBounds, Position), StoreError> {
        let cursors = self.cursors(workspace);
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.begin(id, cursors, start),
            None => Ok((LogBounds::default(), read::begin_unborn(cursors, start)?)),
        }
    }

    /// Returns whether a profile had events at or before a place.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn has_events_before(&self, workspace: &Workspace, mpid: Mpid, place: Place) -> Result<bool, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.has_events_before(id, mpid, place),
            None => Ok(false),
        }
    }

    /// Reads a page of a workspace's log, or of one profile's history if the filter names a single profile: see
    /// [`super::Snapshot::events`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::events`], [`StoreError::Closed`] or [`StoreError::Failed`], and
    /// [`StoreError::Invalid`] if `start` is not a place in the log.
    pub fn list_events(
        &self,
        workspace: &Workspace,
        start: &Start,
        filter: &Filter,
        size: PageSize,
        take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let (bounds, position) = self.begin(workspace, start)?;
        let after = position.place();
        let Some(workspace) = self.workspace_id(workspace) else {
            return Ok(EventPage { through: after, complete: true });
        };
        let snapshot = self.snapshot()?;
        match filter.single_mpid() {
            Some(mpid) => {
                let history = History { workspace, mpid, after, through: bounds.head, filter };
                snapshot.history(&self.walks, history, size, take)
            }
            None => snapshot.events(workspace, after, bounds.head, filter, size, take),
        }
    }

    /// Returns a durable subscription.
    ///
    /// # Errors
    /// [`StoreError::SubscriptionNotFound`], [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn subscription(&self, workspace: &Workspace, name: &SubscriptionName) -> Result<SubscriptionView, StoreError> {
        let found = match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.subscription(id, name)?,
            None => None,
        };
        found.ok_or_else(|| StoreError::SubscriptionNotFound { name: name.clone() })
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

    /// Reads a page of a workspace's profiles as of a place in the log: see [`super::Snapshot::profiles_as_of`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::profiles_as_of`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn profiles_as_of(
        &self,
        workspace: &Workspace,
        as_of: AsOf<'_>,
        size: PageSize,
        take: impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<Position, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.profiles_as_of(id, as_of, size, take),
            None => Ok(as_of.of.into()),
        }
    }
}
