//! Changes as CloudEvents 1.0, as the body and the headers of a request.
//!
//! A profile of a snapshot is a CloudEvent too, of type `profile.snapshot`.

use std::fmt::Write;

use bytes::Bytes;
use clap::ValueEnum;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::ledger::Key;
use crate::proto::{json, v1 as pb};

/// How a CloudEvent becomes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The body is the CloudEvent, with the change in its `data`.
    Structured,
    /// The body is the change, and the rest of the CloudEvent is in headers.
    Binary,
}

/// A request to the receiver, the same on every attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub key: Key,
    pub mpid: i64,
    /// The id of the CloudEvent, by which a receiver knows one that it has seen.
    pub id: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What turns messages of a stream into deliveries.
#[derive(Debug, Clone)]
pub struct CloudEvents {
    pub workspace: String,
    pub mode: Mode,
}

/// The attributes of a CloudEvent, in the order in which they are sent.
type Attributes = Vec<(&'static str, String)>;

impl CloudEvents {
    /// The delivery of a change.
    ///
    /// # Errors
    /// If JSON cannot hold the event.
    pub fn change(&self, event: &pb::Event) -> serde_json::Result<Delivery> {
        let attributes = self.attributes(&event.id, &event.r#type, event.mpid, event.time, "Event", event.sequence);
        Ok(self.delivery(Key::Event(event.sequence), event.mpid, attributes, json::event(event)?))
    }

    /// The delivery of a profile of a snapshot, which is as of the event `sequence`. Its id is made of that and the mpid:
    /// it is the same when the snapshot is resumed, and another one in a later snapshot, which a receiver that drops
    /// what it has seen must not miss.
    ///
    /// # Errors
    /// If JSON cannot hold the profile.
    pub fn snapshot(&self, profile: &pb::Profile, sequence: u64) -> serde_json::Result<Delivery> {
        let (workspace, mpid) = (&self.workspace, profile.mpid);
        let id = format!("{workspace}/{sequence}/{mpid}");
        let attributes = self.attributes(&id, "profile.snapshot", mpid, profile.update_time, "Profile", sequence);
        Ok(self.delivery(Key::Profile(id), mpid, attributes, json::profile(profile)?))
    }

    fn attributes(
        &self,
        id: &str,
        kind: &str,
        mpid: i64,
        time: Option<Timestamp>,
        message: &str,
        sequence: u64,
    ) -> Attributes {
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", id.to_owned()),
            ("source", format!("/cameo/{}", self.workspace)),
            ("type", kind.to_owned()),
            ("dataschema", format!("https://type.googleapis.com/cameo.v1.{message}")), // As in google.protobuf.Any.
            ("sequence", format!("{sequence:020}")), // The extension asks for strings that sort like the numbers.
            ("subject", format!("profiles/{mpid}")),
        ];
        attributes.extend(time.map(|time| ("time", time.to_string())));
        attributes
    }

    fn delivery(&self, key: Key, mpid: i64, attributes: Attributes, data: Value) -> Delivery {
        let id = attributes.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.clone()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        let (content_type, body) = match self.mode {
            Mode::Structured => ("application/cloudevents+json", structured(attributes, data)),
            Mode::Binary => {
                headers.extend(attributes.iter().map(|(name, value)| header(name, value)));
                ("application/json", data)
            }
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Delivery { key, mpid, id, headers, body: body.to_string().into() }
    }
}

fn structured(attributes: Attributes, data: Value) -> Value {
    let mut event = json!({ "datacontenttype": "application/json" });
    for (name, value) in attributes {
        event[name] = value.into();
    }
    event["data"] = data;
    event
}

/// A header of the binary mode. What a header cannot hold is percent-encoded, as the HTTP binding of CloudEvents says.
fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
    }
    let name = HeaderName::try_from(format!("ce-{name}")).expect("attributes have names in lower case");
    (name, HeaderValue::try_from(encoded).expect("it is printable ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud_events(mode: Mode) -> CloudEvents {
        CloudEvents { workspace: "acme/main/web".into(), mode }
    }

    fn event() -> pb::Event {
        pb::Event {
            id: "0190-a".into(),
            sequence: 12,
            r#type: "profile.updated".into(),
            time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000 }),
            mpid: -42,
            ..Default::default()
        }
    }

    #[test]
    fn a_structured_event_is_all_in_the_body() {
        let delivery = cloud_events(Mode::Structured).change(&event()).unwrap();
        let body: Value = serde_json::from_slice(&delivery.body).unwrap();
        assert_eq!(
            body,
            json!({
                "specversion": "1.0", "id": "0190-a", "source": "/cameo/acme/main/web", "type": "profile.updated",
                "time": "2023-11-14T22:13:20.000005Z", "subject": "profiles/-42", "sequence": "00000000000000000012",
                "datacontenttype": "application/json", "dataschema": "https://type.googleapis.com/cameo.v1.Event",
                "data": {
                    "id": "0190-a", "sequence": "12", "type": "profile.updated",
                    "time": "2023-11-14T22:13:20.000005Z", "mpid": "-42",
                },
            })
        );
        assert_eq!(delivery.headers.len(), 1);
        assert_eq!(delivery.headers[CONTENT_TYPE], "application/cloudevents+json");
        assert_eq!((delivery.key, delivery.mpid, &*delivery.id), (Key::Event(12), -42, "0190-a"));
    }

    #[test]
    fn a_binary_event_is_data_with_headers() {
        let delivery = cloud_events(Mode::Binary).change(&event()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&delivery.body).unwrap(), json::event(&event()).unwrap());
        let mut headers: Vec<_> = delivery.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "ce-dataschema: \"https://type.googleapis.com/cameo.v1.Event\"",
                "ce-id: \"0190-a\"",
                "ce-sequence: \"00000000000000000012\"",
                "ce-source: \"/cameo/acme/main/web\"",
                "ce-specversion: \"1.0\"",
                "ce-subject: \"profiles/-42\"",
                "ce-time: \"2023-11-14T22:13:20.000005Z\"",
                "ce-type: \"profile.updated\"",
                "content-type: \"application/json\"",
            ]
        );
    }

    #[test]
    fn a_profile_of_a_snapshot_is_an_event_too() {
        let profile = pb::Profile { mpid: 7, etag: "e1".into(), ..Default::default() };
        let cloud_events = cloud_events(Mode::Structured);
        let delivery = cloud_events.snapshot(&profile, 9).unwrap();
        let body: Value = serde_json::from_slice(&delivery.body).unwrap();
        assert_eq!(delivery.id, "acme/main/web/9/7");
        assert_eq!((&body["type"], &body["id"]), (&json!("profile.snapshot"), &json!("acme/main/web/9/7")));
        assert_eq!(
            (&body["sequence"], &body["data"]),
            (&json!("00000000000000000009"), &json!({"mpid": "7", "etag": "e1"}))
        );
        assert_eq!(body.get("time"), None);

        let later = cloud_events.snapshot(&profile, 10).unwrap();
        assert_eq!(later.id, "acme/main/web/10/7", "a later snapshot is delivered again");
    }

    #[test]
    fn what_a_header_cannot_hold_is_percent_encoded() {
        let (name, value) = header("type", "a \"é\"%\n");
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("ce-type", "a%20%22%C3%A9%22%25%0A"));
    }
}
