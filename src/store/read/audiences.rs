//! Reads of audiences and their members, from their indexes.
//!
//! - A membership that has ended at the caller's time is not listed, also if the sweep has not reached it yet.
//! - Damage ends a page before it, and the next page fails with [`StoreError::Corrupt`]. The caller may then continue at
//!   the next sound row, as in a list of profiles.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{AudienceRow, ExpiryRow, Kind, MemberRow, Work, audience_key};
use super::super::tables::{self, borrowed, guarded, with_prefix};
use super::Snapshot;
use super::numbered::{Numbered, Start};
use super::page::PageSize;
use super::profiles::served;
use crate::model::audience_page::AudienceStart;
use crate::model::page_token::PageStart;
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::v1::{Audience, AudienceMember};

/// Reads the mpid of a member, and when the membership ends.
type ReadMember = fn(&[u8], &[u8]) -> Result<(i64, Option<Micros>), StoreError>;

impl Snapshot {
    /// Returns a registered audience.
    ///
    /// # Errors
    /// [`StoreError::AudienceNotFound`] or [`StoreError::Corrupt`].
    pub fn audience(&self, workspace: WorkspaceId, id: AudienceId) -> Result<Audience, StoreError> {
        let key = audience_key(workspace, id);
        let row = tables::row(&self.0.audiences, Kind::Audience, &key, AudienceRow::read)?;
        row.and_then(|row| row.message()).ok_or(StoreError::AudienceNotFound { id })
    }

    /// Calls `take` with registered audiences in the order of their ids until the page is full. `take` returns how many
    /// bytes it delivers. Returns the audience after which the next page begins, or `None` after the last page.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the first row of the page is damaged.
    pub fn audiences(
        &self,
        workspace: WorkspaceId,
        start: AudienceStart,
        size: PageSize,
        mut take: impl FnMut(Audience) -> usize,
    ) -> Result<Option<AudienceId>, StoreError> {
        let rows = Numbered {
            table: &self.0.audiences,
            kind: Kind::Audience,
            prefix: workspace.0.to_be_bytes().to_vec(),
            read: |key: &[u8], row: &[u8]| Ok((AudienceRow::id_in(key)?.get(), AudienceRow::read(key, row)?)),
        };
        let start = Start { after: start.after.map(AudienceId::get), over_damage: start.over_damage };
        let is_sound = |_: i64| true;
        let last = rows.page(start, size, is_sound, |_, row| Ok(row.message().map(&mut take)))?;
        Ok(last.and_then(AudienceId::new))
    }

    /// Calls `take` with members of an audience in the order of their mpids until the page is full: see
    /// [`Snapshot::audiences`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the first row of the page is damaged.
    pub fn members(
        &self,
        workspace: WorkspaceId,
        id: AudienceId,
        start: PageStart,
        now: Micros,
        size: PageSize,
        mut take: impl FnMut(AudienceMember) -> usize,
    ) -> Result<Option<Mpid>, StoreError> {
        let is_sound = |_: i64| true;
        let last = self.member_rows(workspace, id).page(start.into(), size, is_sound, |mpid, end| {
            let member = || AudienceMember { mpid, expire_time: end.map(Micros::to_timestamp) };
            Ok((!is_over(end, now)).then(|| take(member())))
        })?;
        Ok(last.and_then(Mpid::new))
    }

    /// Calls `take` with the profiles of members of an audience: see [`Snapshot::profiles`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the first row of the page, or its profile, is damaged.
    pub fn member_profiles(
        &self,
        workspace: WorkspaceId,
        id: AudienceId,
        start: PageStart,
        now: Micros,
        size: PageSize,
        mut take: impl FnMut(&[u8]) -> Result<usize, StoreError>,
    ) -> Result<Option<Mpid>, StoreError> {
        let is_sound = |mpid| self.member_profile(workspace, mpid, now, |_| Ok(())).is_ok();
        let last = self.member_rows(workspace, id).page(start.into(), size, is_sound, |mpid, end| {
            if is_over(end, now) {
                return Ok(None);
            }
            self.member_profile(workspace, mpid, now, &mut take).map(Some)
        })?;
        Ok(last.and_then(Mpid::new))
    }

    fn member_rows(&self, workspace: WorkspaceId, id: AudienceId) -> Numbered<'_, ReadMember> {
        Numbered {
            table: &self.0.members,
            kind: Kind::Member,
            prefix: audience_key(workspace, id),
            read: |key, row| MemberRow::read(key, row).map(|(mpid, end)| (mpid.get(), end)),
        }
    }

    /// Calls `read` with the profile of a member. One that does not exist means that the index is damaged.
    fn member_profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: i64,
        now: Micros,
        read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mpid = Mpid::new(mpid).ok_or(Kind::Member.corrupt())?;
        let found = tables::profile(&self.0.profiles, workspace, mpid, |row| served(&row, now, read))?;
        found.flatten().ok_or(Kind::Member.corrupt())
    }

    /// Returns when the next membership of a workspace ends, or ended if it is still in a profile. `None` if none ends.
    /// A row that cannot be read counts as one that ended long ago: the sweep finds out what can be done.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(in crate::store) fn next_end(&self, workspace: WorkspaceId) -> Result<Option<Micros>, StoreError> {
        let range = with_prefix(&workspace.0.to_be_bytes(), None);
        let read = |key: &[u8], _: &[u8]| Ok(ExpiryRow::parts_in(key).map_or(Micros::new(i64::MIN), |(end, _)| end));
        Ok(tables::rows(&self.0.expiries, Kind::Expiry, &range, 1, read)?.pop())
    }

    /// Returns the audiences of a workspace with work to do, among at most so many after one. Also returns the last of
    /// these if there are more. Damaged rows are passed over.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(in crate::store) fn works(
        &self,
        workspace: WorkspaceId,
        after: Option<AudienceId>,
        most: usize,
    ) -> Result<(Vec<AudienceId>, Option<AudienceId>), StoreError> {
        let after = after.map(|after| audience_key(workspace, after));
        let range = with_prefix(&workspace.0.to_be_bytes(), after.as_deref());
        guarded(Kind::Audience, || {
            let (mut works, mut rows, mut last) = (Vec::new(), 0, None);
            for row in self.0.audiences.range::<&[u8]>(borrowed(&range))? {
                if rows == most {
                    return Ok((works, last));
                }
                let (key, row) = row?;
                rows += 1;
                let Ok(id) = AudienceRow::id_in(key.value()) else { continue };
                last = Some(id);
                if AudienceRow::read(key.value(), row.value()).is_ok_and(|row| row.work != Work::None) {
                    works.push(id);
                }
            }
            Ok((works, None))
        })
    }
}

/// Whether a membership that ends then has ended at `now`.
fn is_over(end: Option<Micros>, now: Micros) -> bool {
    end.is_some_and(|end| end <= now)
}

impl From<PageStart> for Start {
    fn from(start: PageStart) -> Self {
        Self { after: start.after.map(Mpid::get), over_damage: start.over_damage }
    }
}
