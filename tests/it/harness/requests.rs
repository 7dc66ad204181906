//! Requests for [`WORKSPACE`] that are complete but for what a test is about.
#![allow(clippy::unnecessary_wraps)] // The fields of messages are optional.

use cameo::proto::v1::*;
use prost_types::FieldMask;

/// The workspace of most tests.
pub const WORKSPACE: &str = "acme/main/web";
/// A workspace that a test needs besides.
pub const OTHER_WORKSPACE: &str = "acme/main/app";

/// The most items that a page may have.
pub const LARGEST_PAGE: i32 = 1_000;

/// A lookup that names no profile yet.
pub fn get_request() -> GetProfileRequest {
    GetProfileRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

/// Creates an empty profile with an mpid that the server draws.
pub fn create_request() -> CreateProfileRequest {
    CreateProfileRequest { workspace: WORKSPACE.into(), profile: Some(Profile::default()), ..Default::default() }
}

/// Applies an empty patch.
pub fn update_request(mpid: i64) -> UpdateProfileRequest {
    UpdateProfileRequest {
        workspace: WORKSPACE.into(),
        key: Some(by_mpid(mpid)),
        patch: Some(ProfilePatch::default()),
        ..Default::default()
    }
}

/// Applies this patch, and creates the profile if there is none.
pub fn upsert_request(mpid: i64, patch: ProfilePatch) -> UpdateProfileRequest {
    UpdateProfileRequest { allow_missing: true, patch: Some(patch), ..update_request(mpid) }
}

pub fn delete_request(mpid: i64) -> DeleteProfileRequest {
    let key = Some(by_mpid(mpid));
    DeleteProfileRequest { workspace: WORKSPACE.into(), key, ..Default::default() }
}

pub fn batch_request(keys: impl IntoIterator<Item = ProfileKey>) -> BatchGetProfilesRequest {
    let keys = keys.into_iter().collect();
    BatchGetProfilesRequest { workspace: WORKSPACE.into(), keys, ..Default::default() }
}

/// The first page of all profiles.
pub fn page_request() -> ListProfilesRequest {
    ListProfilesRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

/// A record of an import.
pub fn record(key: ProfileKey, patch: ProfilePatch) -> ImportProfilesRequest {
    ImportProfilesRequest { workspace: WORKSPACE.into(), key: Some(key), patch: Some(patch), ..Default::default() }
}

/// The first page of all events.
pub fn list_request() -> ListEventsRequest {
    ListEventsRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

/// A subscription to everything from now on.
pub fn subscribe_request() -> SubscribeRequest {
    SubscribeRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

pub fn by_mpid(mpid: i64) -> ProfileKey {
    ProfileKey { key: Some(profile_key::Key::Mpid(mpid)) }
}

pub fn by_identity(identity: Identity) -> ProfileKey {
    ProfileKey { key: Some(profile_key::Key::Identity(identity)) }
}

/// A stream begins with the oldest event.
pub fn earliest() -> Option<subscribe_request::Start> {
    Some(subscribe_request::Start::Earliest(true))
}

/// A stream begins after this cursor.
pub fn after(cursor: &str) -> Option<subscribe_request::Start> {
    Some(subscribe_request::Start::Cursor(cursor.into()))
}

/// A page of events begins after this cursor.
pub fn page_after(cursor: &str) -> Option<list_events_request::Start> {
    Some(list_events_request::Start::Cursor(cursor.into()))
}

/// Only the events of these profiles.
pub fn of_profiles(mpids: &[i64]) -> Option<EventFilter> {
    Some(EventFilter { mpids: mpids.to_vec(), ..EventFilter::default() })
}

pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}
