//! Messages as protobuf JSON (<https://protobuf.dev/programming-guides/json/>): `lowerCamelCase`, 64-bit integers as
//! strings.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::{DESCRIPTORS as FILES, v1 as pb};

struct Descriptors {
    event: MessageDescriptor,
    profile: MessageDescriptor,
}

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(FILES).expect("the build made these descriptors");
    let message = |name| pool.get_message_by_name(name).expect("the API has this message");
    Descriptors { event: message("cameo.v1.Event"), profile: message("cameo.v1.Profile") }
});

/// An event as JSON.
///
/// # Errors
/// If JSON cannot hold a value, such as a time after the year 9999.
pub fn event(event: &pb::Event) -> serde_json::Result<serde_json::Value> {
    json(&DESCRIPTORS.event, event)
}

/// A profile as JSON.
///
/// # Errors
/// If JSON cannot hold a value.
pub fn profile(profile: &pb::Profile) -> serde_json::Result<serde_json::Value> {
    json(&DESCRIPTORS.profile, profile)
}

fn json(descriptor: &MessageDescriptor, message: &impl Message) -> serde_json::Result<serde_json::Value> {
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor.clone(), &*bytes).expect("the descriptor is that of the message");
    serde_json::to_value(&dynamic)
}

#[cfg(test)]
mod tests {
    use prost_types::{FieldMask, Struct, Timestamp, Value, value::Kind};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_what_the_mapping_says() {
        let plan =
            Value { kind: Some(Kind::ListValue(prost_types::ListValue { values: vec![Kind::NullValue(0).into()] })) };
        let profile = pb::Profile {
            mpid: i64::MIN,
            create_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 }),
            limit_ad_tracking: Some(false),
            user_attributes: Some(Struct { fields: [("plan".to_owned(), plan)].into() }),
            ..Default::default()
        };
        let message = pb::Event {
            id: "0190".into(),
            sequence: u64::MAX,
            mpid: i64::MIN,
            profile: Some(profile),
            changed_fields: Some(FieldMask { paths: vec!["user_attributes".into(), "is_opted_out".into()] }),
            entered_audience_ids: vec![7],
            r#match: pb::FilterMatch::Entered.into(),
            silent: true,
            ..Default::default()
        };
        assert_eq!(
            event(&message).unwrap(),
            json!({
                "id": "0190", "sequence": "18446744073709551615", "mpid": "-9223372036854775808",
                "profile": {
                    "mpid": "-9223372036854775808", "createTime": "2023-11-14T22:13:20.123456Z",
                    "limitAdTracking": false, "userAttributes": {"plan": [null]},
                },
                "changedFields": "userAttributes,isOptedOut", "enteredAudienceIds": ["7"],
                "match": "FILTER_MATCH_ENTERED", "silent": true,
            })
        );
        assert_eq!(super::profile(&pb::Profile::default()).unwrap(), json!({}));
    }
}
