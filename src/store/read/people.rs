//! Who owns which identities, how a workspace resolves them, and what an erasure would remove.

use super::super::WorkspaceId;
use super::super::erasure::{Bounds, Chains, Link, Person, Plan, plan};
use super::super::error::StoreError;
use super::super::resolution::{Owners, Resolution};
use super::super::rows::{
    AbsorbedRow, EventRow, Held, IdentitySettingsRow, Kind, MergeRow, identity_settings_key, merge_key, survivor_key,
};
use super::super::tables::{self, with_prefix};
use super::Snapshot;
use crate::command::Identify;
use crate::model::identity::keys_of;
use crate::model::{EventKind, IdentityKey, IdentitySettings, Micros, Mpid, Place, ProfileKey, Sequence};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::{self, IdentifyProfileResponse, InvolvedOutcome, OnConflict, Profile};
use prost::Message;
use redb::ReadableTableMetadata;

/// A workspace in one state.
struct In<'s> {
    snapshot: &'s Snapshot,
    workspace: WorkspaceId,
    floor: Place,
}

/// An answer of `IdentifyProfile` that needs no write.
#[derive(Debug)]
pub struct Identified {
    /// The profile.
    pub mpid: Mpid,
    /// Encoded `Profile`.
    pub profile: Vec<u8>,
    /// The place after the profile's latest event.
    pub place: Place,
    /// The part of the response that explains.
    pub explanation: IdentifyProfileResponse,
}

/// A person: a profile, and those that it has absorbed.
#[derive(Debug)]
pub struct Subject {
    /// The mpid of the profile.
    pub mpid: Mpid,
    /// The profile. `None` if it was deleted.
    pub profile: Option<Profile>,
    /// The profiles that it has absorbed, in the order of their mpids, each with the one that it was merged into.
    pub merges: Vec<(Mpid, Mpid)>,
    /// The mpids of the person: that of the profile first.
    pub mpids: Vec<Mpid>,
}

impl Snapshot {
    /// Returns the identity settings of a workspace, as they are stored. `None` if they never changed.
    pub(in crate::store) fn identity_settings(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<v1::IdentitySettings>, StoreError> {
        if self.0.identity_settings.is_empty()? {
            return Ok(None); // The common case costs no search.
        }
        let key = identity_settings_key(workspace);
        tables::row(&self.0.identity_settings, Kind::IdentitySettings, &key, IdentitySettingsRow::read)
    }

    /// Answers a call of `IdentifyProfile` that changes nothing. `None` if it changes something, or is refused: that is
    /// for the writer to do.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn identify(
        &self,
        workspace: WorkspaceId,
        identify: &Identify,
        now: Micros,
        limits: &crate::model::Limits,
    ) -> Result<Option<Identified>, StoreError> {
        let settings = self.identity_settings(workspace)?;
        let settings = settings.map(|settings| IdentitySettings::parse("settings", settings)).transpose();
        let settings = settings.map_err(|_| Kind::IdentitySettings.corrupt())?.unwrap_or_default();
        let here = In { snapshot: self, workspace, floor: Place::START };
        let Ok(mut resolution) = Resolution::of(&here, &settings, &identify.identities) else { return Ok(None) };
        let Some(mpid) = resolution.found else { return Ok(None) };
        let is_alone = resolution.others.is_empty();
        let has = if resolution.free.is_empty() && is_alone { Vec::new() } else { here.identities_of(mpid)? };
        match identify.on_conflict {
            OnConflict::Merge if !here.keep_others(&settings, &mut resolution, &has)? => return Ok(None),
            OnConflict::Fail if !is_alone => return Ok(None),
            _ => {}
        }
        if !resolution.link(&settings, &identify.identities, &has).is_empty() {
            return Ok(None);
        }
        let read = tables::profile(&self.0.profiles, workspace, mpid, |row| {
            let place = Place::from(row.last_event);
            super::profiles::served(&row, now, |profile| Ok((profile.to_vec(), place)))
        })?;
        let (profile, place) = read.flatten().ok_or(Kind::Identity.corrupt())?;
        if !identify.patch.is_empty() {
            let before = Profile::decode(&*profile).map_err(|_| Kind::Profile.corrupt())?;
            let mut after = before.clone();
            let applied = identify.patch.check_as_of(now).and_then(|()| identify.patch.apply(&mut after, limits));
            if applied.is_err() || after != before {
                return Ok(None);
            }
        }
        Ok(Some(Identified { mpid, profile, place, explanation: resolution.explain() }))
    }

    /// Returns what a merge needs to be undone.
    pub(in crate::store) fn merge(
        &self,
        workspace: WorkspaceId,
        absorbed: Mpid,
    ) -> Result<Option<MergeRecord>, StoreError> {
        tables::row(&self.0.merges, Kind::Merge, &merge_key(workspace, absorbed), MergeRow::read)
    }

    /// Returns the profiles that one has absorbed, directly or not, each with the one that it was merged into.
    pub(in crate::store) fn absorbed(
        &self,
        workspace: WorkspaceId,
        survivor: Mpid,
    ) -> Result<Vec<(Mpid, Mpid)>, StoreError> {
        let range = with_prefix(&survivor_key(workspace, survivor), None);
        tables::rows(&self.0.absorbed, Kind::Absorbed, &range, usize::MAX, AbsorbedRow::read)
    }

    /// Returns the person that a key names, also if the profile is gone.
    pub(in crate::store) fn person(
        &self,
        workspace: WorkspaceId,
        key: &ProfileKey,
        now: Micros,
    ) -> Result<Option<Subject>, StoreError> {
        let Some((mpid, latest)) = self.subject(workspace, key)? else { return Ok(None) };
        let profile = self.profile(workspace, mpid, now, |profile| Profile::decode(profile))?.transpose();
        let profile = profile.map_err(|_| Kind::Profile.corrupt())?;
        let merges = self.absorbed(workspace, mpid)?;
        let absorbed = match profile {
            Some(_) => merges.iter().map(|(absorbed, _)| *absorbed).collect(),
            // The log tells of those that a profile had absorbed that was deleted.
            None => self.plan_erasure(workspace, (mpid, latest), [usize::MAX; 2])?.mpids,
        };
        let others = absorbed.into_iter().filter(|absorbed| *absorbed != mpid);
        let mpids = std::iter::once(mpid).chain(others).collect();
        Ok(Some(Subject { mpid, profile, merges, mpids }))
    }

    /// Returns the place before the events of the profile that an mpid names now, or that of an absorbed one. An mpid may
    /// be used again after a profile was deleted: those events are not of this person. If there is no profile, all
    /// events are.
    pub(in crate::store) fn life_of(&self, workspace: WorkspaceId, mpid: Mpid) -> Result<Place, StoreError> {
        let row = tables::profile(&self.0.profiles, workspace, mpid, |row| {
            Ok((row.last_event, !matches!(row.held, Held::Tombstone)))
        })?;
        let Some((latest, true)) = row else { return Ok(Place::START) };
        let (floor, mut next) = (self.log_bounds(workspace)?.floor, Some(latest));
        while let Some(sequence) = next.filter(|next| Place::from(*next) > floor) {
            let read = |row: EventRow<'_>| {
                let is_end = matches!(row.kind, EventKind::Deleted | EventKind::Erased) && row.mpid == mpid;
                Ok((is_end, row.before(mpid, sequence)?))
            };
            let (is_end, previous) =
                tables::event(&self.0.events, workspace, sequence, read)?.ok_or(Kind::Event.corrupt())?;
            if is_end {
                return Ok(sequence.into());
            }
            next = previous;
        }
        Ok(Place::START)
    }

    /// Returns the mpid that a key names, and its latest event, also if the profile is gone.
    pub(in crate::store) fn subject(
        &self,
        workspace: WorkspaceId,
        key: &ProfileKey,
    ) -> Result<Option<(Mpid, Sequence)>, StoreError> {
        let named = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(identity) => self.owner(workspace, &identity.key)?,
        };
        let Some(named) = named else { return Ok(None) };
        let row = |mpid| {
            tables::profile(&self.0.profiles, workspace, mpid, |row| match row.held {
                Held::Redirect(to) => Ok((to, row.last_event)),
                Held::Profile(_) | Held::Tombstone => Ok((mpid, row.last_event)),
            })
        };
        match row(named)? {
            Some((to, _)) if to != named => row(to),
            found => Ok(found),
        }
    }

    /// Plans an erasure: see [`plan`]. At most so many events that do not tell where else to look, and that do.
    pub(in crate::store) fn plan_erasure(
        &self,
        workspace: WorkspaceId,
        (mpid, latest): (Mpid, Sequence),
        [most, telling]: [usize; 2],
    ) -> Result<Plan, StoreError> {
        let here = In { snapshot: self, workspace, floor: self.log_bounds(workspace)?.floor };
        let identities = tables::profile(&self.0.profiles, workspace, mpid, |row| {
            let profile = row.profile().map(Profile::decode).transpose().map_err(|_| Kind::Profile.corrupt())?;
            Ok(profile.as_ref().map(keys_of))
        })?;
        let person = Person { mpid, latest, identities: identities.flatten().unwrap_or_default() };
        plan(&here, person, Bounds { read_to: Place::START, most, telling, links: usize::MAX, bytes: usize::MAX })
    }
}

impl In<'_> {
    /// Whether all other owners are other persons than the match, which has these identities. So none is merged into it.
    fn keep_others(
        &self,
        settings: &IdentitySettings,
        resolution: &mut Resolution,
        has: &[IdentityKey],
    ) -> Result<bool, StoreError> {
        for (mpid, involved) in &mut resolution.others {
            if involved.outcome == InvolvedOutcome::Kept {
                if settings.contradiction(has, &self.identities_of(*mpid)?).is_none() {
                    return Ok(false);
                }
                involved.outcome = InvolvedOutcome::Contradicts;
            }
        }
        Ok(true)
    }
}

impl Owners for In<'_> {
    fn owner_of(&self, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        self.snapshot.owner(self.workspace, key)
    }

    fn identities_of(&self, mpid: Mpid) -> Result<Vec<IdentityKey>, StoreError> {
        let read = tables::profile(&self.snapshot.0.profiles, self.workspace, mpid, |row| {
            let profile = row.profile().ok_or(Kind::Identity.corrupt())?;
            Ok(keys_of(&Profile::decode(profile).map_err(|_| Kind::Profile.corrupt())?))
        })?;
        read.ok_or(Kind::Identity.corrupt())
    }
}

impl Chains for In<'_> {
    fn floor(&self) -> Place {
        self.floor
    }

    fn link(&self, sequence: Sequence) -> Result<Link, StoreError> {
        let link = tables::event(&self.snapshot.0.events, self.workspace, sequence, |row| Link::read(&row))?;
        link.ok_or(Kind::Event.corrupt())
    }

    fn latest(&self, mpid: Mpid) -> Result<Option<Sequence>, StoreError> {
        tables::profile(&self.snapshot.0.profiles, self.workspace, mpid, |row| Ok(row.last_event))
    }
}
