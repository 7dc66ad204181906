//! The reads that the handle offers. Each reads the latest committed state, in a workspace that need not exist.

use super::{
    AsOf, EventRef, Found, Listing, LogBounds, Lookups, PageSize, Store, StoreError, Subject, SubscriptionView,
};
use crate::model::audience_page::AudienceStart;
use crate::model::cursor::Start;
use crate::model::page_token::PageStart;
use crate::model::{AudienceId, Micros, Mpid, Place, Position, ProfileKey, Sequence, SubscriptionName, Workspace};
use crate::proto::v1::{Audience, AudienceMember, IdentitySettings, Profile, Subscription};

impl Store {
    /// Calls `read` with a profile in the latest committed state: see [`super::Snapshot::find`].
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`] or [`StoreError::Corrupt`].
    pub fn find<T>(
        &self,
        workspace: &Workspace,
        key: &ProfileKey,
        read: impl FnOnce(Found<'_>) -> T,
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

    /// Returns the person that a key names, also if the profile was deleted. `None` if there never was one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn subject(&self, workspace: &Workspace, key: &ProfileKey) -> Result<Option<Subject>, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.person(id, key, self.now()),
            None => Ok(None),
        }
    }

    /// Returns the sequence of the merge that absorbed a profile, and the profile as it was. `None` if it was undone.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn merged(&self, workspace: &Workspace, absorbed: Mpid) -> Result<Option<(u64, Profile)>, StoreError> {
        let Some(id) = self.workspace_id(workspace) else { return Ok(None) };
        let record = self.snapshot()?.merge(id, absorbed)?;
        Ok(record.map(|record| (record.sequence, record.absorbed.unwrap_or_default())))
    }

    /// Returns the place before the events of the profile that an mpid names now.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn life_of(&self, workspace: &Workspace, mpid: Mpid) -> Result<Place, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.life_of(id, mpid),
            None => Ok(Place::START),
        }
    }

    /// Returns the identity settings of a workspace.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn identity_settings(&self, workspace: &Workspace) -> Result<IdentitySettings, StoreError> {
        match self.workspace_id(workspace) {
            Some(id) => Ok(self.snapshot()?.identity_settings(id)?.unwrap_or_default()),
            None => Ok(IdentitySettings::default()),
        }
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

    /// Returns a registered audience: see [`super::Snapshot::audience`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::audience`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn audience(&self, workspace: &Workspace, id: AudienceId) -> Result<Audience, StoreError> {
        let workspace = self.workspace_id(workspace).ok_or(StoreError::AudienceNotFound { id })?;
        self.snapshot()?.audience(workspace, id)
    }

    /// Reads a page of a workspace's audiences: see [`super::Snapshot::audiences`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::audiences`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn list_audiences(
        &self,
        workspace: &Workspace,
        start: AudienceStart,
        size: PageSize,
        take: impl FnMut(Audience) -> usize,
    ) -> Result<Option<AudienceId>, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Ok(None) };
        self.snapshot()?.audiences(workspace, start, size, take)
    }

    /// Reads a page of the members of an audience: see [`super::Snapshot::members`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::members`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn list_members(
        &self,
        workspace: &Workspace,
        id: AudienceId,
        start: PageStart,
        size: PageSize,
        take: impl FnMut(AudienceMember) -> usize,
    ) -> Result<Option<Mpid>, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Ok(None) };
        self.snapshot()?.members(workspace, id, start, self.now(), size, take)
    }

    /// Reads a page of the profiles of the members of an audience: see [`super::Snapshot::member_profiles`].
    ///
    /// # Errors
    /// Those of [`super::Snapshot::member_profiles`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn list_member_profiles(
        &self,
        workspace: &Workspace,
        id: AudienceId,
        start: PageStart,
        size: PageSize,
        take: impl FnMut(&[u8]) -> Result<usize, StoreError>,
    ) -> Result<Option<Mpid>, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Ok(None) };
        self.snapshot()?.member_profiles(workspace, id, start, self.now(), size, take)
    }

    /// Prepares the reads of one page of a list: they all see the same committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn listing(&self, workspace: &Workspace) -> Result<Listing<'_>, StoreError> {
        let (id, cursors) = (self.workspace_id(workspace), self.known_cursors(workspace));
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

    /// Returns a durable subscription's settings, and the number of its latest stream. It reads no event.
    ///
    /// # Errors
    /// Those of [`Listing::subscription`], and [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn subscription_settings(
        &self,
        workspace: &Workspace,
        name: &SubscriptionName,
    ) -> Result<(Subscription, u64), StoreError> {
        let found = match self.workspace_id(workspace) {
            Some(id) => self.snapshot()?.subscription_settings(id, name)?,
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
