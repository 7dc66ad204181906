//! Parses queries and bodies.

use std::sync::Arc;

use serde::Deserialize;

use crate::model::identity::ParsedIdentity;
use crate::model::{Grant, Invalid, Limits, ProfileKey};
use crate::proto::v1::Identity;

/// What `fields` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    DeviceIdentities,
    UserIdentities,
    UserAttributes,
    AudienceMemberships,
    Attribution,
}

const FIELDS: [(&str, Field); 5] = [
    ("device_identities", Field::DeviceIdentities),
    ("user_identities", Field::UserIdentities),
    ("user_attributes", Field::UserAttributes),
    ("audience_memberships", Field::AudienceMemberships),
    ("attribution", Field::Attribution),
];

impl Field {
    /// The name of the field, here and in `Profile`.
    pub fn name(self) -> &'static str {
        FIELDS.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }
}

/// Which fields to return, and how.
#[derive(Debug)]
pub(super) struct Query {
    /// The fields to return. Empty for all.
    fields: Vec<Field>,
    /// Whether to write the mpid as a string, for readers whose numbers cannot hold 64 bits.
    pub mpid_as_string: bool,
}

impl Query {
    /// Parses the query string. Unknown parameters are ignored: proxies add some.
    pub fn parse(query: Option<&str>) -> Result<Self, Invalid> {
        let mut parsed = Self { fields: Vec::new(), mpid_as_string: false };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "fields" => {
                    for name in value.split(',').filter(|name| !name.is_empty()) {
                        parsed.fields.push(parse_field(name)?);
                    }
                }
                "mpid_as" => parsed.mpid_as_string = parse_mpid_as(&value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }

    pub fn asks_for(&self, field: Field) -> bool {
        self.fields.is_empty() || self.fields.contains(&field)
    }

    /// Refuses fields that the caller may not see.
    ///
    /// # Errors
    /// [`Invalid::Hidden`].
    pub fn check_within(&self, grant: Option<&Arc<Grant>>) -> Result<(), Invalid> {
        let Some(grant) = grant else { return Ok(()) };
        let mut asked = FIELDS.iter().filter(|(_, field)| self.fields.contains(field));
        asked.try_for_each(|(name, _)| Grant::check(grant.has_named(name), "fields", name))
    }
}

fn parse_field(name: &str) -> Result<Field, Invalid> {
    let unknown = || {
        let known: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
        Invalid::Mask { field: "fields", problem: format!("must be a list of {}", known.join(", ")) }
    };
    FIELDS.iter().find(|(known, _)| *known == name.trim()).map(|(_, field)| *field).ok_or_else(unknown)
}

fn parse_mpid_as(value: &str) -> Result<bool, Invalid> {
    match value {
        "string" => Ok(true),
        "number" => Ok(false),
        _ => Err(Invalid::field("mpid_as", "must be number or string")),
    }
}

/// The body of `resolve`.
#[derive(Deserialize)]
pub(super) struct Resolve {
    environment_type: Option<String>,
    identity: NamedIdentity,
}

#[derive(Deserialize)]
struct NamedIdentity {
    r#type: String,
    encoding: Option<String>,
    value: String,
}

/// serde would take an array for a struct too.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

impl Resolve {
    /// Parses the body. `environment_type` changes nothing, as a workspace has one environment, but its value must be
    /// valid.
    pub fn parse(body: &[u8], limits: &Limits) -> Result<ProfileKey, Invalid> {
        let problem = r#"must be JSON with "identity": {"type": …, "value": …}"#;
        // The error of serde would quote the body.
        let parsed = serde_json::from_slice(body).ok().filter(|_| is_object(body));
        let resolve: Self = parsed.ok_or_else(|| Invalid::field("body", problem))?;
        if !matches!(resolve.environment_type.as_deref(), None | Some("production" | "development")) {
            return Err(Invalid::field("environment_type", "must be production or development"));
        }
        let NamedIdentity { r#type, encoding, value } = resolve.identity;
        let encoding = encoding.unwrap_or_default();
        let identity = Identity { r#type, encoding, value };
        ParsedIdentity::parse("identity", identity, limits).map(ProfileKey::Identity)
    }
}
