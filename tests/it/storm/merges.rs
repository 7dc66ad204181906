//! What the events of merges and of takes must say, besides what every event says of its change.

use std::collections::{BTreeMap, BTreeSet};

use cameo::proto::v1::*;

use super::audiences::Audiences;
use super::changes::{has_ended, wrong_change};
use super::log::Profiles;

/// What is known from earlier events.
#[derive(Default)]
pub struct Merges {
    /// What each absorbed profile was, the profile that absorbed it, and the event by which. It was in no audience that
    /// was being deleted.
    absorbed: BTreeMap<i64, (i64, Profile, u64)>,
    /// The events of restored profiles, and those of their merges.
    pub restored: Vec<(u64, u64)>,
    /// The profiles that have just lost identities, and those that they lost, to the profile of the next event.
    losers: Vec<(i64, Vec<Identity>)>,
    taken_by: i64,
    /// The survivor of a merge that was just undone, and the profile whose event comes next.
    parted: Option<(i64, i64)>,
}

impl Merges {
    /// Which part of an event does not say what changed, if one does not.
    pub fn wrong_change(&mut self, profiles: &Profiles, audiences: &Audiences, event: &Event) -> Option<&'static str> {
        let before = profiles.get(&event.mpid).map(|profile| &**profile);
        let wrong = wrong_change(before, event).or_else(|| self.wrong_take(before, event));
        wrong.or_else(|| match &*event.r#type {
            "profile.merged" => self.wrong_merge(profiles, &audiences.deleting(), event),
            "profile.unmerged" => self.wrong_unmerge(audiences, event),
            _ => {
                let is_alone = event.merged_mpid == 0 && event.merged_profile.is_none() && self.parted.is_none();
                (!is_alone).then_some("merged_mpid")
            }
        })
    }

    /// The profiles that lose identities come right before the one that gets them.
    fn wrong_take(&mut self, before: Option<&Profile>, event: &Event) -> Option<&'static str> {
        let kept: Vec<_> = event.profile.iter().flat_map(identities).cloned().collect();
        if event.taken_by_mpid != 0 {
            let lost: Vec<_> = before.into_iter().flat_map(identities).filter(|own| !kept.contains(own)).collect();
            let is_next = self.losers.is_empty() || self.taken_by == event.taken_by_mpid;
            let is_right = is_next && !lost.is_empty() && event.taken_from_mpids.is_empty();
            self.taken_by = event.taken_by_mpid;
            self.losers.push((event.mpid, lost.into_iter().cloned().collect()));
            return (!is_right).then_some("taken_by_mpid");
        }
        let losers = std::mem::take(&mut self.losers);
        let is_told = losers.iter().map(|(mpid, _)| mpid).eq(&event.taken_from_mpids);
        let is_sorted = event.taken_from_mpids.is_sorted();
        let has_them = losers.iter().flat_map(|(_, lost)| lost).all(|lost| kept.contains(lost));
        let is_right = is_told && is_sorted && has_them && (losers.is_empty() || self.taken_by == event.mpid);
        (!is_right).then_some("taken_from_mpids")
    }

    /// The absorbed profile is there, and the survivor has what it had, but for audiences that are being deleted.
    fn wrong_merge(&mut self, profiles: &Profiles, deleting: &BTreeSet<i64>, event: &Event) -> Option<&'static str> {
        let absorbed = profiles.get(&event.merged_mpid).map(|profile| &**profile);
        let (Some(own), Some(other), Some(after)) = (profiles.get(&event.mpid), absorbed, &event.profile) else {
            return Some("merged_mpid");
        };
        let all_of = |of: fn(&Profile) -> BTreeSet<String>| of(after) == &of(own) | &of(other);
        let members = |profile: &Profile, is_ended: bool| -> BTreeSet<i64> {
            let joined = profile.audience_memberships.iter().filter(|own| is_ended || !has_ended(own, event.time));
            joined.map(|membership| membership.audience_id).collect()
        };
        let least = &members(own, false) | &(&members(other, false) - deleting);
        let most = &members(own, true) | &(&members(other, true) - deleting);
        let are = members(after, true);
        let checks = [
            ("merged_mpid", event.mpid != event.merged_mpid && self.parted.is_none()),
            ("merged_profile", event.merged_profile.as_ref() == absorbed),
            ("the identities of a merge", all_of(keys)),
            ("the attributes of a merge", all_of(attributes)),
            ("the memberships of a merge", least.is_subset(&are) && are.is_subset(&most)),
            ("the opt-out of a merge", after.is_opted_out == (own.is_opted_out || other.is_opted_out)),
        ];
        let mut left = Profile::clone(other);
        left.audience_memberships.retain(|joined| !deleting.contains(&joined.audience_id));
        self.absorbed.insert(event.merged_mpid, (event.mpid, left, event.sequence));
        checks.into_iter().find_map(|(what, holds)| (!holds).then_some(what))
    }

    /// The survivor comes first, and then the restored profile, which is as it was, but for audiences that are gone.
    fn wrong_unmerge(&mut self, audiences: &Audiences, event: &Event) -> Option<&'static str> {
        let (mpid, other) = (event.mpid, event.merged_mpid);
        if event.previous.is_some() {
            let was_absorbed = self.absorbed.get(&other).is_some_and(|(survivor, ..)| *survivor == mpid);
            let is_first = self.parted.replace((mpid, other)).is_none();
            return (!was_absorbed || !is_first).then_some("merged_mpid");
        }
        let (Some((survivor, was, merged)), Some(is)) = (self.absorbed.remove(&mpid), &event.profile) else {
            return Some("merged_mpid");
        };
        self.restored.push((event.sequence, merged));
        let gone = &audiences.deleting() | &audiences.deleted_between(merged, event.sequence);
        let ends = |profile: &Profile| -> BTreeMap<_, _> {
            let memberships = profile.audience_memberships.iter();
            memberships
                .map(|joined| (joined.audience_id, joined.expire_time.map(|end| (end.seconds, end.nanos))))
                .collect()
        };
        let (had, has) = (ends(&was), ends(is));
        let may_have_left =
            |joined: &AudienceMembership| gone.contains(&joined.audience_id) || has_ended(joined, event.time);
        let stays = |joined: &AudienceMembership| has.contains_key(&joined.audience_id) || may_have_left(joined);
        let has_no_other = has.iter().all(|(id, end)| had.get(id) == Some(end));
        // An identity may have been erased since: see `Log::check_restored`.
        let has_no_other_identity = identities(is).all(|identity| identities(&was).any(|own| own == identity));
        let restored = Profile {
            update_time: is.update_time,
            etag: is.etag.clone(),
            audience_memberships: is.audience_memberships.clone(),
            device_identities: is.device_identities.clone(),
            user_identities: is.user_identities.clone(),
            ..was.clone()
        };
        let checks = [
            ("merged_mpid", self.parted.take() == Some((survivor, mpid)) && survivor == other),
            ("the memberships of a restored profile", has_no_other && was.audience_memberships.iter().all(stays)),
            ("the identities of a restored profile", has_no_other_identity),
            ("the restored profile", restored == *is),
        ];
        checks.into_iter().find_map(|(what, holds)| (!holds).then_some(what))
    }
}

fn identities(profile: &Profile) -> impl Iterator<Item = &Identity> {
    profile.device_identities.iter().chain(&profile.user_identities)
}

fn keys(profile: &Profile) -> BTreeSet<String> {
    identities(profile).map(|identity| format!("{identity:?}")).collect()
}

fn attributes(profile: &Profile) -> BTreeSet<String> {
    profile.user_attributes.iter().flat_map(|map| map.fields.keys().cloned()).collect()
}
