//! What the store of the service holds before the first input.
#![allow(clippy::unnecessary_wraps)] // The fields of messages are optional.

use cameo::proto::v1::{
    AddAudienceMembersRequest, Audience, CreateAudienceRequest, CreateProfileRequest, Identity, MergeProfilesRequest,
    Profile, ProfileKey, profile_key,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

pub const WORKSPACE: &str = "acme/main/web";
pub const AUDIENCE: i64 = 7;

pub fn create(mpid: i64) -> CreateProfileRequest {
    let email = identity("email", &format!("ada{mpid}@hunter2.example"));
    let device = identity("ios_idfa", &format!("hunter2-{mpid}"));
    let profile = Profile {
        mpid,
        user_identities: vec![email, identity("customer_id", &format!("hunter2-{mpid}"))],
        device_identities: vec![device],
        user_attributes: Some(attributes()),
        ..Profile::default()
    };
    CreateProfileRequest { workspace: WORKSPACE.into(), profile: Some(profile), ..Default::default() }
}

pub fn audience() -> CreateAudienceRequest {
    let audience = Audience { audience_id: AUDIENCE, name: "buyers".into(), ..Audience::default() };
    CreateAudienceRequest { workspace: WORKSPACE.into(), audience: Some(audience), ..Default::default() }
}

pub fn members(mpids: [i64; 2]) -> AddAudienceMembersRequest {
    let keys = mpids.map(|mpid| key(mpid).expect("it is one")).into();
    AddAudienceMembersRequest { workspace: WORKSPACE.into(), audience_id: AUDIENCE, keys, ..Default::default() }
}

pub fn merge(into: i64, from: i64) -> MergeProfilesRequest {
    MergeProfilesRequest { workspace: WORKSPACE.into(), into: key(into), from: key(from), ..Default::default() }
}

fn key(mpid: i64) -> Option<ProfileKey> {
    Some(ProfileKey { key: Some(profile_key::Key::Mpid(mpid)) })
}

fn identity(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
}

/// One of each kind of value.
fn attributes() -> Struct {
    let list = ListValue { values: vec![value(Kind::StringValue("a".into())), value(Kind::NullValue(0))] };
    let map = Struct { fields: [("inner".to_owned(), value(Kind::BoolValue(true)))].into() };
    let kinds = [
        ("plan", Kind::StringValue("pro".into())),
        ("ltv", Kind::NumberValue(1.5)),
        ("vip", Kind::BoolValue(true)),
        ("none", Kind::NullValue(0)),
        ("tags", Kind::ListValue(list)),
        ("map", Kind::StructValue(map)),
    ];
    Struct { fields: kinds.map(|(key, kind)| (key.to_owned(), value(kind))).into() }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
