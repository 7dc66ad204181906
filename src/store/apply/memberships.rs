//! What a change of a profile's memberships means for the rows of audiences, their members, and the ends of memberships.
//!
//! - A row of the members for each membership of a stored profile, also for one that has ended and that the sweep has
//!   not reached.
//! - The number of an audience's members, in the audience's row. An audience that is not registered has a row as long as
//!   it has members.
//! - A row of the expiries for each profile of which a membership ends.

use super::super::effects::RowTable;
use super::super::error::StoreError;
use super::super::rows::{AudienceRow, ExpiryRow, MemberRow, Work, audience_key, expiry_key, member_key};
use super::draft::{Draft, Looked};
use crate::model::profile::expiry;
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::{Audience, AudienceMembership, Profile};

impl Draft<'_, '_, '_> {
    /// Returns the row of an audience as the command leaves it. An audience without a row has an empty one.
    pub fn audience(&mut self, id: AudienceId) -> Result<&mut AudienceRow, StoreError> {
        if !self.audiences.contains_key(&id) {
            let was = self.context.audience(id)?.unwrap_or_default();
            self.audiences.insert(id, Looked { is: was.clone(), was });
        }
        Ok(&mut self.audiences.get_mut(&id).expect("it was just inserted").is)
    }

    /// Gives new memberships the registered names of their audiences.
    ///
    /// # Errors
    /// [`StoreError::AudienceDeleting`] if the profile joins an audience that is being deleted.
    pub(super) fn name_memberships(&mut self, before: Option<&Profile>, after: &mut Profile) -> Result<(), StoreError> {
        for joined in &mut after.audience_memberships {
            if before.is_some_and(|before| before.audience_memberships.contains(joined)) {
                continue;
            }
            let Some(id) = AudienceId::new(joined.audience_id) else { continue };
            let row = self.audience(id)?;
            if row.work == Work::Deleting {
                return Err(StoreError::AudienceDeleting { id });
            }
            if let Some(audience) = &row.registered {
                joined.audience_name.clone_from(&audience.name);
            }
        }
        Ok(())
    }

    /// Removes memberships of audiences that are being deleted: the profile would leave them anyway.
    pub fn leave_deleted(&mut self, profile: &mut Profile) -> Result<(), StoreError> {
        let mut kept = Vec::with_capacity(profile.audience_memberships.len());
        for membership in profile.audience_memberships.drain(..) {
            let is_deleting = match AudienceId::new(membership.audience_id) {
                Some(id) => self.audience(id)?.work == Work::Deleting,
                None => false,
            };
            if !is_deleting {
                kept.push(membership);
            }
        }
        profile.audience_memberships = kept;
        Ok(())
    }

    /// Returns the registered audiences that a profile is in: of each only its id and its time of creation.
    pub fn registered(&mut self, profile: &Profile) -> Result<Vec<Audience>, StoreError> {
        let mut registered = Vec::new();
        for id in profile.audience_memberships.iter().filter_map(|joined| AudienceId::new(joined.audience_id)) {
            if let Some(Audience { create_time, .. }) = self.audience(id)?.registered {
                registered.push(Audience { audience_id: id.get(), create_time, ..Audience::default() });
            }
        }
        Ok(registered)
    }

    /// Removes from the record of a merge the memberships of audiences that are gone since. Another audience with the same
    /// id is not the one that the profile was in.
    pub fn leave_gone(&mut self, record: &mut MergeRecord) -> Result<(), StoreError> {
        let MergeRecord { absorbed, survivor, merged, audiences, .. } = record;
        for was in audiences {
            let Some(id) = AudienceId::new(was.audience_id) else { continue };
            let is_there = |is: &Audience| is.create_time == was.create_time;
            if !self.audience(id)?.registered.as_ref().is_some_and(is_there) {
                for profile in [&mut *absorbed, &mut *survivor, &mut *merged].into_iter().flatten() {
                    profile.audience_memberships.retain(|membership| membership.audience_id != id.get());
                }
            }
        }
        Ok(())
    }

    /// Writes the rows of the memberships that changed, and counts the members.
    pub(super) fn reindex(
        &mut self,
        mpid: Mpid,
        before: Option<&Profile>,
        after: Option<&Profile>,
    ) -> Result<(), StoreError> {
        let old = before.map_or(&[][..], |profile| &profile.audience_memberships);
        let new = after.map_or(&[][..], |profile| &profile.audience_memberships);
        if old == new {
            return Ok(());
        }
        for left in old.iter().filter(|membership| of_audience(new, membership.audience_id).is_none()) {
            let Some(id) = AudienceId::new(left.audience_id) else { continue };
            match self.audience(id) {
                Ok(row) => row.members = row.members.saturating_sub(1),
                // A person can leave, and be erased, although the audience's own row is damaged.
                Err(StoreError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
            self.put(RowTable::Member, member_key(self.context.workspace, id, mpid), None);
        }
        for joined in new {
            let Some(id) = AudienceId::new(joined.audience_id) else { continue };
            let was = of_audience(old, joined.audience_id);
            if was.is_none() {
                self.audience(id)?.members += 1;
            }
            if was.map(expiry) != Some(expiry(joined)) {
                let key = member_key(self.context.workspace, id, mpid);
                let row = MemberRow::encode(&key, expiry(joined));
                self.put(RowTable::Member, key, Some(row));
            }
        }
        Ok(())
    }

    /// Moves the row of the next end of a membership.
    pub(super) fn expire(&mut self, mpid: Mpid, was: Option<Micros>, is: Option<Micros>) {
        if was == is {
            return;
        }
        let workspace = self.context.workspace;
        if let Some(was) = was {
            self.put(RowTable::Expiry, expiry_key(workspace, was, mpid), None);
        }
        if let Some(is) = is {
            self.effects.next_end = self.effects.next_end.map_or(Some(is), |end| Some(end.min(is)));
            let key = expiry_key(workspace, is, mpid);
            let row = ExpiryRow::encode(&key);
            self.put(RowTable::Expiry, key, Some(row));
        }
    }

    /// Writes the rows of the audiences that changed. One that is neither registered nor has members has no row, and
    /// neither has one that was deleted and whose last member has left.
    pub(super) fn write_audiences(&mut self) {
        for (id, Looked { was, is }) in std::mem::take(&mut self.audiences) {
            if was == is {
                continue;
            }
            let key = audience_key(self.context.workspace, id);
            let is_registered = is.registered.is_some() && is.work != Work::Deleting;
            let row = (is_registered || is.members > 0).then(|| is.encode(&key));
            if row.is_some() && is.work != Work::None {
                self.effects.works.push(id);
            }
            self.put(RowTable::Audience, key, row);
        }
    }
}

fn of_audience(memberships: &[AudienceMembership], id: i64) -> Option<&AudienceMembership> {
    memberships.iter().find(|membership| membership.audience_id == id)
}
