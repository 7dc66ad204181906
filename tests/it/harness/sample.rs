//! A whole profile, and its fields one by one.

use cameo::proto::DESCRIPTORS;
use cameo::proto::v1::*;
use prost::Message;
use prost_types::{FileDescriptorSet, Timestamp};

use super::*;

/// The mpid of [`sample`].
pub const SAMPLE_MPID: i64 = 9_080_350_317_581_165_000;

/// The example customer of mParticle's Profile API, as a profile.
pub fn sample() -> Profile {
    let attributes = [
        ("view_preference", "Dark Mode"),
        ("tp_age", "18-34"),
        ("tp_gender", "male"),
        ("last_purchase_category", "Home Decor"),
        ("churn_risk_score", "4"),
        ("ltv", "342.1"),
        ("$city", "New York"),
        ("$state", "NY"),
        ("$country", "USA"),
        ("$firstname", "Marky"),
        ("$lastname", "Mark"),
    ];
    Profile {
        mpid: SAMPLE_MPID,
        device_identities: vec![
            identity("android_id", "8789c459016a94b0"),
            identity("google_advertising_id", "481c8a31-7d5d-4d96-93a0-2de7427167fc"),
        ],
        user_identities: vec![
            identity("customer_id", "Example-Customer-mxr15"),
            identity("email", "Example-Customer-mxr15@example.com"),
        ],
        user_attributes: Some(map(attributes.map(|(key, value)| (key, text(value))))),
        audience_memberships: vec![AudienceMembership {
            audience_id: 17918,
            audience_name: "Decor Remarketing".into(),
            expire_time: None,
        }],
        ..Profile::default()
    }
}

/// A profile with a value in every field that a caller may set, and no value twice.
pub fn distinct() -> Profile {
    let attribute_time = Some(Timestamp { seconds: 1_600_000_000, nanos: 5 });
    Profile {
        is_opted_out: true,
        limit_ad_tracking: Some(false),
        account_user_attributes: Some(map([("tier", text("gold"))])),
        attribution: vec![Attribution { partner: "partner".into(), campaign: "spring".into(), attribute_time }],
        ..sample()
    }
}

/// The names of the fields of `Profile`, from the API's own description.
pub fn profile_fields() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let profile = files.iter().flat_map(|file| &file.message_type).find(|message| message.name() == "Profile");
    profile.unwrap().field.iter().map(|field| field.name().to_owned()).collect()
}

/// A profile with this one of the fields, and nothing else.
pub fn only(field: &str, profile: &Profile) -> Profile {
    let profile = profile.clone();
    let nothing = Profile::default();
    match field {
        "mpid" => Profile { mpid: profile.mpid, ..nothing },
        "create_time" => Profile { create_time: profile.create_time, ..nothing },
        "update_time" => Profile { update_time: profile.update_time, ..nothing },
        "is_opted_out" => Profile { is_opted_out: profile.is_opted_out, ..nothing },
        "limit_ad_tracking" => Profile { limit_ad_tracking: profile.limit_ad_tracking, ..nothing },
        "device_identities" => Profile { device_identities: profile.device_identities, ..nothing },
        "user_identities" => Profile { user_identities: profile.user_identities, ..nothing },
        "account_user_attributes" => Profile { account_user_attributes: profile.account_user_attributes, ..nothing },
        "user_attributes" => Profile { user_attributes: profile.user_attributes, ..nothing },
        "audience_memberships" => Profile { audience_memberships: profile.audience_memberships, ..nothing },
        "attribution" => Profile { attribution: profile.attribution, ..nothing },
        "etag" => Profile { etag: profile.etag, ..nothing },
        other => panic!("{other} is a new field"),
    }
}
