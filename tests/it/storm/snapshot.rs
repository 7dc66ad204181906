//! What a snapshot holds.
//!
//! A snapshot leaves out memberships that have ended when it is read, and the recording tells that time only from when
//! to when. If a membership ends in between, the profile may be served with it or without it, and a filter by that
//! audience may select it or not. Each is then right, and nothing else.

use std::collections::BTreeMap;
use std::time::SystemTime;

use cameo::proto::v1::*;
use prost_types::Timestamp;

use super::log::{Log, has_ended};
use super::recording::Connection;

/// What a stream may be sent of a profile of its snapshot.
pub struct Choices {
    /// Each is right, and there is at least one.
    pub profiles: Vec<Profile>,
    /// Whether one of them must be sent.
    pub is_certain: bool,
}

/// The profiles of the snapshot of a stream, as of a sequence, by their mpids.
pub fn snapshot(log: &Log, connection: &Connection, of: u64) -> BTreeMap<i64, Choices> {
    let profiles = log.profiles(of).iter().filter(|(mpid, _)| connection.view.has_profile(log, **mpid));
    profiles.filter_map(|(mpid, profile)| Some((*mpid, choices(connection, profile)?))).collect()
}

fn choices(connection: &Connection, profile: &Profile) -> Option<Choices> {
    let moments = moments(connection, profile);
    let served = moments.iter().map(|moment| (served(profile, *moment), Some(*moment)));
    let no_event = Event::default();
    let selected = served.filter(|(profile, moment)| connection.view.selects(profile, &no_event, *moment));
    let profiles: Vec<_> = selected.map(|(profile, _)| profile).collect();
    let is_certain = profiles.len() == moments.len();
    (!profiles.is_empty()).then_some(Choices { profiles, is_certain })
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
