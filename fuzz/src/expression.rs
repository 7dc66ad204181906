//! Target: any text as a condition in CEL.
//!
//! - Nothing panics that is not caught, and nothing overflows the stack.
//! - A condition that compiles is evaluated within a second, on the largest profile that a server takes by default.
//! - Its text compiles again: it is stored in subscriptions.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cameo::model::Expression;
use cameo::model::expression::{Facts, Subject};
use cameo::proto::v1::{Attribution, AudienceMembership, Event, Identity, Profile};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

/// The longest that parsing and one evaluation may take. Both take milliseconds on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(1);
/// Attributes of each sort. With their values they make a profile of about 256 KiB, the default limit.
const ATTRIBUTES: usize = 250;
const TEXT_BYTES: usize = 700;

/// Converted once, as for all subscribers of a workspace.
static SAMPLE: LazyLock<(Facts, Subject)> = LazyLock::new(|| {
    let (before, after) = (profile(1), profile(2));
    let changed_user_attributes = after.user_attributes.iter().flat_map(|map| map.fields.keys().cloned()).collect();
    let event = Event { previous: Some(before), changed_user_attributes, sequence: 7, mpid: 1, ..Event::default() };
    (Facts::new(&event), Subject::new(&after))
});

pub fn run(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    LazyLock::force(&SAMPLE);
    let timed = || {
        let begun = Instant::now();
        evaluate(source);
        begun.elapsed()
    };
    // Twice: other programs of the machine may delay one of them.
    assert!(timed() < PATIENCE || timed() < PATIENCE, "it takes too long");
}

fn evaluate(source: &str) {
    let Ok(expression) = Expression::parse(source) else { return };
    let (facts, subject) = &*SAMPLE;
    let _ = expression.matches(facts, subject);
    Expression::parse(expression.source()).expect("it compiled before");
}

fn profile(number: u8) -> Profile {
    let time = Some(Timestamp { seconds: 1_700_000_000 + i64::from(number), nanos: 1_000 });
    let identity =
        |value: usize| Identity { r#type: "email".into(), value: format!("{value}@x.com"), ..Identity::default() };
    let membership =
        |id: i64| AudienceMembership { audience_id: id, audience_name: "buyers".into(), expire_time: time };
    let attribution = Attribution { partner: "p".into(), campaign: "c".into(), attribute_time: time };
    Profile {
        mpid: 1,
        create_time: time,
        update_time: time,
        limit_ad_tracking: Some(true),
        user_identities: (0..100).map(identity).collect(),
        user_attributes: Some(attributes(number)),
        audience_memberships: (1..=100).map(membership).collect(),
        attribution: vec![attribution; 10],
        etag: number.to_string(),
        ..Profile::default()
    }
}

fn attributes(number: u8) -> Struct {
    let text = |at: usize| Kind::StringValue("v".repeat(TEXT_BYTES) + &at.to_string());
    let list = |at: usize| {
        Kind::ListValue(ListValue { values: (0..10).map(|n| value(Kind::StringValue(format!("{at}{n}")))).collect() })
    };
    let map = |at: usize| Kind::StructValue(Struct { fields: [("key".to_owned(), value(text(at)))].into() });
    let mut fields = BTreeMap::from([
        ("plan".to_owned(), value(Kind::StringValue("pro".into()))),
        ("age".to_owned(), value(Kind::NumberValue(42.0))),
        ("vip".to_owned(), value(Kind::BoolValue(number == 1))),
        ("none".to_owned(), value(Kind::NullValue(0))),
        ("tags".to_owned(), value(list(0))),
    ]);
    for at in 0..ATTRIBUTES / 2 {
        fields.insert(format!("text{at}"), value(text(at)));
        fields.insert(format!("list{at}"), value(list(at)));
        fields.insert(format!("map{at}"), value(map(at)));
    }
    Struct { fields }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
