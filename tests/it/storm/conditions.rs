//! Conditions on profiles: each a CEL expression, and what it means, said once more in Rust.

use cameo::proto::v1::*;
use prost_types::value::Kind;

use crate::harness::attribute;

/// A condition on profiles.
pub struct Condition {
    /// As `EventFilter.expression`.
    pub expression: &'static str,
    /// Whether a profile satisfies it. In a snapshot there is no event.
    pub holds: fn(&Profile, &Event) -> bool,
}

/// Some read what a profile may lack, and are then not satisfied. Those of the event hold before and after alike.
pub const CONDITIONS: [Condition; 10] = [
    Condition {
        expression: "has(profile.user_attributes.plan)",
        holds: |profile, _| attribute(profile, "plan").is_some(),
    },
    Condition {
        expression: "profile.user_attributes.plan >= '4'",
        holds: |profile, _| text_of(profile, "plan").is_some_and(|plan| plan >= "4"),
    },
    Condition {
        expression: "!(profile.user_attributes.city in ['1', '2', '3'])",
        holds: |profile, _| text_of(profile, "city").is_some_and(|city| !["1", "2", "3"].contains(&city)),
    },
    Condition {
        expression: "profile.user_attributes['count'] > 1.0",
        holds: |profile, _| matches!(attribute(profile, "count"), Some(Kind::NumberValue(count)) if *count > 1.0),
    },
    Condition { expression: "profile.is_opted_out", holds: |profile, _| profile.is_opted_out },
    Condition {
        expression: "size(profile.user_identities) > 0 && profile.mpid % 2 == 0",
        holds: |profile, _| !profile.user_identities.is_empty() && profile.mpid % 2 == 0,
    },
    Condition {
        expression: "profile.audience_memberships.exists(m, m.audience_id == 2)",
        holds: |profile, _| profile.audience_memberships.iter().any(|membership| membership.audience_id == 2),
    },
    Condition {
        expression: "has(previous.user_attributes.city) || 'plan' in event.changed_user_attributes",
        holds: |_, event| {
            let previous = event.previous.as_ref();
            previous.is_some_and(|previous| attribute(previous, "city").is_some())
                || event.changed_user_attributes.iter().any(|key| key == "plan")
        },
    },
    Condition {
        expression: "event.type == 'profile.updated' && has(profile.user_attributes.visits)",
        holds: |profile, event| event.r#type == "profile.updated" && attribute(profile, "visits").is_some(),
    },
    Condition {
        expression: "event.sequence % 3u != 1u && !event.silent",
        holds: |_, event| event.sequence % 3 != 1 && !event.silent,
    },
];

/// Whether a profile satisfies an expression of a filter.
pub fn holds(expression: &str, profile: &Profile, event: &Event) -> bool {
    let condition = CONDITIONS.iter().find(|condition| condition.expression == expression);
    expression.is_empty() || (condition.expect("it was drawn from here").holds)(profile, event)
}

fn text_of<'a>(profile: &'a Profile, key: &str) -> Option<&'a str> {
    match attribute(profile, key)? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
