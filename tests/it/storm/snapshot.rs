//! What a snapshot holds.
//!
//! A snapshot leaves out memberships that have ended when it is read, and the recording tells that time only from when
//! to when. If a membership ends in between, the profile may be served with it or without it, and a filter by that
//! audience may select it or not. Each is then right, and nothing else. So it is with a profile that is erased in between.

use std::collections::BTreeMap;
use std::time::SystemTime;

use cameo::proto::v1::*;
use prost_types::Timestamp;

use super::changes::has_ended;
use super::log::{Log, Version};
use super::recording::Connection;

/// What a stream may be sent of a profile of its snapshot.
pub struct Choices {
    /// Each is right, and there is at least one.
    pub profiles: Vec<Profile>,
    /// Whether one of them must be sent.
    pub is_certain: bool,
    /// Whether anything else may be sent of the profile: see [`Log::is_unknown`].
    pub may_be_other: bool,
}

/// The profiles of the snapshot of a stream, as of a sequence, by their mpids.
pub fn snapshot(log: &Log, connection: &Connection, of: u64) -> BTreeMap<i64, Choices> {
    let profiles = log.profiles(of).iter().filter(|(mpid, _)| connection.view.has_profile(log, **mpid));
    profiles.filter_map(|(mpid, profile)| Some((*mpid, choices(log, connection, of, profile)?))).collect()
}

fn choices(log: &Log, connection: &Connection, of: u64, profile: &Profile) -> Option<Choices> {
    if log.is_unseen_at(profile.mpid, of) || log.next_of(profile.mpid, of).is_some_and(|next| log.is_unknown(next)) {
        return Some(Choices { profiles: vec![profile.clone()], is_certain: false, may_be_other: true });
    }
    let (mut profiles, mut is_certain) = (Vec::new(), true);
    let no_event = Event::default();
    for stored in stored(log, connection, of, profile) {
        let Some(stored) = stored else {
            is_certain = false;
            continue;
        };
        for moment in moments(connection, &stored) {
            let served = served(&stored, moment);
            if connection.view.selects(&served, &no_event, Some(moment)) {
                profiles.push(served);
            } else {
                is_certain = false;
            }
        }
    }
    (!profiles.is_empty()).then_some(Choices { profiles, is_certain, may_be_other: false })
}

/// What the log may tell of a profile as of a sequence: it is what the next event of the profile says that it was. An
/// erasure may have removed that, and then it is not in the snapshot: a later event has it, if it still exists.
fn stored(log: &Log, connection: &Connection, of: u64, profile: &Profile) -> Vec<Option<Profile>> {
    let Some(next) = log.next_of(profile.mpid, of) else { return vec![Some(profile.clone())] };
    let read = &connection.snapshot_read;
    if let Some(erased) = log.erased_by(next) {
        let (may_be_there, may_be_gone) = (erased.answered > *read.start(), erased.asked <= *read.end());
        let there = may_be_there.then(|| Some(profile.clone()));
        return there.into_iter().chain(may_be_gone.then_some(None)).collect();
    }
    log.versions(next, read).iter().map(|version| stored_before(version, profile.mpid)).collect()
}

/// A profile before an event of its own, or one by which it was absorbed.
fn stored_before(version: &Version, mpid: i64) -> Option<Profile> {
    if version.event.mpid == mpid { version.before.as_deref().cloned() } else { version.event.merged_profile.clone() }
}

/// When the snapshot may have been read, as far as it makes a difference: at first, and when a membership had just ended.
fn moments(connection: &Connection, profile: &Profile) -> Vec<Timestamp> {
    let (first, last) = connection.snapshot_read.clone().into_inner();
    let ends = profile.audience_memberships.iter().filter_map(|membership| membership.expire_time);
    let in_between = ends.filter(|end| SystemTime::try_from(*end).is_ok_and(|end| first < end && end <= last));
    std::iter::once(first.into()).chain(in_between).collect()
}

/// The profile without the memberships that have ended.
pub fn served(profile: &Profile, moment: Timestamp) -> Profile {
    let mut served = profile.clone();
    served.audience_memberships.retain(|membership| !has_ended(membership, Some(moment)));
    served
}
