//! Lookups and lists of profiles.
//!
//! - Every profile is served as of the caller's time: expired memberships are removed.
//! - A list leaves nothing out silently. Damage ends a page before it, and the next page fails with
//!   [`StoreError::Corrupt`]. The caller may then continue at the next sound row.

use std::ops::{Bound, ControlFlow};

use super::super::WorkspaceId;
use super::super::error::{Past, StoreError};
use super::super::rows::{Held, Kind, ProfileRow, stored_mpid};
use super::super::tables::{self, guarded};
use super::Snapshot;
use super::page::{Budget, PageSize, ROWS};
use crate::model::identity::{self, ParsedIdentity};
use crate::model::page_token::PageStart;
use crate::model::profile::remove_expired;
use crate::model::{IdentityKey, Micros, Mpid, ProfileKey};
use crate::proto::v1::Profile;
use prost::Message;

/// A profile that a key names.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Encoded `Profile`.
    pub profile: &'a [u8],
    /// The mpid in the key, if that profile was absorbed by this one.
    pub redirected_from: Option<Mpid>,
}

/// What a row leads to.
enum Led<T> {
    To(Mpid),
    Read(Option<T>),
}

/// Lookups in one state of one workspace.
#[derive(Debug)]
pub struct Lookups {
    snapshot: Snapshot,
    /// `None` until the workspace's first write.
    workspace: Option<WorkspaceId>,
    now: Micros,
}

impl Lookups {
    pub(in crate::store) fn new(snapshot: Snapshot, workspace: Option<WorkspaceId>, now: Micros) -> Self {
        Self { snapshot, workspace, now }
    }

    /// See [`Snapshot::find`].
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`] or [`StoreError::Corrupt`].
    pub fn find<T>(&self, key: &ProfileKey, read: impl FnOnce(Found<'_>) -> T) -> Result<T, StoreError> {
        let workspace = self.workspace.ok_or_else(|| StoreError::not_found(key))?;
        self.snapshot.find(workspace, key, self.now, read)
    }
}

impl Snapshot {
    /// Calls `read` with the wire bytes of a profile as of `now`: expired memberships are not in it. The result of
    /// `read` must not refer to these bytes, because it would keep the snapshot.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        now: Micros,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.served_profile(workspace, mpid, now, |profile| Ok(read(profile)))
    }

    /// Does the same as [`Snapshot::profile`], by mpid or by identity. The mpid of an absorbed profile names the survivor.
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`] or [`StoreError::Corrupt`].
    pub fn find<T>(
        &self,
        workspace: WorkspaceId,
        key: &ProfileKey,
        now: Micros,
        read: impl FnOnce(Found<'_>) -> T,
    ) -> Result<T, StoreError> {
        let found = match key {
            ProfileKey::Mpid(mpid) => self.find_by_mpid(workspace, *mpid, now, read)?,
            ProfileKey::Identity(ParsedIdentity { key, .. }) => {
                let read = |profile: &[u8]| read(Found { profile, redirected_from: None });
                self.find_by_identity(workspace, key, now, read)?
            }
        };
        found.ok_or_else(|| StoreError::not_found(key))
    }

    fn find_by_mpid<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        now: Micros,
        read: impl FnOnce(Found<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        let mut read = Some(read);
        let mut found = |profile: &[u8], redirected_from| {
            let read = read.take().expect("a profile is found once");
            Ok(read(Found { profile, redirected_from }))
        };
        let led = tables::profile(&self.0.profiles, workspace, mpid, |row| match row.held {
            Held::Redirect(to) => Ok(Led::To(to)),
            _ => served(&row, now, |profile| found(profile, None)).map(Led::Read),
        })?;
        match led {
            None => Ok(None),
            Some(Led::Read(read)) => Ok(read),
            Some(Led::To(to)) => {
                let survivor = self.served_profile(workspace, to, now, |profile| found(profile, Some(mpid)))?;
                survivor.map_or(Err(Kind::Profile.corrupt()), |survivor| Ok(Some(survivor)))
            }
        }
    }

    /// The index has only the identity's hash, so the profile that it leads to is checked for the identity.
    fn find_by_identity<T>(
        &self,
        workspace: WorkspaceId,
        key: &IdentityKey,
        now: Micros,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let Some(owner) = self.owner(workspace, key)? else { return Ok(None) };
        let found = self.served_profile(workspace, owner, now, |profile| {
            let owns = identity::owns(profile, key).map_err(|_| Kind::Profile.corrupt())?;
            if owns { Ok(read(profile)) } else { Err(Kind::Identity.corrupt()) }
        })?;
        found.map_or(Err(Kind::Identity.corrupt()), |found| Ok(Some(found)))
    }

    /// Returns the mpid of the profile that owns an identity.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(in crate::store) fn owner(
        &self,
        workspace: WorkspaceId,
        key: &IdentityKey,
    ) -> Result<Option<Mpid>, StoreError> {
        tables::owner(&self.0.identities, workspace, self.0.secret.hash(workspace, key))
    }

    fn served_profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        now: Micros,
        read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let found = tables::profile(&self.0.profiles, workspace, mpid, |row| served(&row, now, read))?;
        Ok(found.flatten())
    }

    /// Calls `take` with profiles in the order of their mpids until the page is full. `take` returns how many bytes it
    /// delivers of a profile. Returns the profile after which the next page begins, or `None` after the last page.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the first row of the page is damaged. [`PageStart::over_damage`] continues behind it.
    pub fn profiles(
        &self,
        workspace: WorkspaceId,
        start: PageStart,
        now: Micros,
        size: PageSize,
        mut take: impl FnMut(&[u8]) -> Result<usize, StoreError>,
    ) -> Result<Option<Mpid>, StoreError> {
        let PageStart { after, over_damage } = start;
        let first = if over_damage { self.next_sound(workspace, after)? } else { None };
        if over_damage && first.is_none() {
            return Ok(None);
        }
        let from = match (first, after) {
            (Some(first), _) => Bound::Included((workspace.0, first.get())),
            (None, Some(after)) => Bound::Excluded((workspace.0, after.get())),
            (None, None) => Bound::Included((workspace.0, i64::MIN)),
        };
        let mut last = after;
        let mut read =
            |_: Mpid, row: &ProfileRow<'_>, _: &mut Budget| served(row, now, &mut take).map(ControlFlow::Continue);
        match guarded(Kind::Profile, || self.read_profiles(workspace, start, size, from, &mut last, &mut read)) {
            Ok(more) => Ok(last.filter(|_| more)),
            Err(StoreError::Corrupt { .. }) if last > after => Ok(last), // The next page begins at the damage.
            Err(StoreError::Corrupt { table, .. }) => Err(StoreError::Corrupt { table, past: Some(Past::Profile) }),
            Err(other) => Err(other),
        }
    }

    /// Calls `read` with the rows of one page, and moves `last` to each that was read. `read` returns how many bytes it
    /// delivers of the row, and may count further rows that it reads. If it breaks, the page ends before the row. Returns
    /// whether there are more.
    pub(super) fn read_profiles(
        &self,
        workspace: WorkspaceId,
        PageStart { after, over_damage }: PageStart,
        size: PageSize,
        from: Bound<(u32, i64)>,
        last: &mut Option<Mpid>,
        read: &mut impl FnMut(Mpid, &ProfileRow<'_>, &mut Budget) -> Result<ControlFlow<(), Option<usize>>, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut budget = Budget::new(size);
        if !over_damage {
            self.check_before(from)?;
        }
        // The row after the workspace's last is verified too, because a damaged key could look like the end.
        for row in self.0.profiles.range((from, Bound::Unbounded))? {
            let (key, row) = row?;
            let (of, mpid) = key.value();
            let mpid = stored_mpid(mpid, Kind::Profile)?;
            let row = ProfileRow::read(WorkspaceId(of), mpid, row.value())?;
            if of > workspace.0 {
                return Ok(false);
            }
            if !budget.take_row() {
                return Ok(true);
            }
            if *last == after && of == workspace.0 && Some(mpid) <= after {
                continue; // A damaged page above led to rows before the first.
            }
            if of < workspace.0 || last.is_some_and(|last| last >= mpid) {
                return Err(Kind::Profile.corrupt());
            }
            let ControlFlow::Continue(bytes) = read(mpid, &row, &mut budget)? else { return Ok(true) };
            budget.deliver(bytes);
            *last = Some(mpid);
        }
        Ok(false)
    }

    /// Checks that the pages above the first row are sound. A damaged one could lead to rows behind the first, and skip
    /// it silently. The row before the ones that it led to reveals that.
    fn check_before(&self, from: Bound<(u32, i64)>) -> Result<(), StoreError> {
        let (Bound::Included(from) | Bound::Excluded(from)) = from else { return Ok(()) };
        let Some((key, row)) = self.0.profiles.range(..=from)?.next_back().transpose()? else { return Ok(()) };
        let (workspace, mpid) = key.value();
        ProfileRow::read(WorkspaceId(workspace), stored_mpid(mpid, Kind::Profile)?, row.value())?;
        if key.value() <= from { Ok(()) } else { Err(Kind::Profile.corrupt()) }
    }

    /// Returns the next profile whose row is sound.
    pub(super) fn next_sound(&self, workspace: WorkspaceId, after: Option<Mpid>) -> Result<Option<Mpid>, StoreError> {
        match guarded(Kind::Profile, || self.walk_to_sound(workspace, after)) {
            Err(StoreError::Corrupt { .. }) => Ok(self.leap_to_sound(workspace, after)),
            walked => walked,
        }
    }

    /// Tries row by row, as far as the pages can be read.
    fn walk_to_sound(&self, workspace: WorkspaceId, after: Option<Mpid>) -> Result<Option<Mpid>, StoreError> {
        let from = (workspace.0, after.map_or(i64::MIN, Mpid::get));
        for row in self.0.profiles.range(from..)?.take(ROWS) {
            let (key, row) = row?;
            let (of, mpid) = key.value();
            let sound = Mpid::new(mpid).filter(|mpid| ProfileRow::read(WorkspaceId(of), *mpid, row.value()).is_ok());
            match sound {
                Some(_) if of > workspace.0 => return Ok(None),
                Some(mpid) if of == workspace.0 && Some(mpid) > after => return Ok(Some(mpid)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Finds the end of an unreadable page by bisection between it and the workspace's last profile.
    fn leap_to_sound(&self, workspace: WorkspaceId, after: Option<Mpid>) -> Option<Mpid> {
        let from = after.map_or(i64::MIN, Mpid::get);
        let probe = |distance: u64| {
            let at = from.checked_add_unsigned(distance)?;
            let found = guarded(Kind::Profile, || {
                let row = self.0.profiles.range((workspace.0, at)..)?.next().transpose()?;
                Ok(row.and_then(|(key, row)| sound_mpid(key.value(), row.value(), workspace)))
            });
            found.ok().flatten().filter(|mpid| mpid.get() >= at)
        };
        let last = guarded(Kind::Profile, || {
            let row =
                self.0.profiles.range((workspace.0, i64::MIN)..=(workspace.0, i64::MAX))?.next_back().transpose()?;
            Ok(row.and_then(|(key, row)| sound_mpid(key.value(), row.value(), workspace)))
        });
        let last = last.ok().flatten()?;
        let (mut too_near, mut far_enough) = (0, last.get().abs_diff(from));
        while far_enough.saturating_sub(too_near) > 1 {
            let middle = too_near + (far_enough - too_near) / 2;
            if probe(middle).is_some() { far_enough = middle } else { too_near = middle }
        }
        probe(far_enough).filter(|mpid| Some(*mpid) > after)
    }
}

/// Returns the mpid of a row that is sound and belongs to the workspace.
fn sound_mpid((of, mpid): (u32, i64), row: &[u8], workspace: WorkspaceId) -> Option<Mpid> {
    let mpid = Mpid::new(mpid).filter(|_| of == workspace.0)?;
    ProfileRow::read(workspace, mpid, row).ok().map(|_| mpid)
}

/// Calls `read` with a profile as of `now`. Returns `None` if the row holds no profile.
pub(super) fn served<T>(
    row: &ProfileRow<'_>,
    now: Micros,
    read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let Some(profile) = row.profile() else { return Ok(None) };
    if row.next_expiry.is_none_or(|expiry| expiry > now) {
        return read(profile).map(Some);
    }
    let mut profile = Profile::decode(profile).map_err(|_| Kind::Profile.corrupt())?;
    remove_expired(&mut profile, now);
    read(&profile.encode_to_vec()).map(Some)
}
