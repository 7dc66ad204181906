//! How a workspace resolves identities: which come first, and how many of a type a profile may have.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::{IdentityKey, check_kind, is_device_kind, kind_of, repeated};
use super::invalid::Quoted;
use super::limits::SETTINGS_TYPES;
use super::{Etag, Invalid};
use crate::proto::v1::{self, Profile};

/// The type that comes first by default.
const FIRST: &str = "customer_id";
/// The names of the settings in a mask.
const FIELDS: [&str; 4] = ["priority", "unique_types", "type_limits", "never_link_types"];

/// Valid identity settings. Every type has the name that is used for matching. The default has no limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentitySettings {
    priority: Vec<String>,
    unique_types: BTreeSet<String>,
    type_limits: BTreeMap<String, i32>,
    never_link_types: BTreeSet<String>,
    /// The version that must be in force. `None` means any.
    pub etag: Option<Etag>,
}

/// Where an identity comes in the order of priority. Less is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(usize, Unnamed);

/// The order of the types that no setting names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unnamed {
    CustomerId,
    User,
    Device,
}

impl IdentitySettings {
    /// Parses the settings in `field` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if a type is malformed or repeated, there are too many, or a limit is less than 1.
    pub fn parse(field: &str, settings: v1::IdentitySettings) -> Result<Self, Invalid> {
        let v1::IdentitySettings { priority, unique_types, type_limits, never_link_types, etag, update_time: _ } =
            settings;
        let limits = type_limits.iter().map(|(kind, limit)| {
            let at = format!("{field}.type_limits[{kind:?}]");
            check_kind(&at, kind)?;
            if *limit < 1 { Err(Invalid::field(at, "must be at least 1")) } else { Ok((canonical(kind), *limit)) }
        });
        let limits: Vec<_> = limits.collect::<Result<_, _>>()?;
        let subject = "identity types";
        Invalid::limit(format_args!("{field}.type_limits"), subject, SETTINGS_TYPES, limits.len())?;
        if let Some(index) = repeated(limits.iter().map(|(kind, _)| kind)) {
            let at = format_args!("{field}.type_limits[{:?}]", limits[index].0).to_string();
            return Err(Invalid::field(at, "is the same type as another name of it"));
        }
        Ok(Self {
            priority: parse_types(&format!("{field}.priority"), &priority)?,
            unique_types: parse_types(&format!("{field}.unique_types"), &unique_types)?.into_iter().collect(),
            type_limits: limits.into_iter().collect(),
            never_link_types: parse_types(&format!("{field}.never_link_types"), &never_link_types)?
                .into_iter()
                .collect(),
            etag: Etag::parse(etag)?,
        })
    }

    /// Parses the mask of an update. Empty means all.
    ///
    /// # Errors
    /// [`Invalid::Mask`] for a name that is not one of a setting.
    pub fn parse_paths(field: &'static str, paths: Vec<String>) -> Result<Vec<String>, Invalid> {
        if paths.iter().any(|path| path == "*") && paths.len() == 1 {
            return Ok(Vec::new());
        }
        match paths.iter().find(|path| !FIELDS.contains(&path.as_str())) {
            Some(unknown) => {
                let problem = format!("IdentitySettings has no field {}", Quoted(unknown));
                Err(Invalid::Mask { field, problem })
            }
            None => Ok(paths),
        }
    }

    /// The settings with some of those of `new`: all of them if no path is named.
    #[must_use]
    pub fn updated(mut self, new: Self, paths: &[String]) -> Self {
        let changes = |name| paths.is_empty() || paths.iter().any(|path| path == name);
        if changes("priority") {
            self.priority = new.priority;
        }
        if changes("unique_types") {
            self.unique_types = new.unique_types;
        }
        if changes("type_limits") {
            self.type_limits = new.type_limits;
        }
        if changes("never_link_types") {
            self.never_link_types = new.never_link_types;
        }
        self
    }

    /// The settings as a version of their own.
    #[must_use]
    pub fn versioned(self, etag: Etag) -> Self {
        Self { etag: Some(etag), ..self }
    }

    /// The message that parses to these settings.
    #[must_use]
    pub fn to_message(&self) -> v1::IdentitySettings {
        v1::IdentitySettings {
            priority: self.priority.clone(),
            unique_types: self.unique_types.iter().cloned().collect(),
            type_limits: self.type_limits.clone(),
            never_link_types: self.never_link_types.iter().cloned().collect(),
            etag: self.etag.clone().map(Etag::into_string).unwrap_or_default(),
            update_time: None,
        }
    }

    /// Where an identity comes in the order of priority.
    #[must_use]
    pub fn rank(&self, key: &IdentityKey) -> Rank {
        let kind = key.kind();
        let named = self.priority.iter().position(|named| named == kind).unwrap_or(self.priority.len());
        let default = match kind {
            FIRST => Unnamed::CustomerId,
            device if is_device_kind(device) => Unnamed::Device,
            _ => Unnamed::User,
        };
        Rank(named, default)
    }

    /// Whether an identity of this type may link.
    #[must_use]
    pub fn links(&self, key: &IdentityKey) -> bool {
        !self.never_link_types.contains(key.kind())
    }

    /// Whether any type is unique.
    #[must_use]
    pub fn has_unique_types(&self) -> bool {
        !self.unique_types.is_empty()
    }

    /// Whether a profile has at most one identity of this type.
    #[must_use]
    pub fn is_unique(&self, kind: &str) -> bool {
        self.unique_types.contains(kind)
    }

    /// The most identities of a type. `None` without a limit.
    #[must_use]
    pub fn limit(&self, kind: &str) -> Option<usize> {
        if self.is_unique(kind) {
            return Some(1);
        }
        self.type_limits.get(kind).map(|limit| usize::try_from(*limit).unwrap_or(usize::MAX))
    }

    /// The first unique type of which two sets of identities have some and share none: they are those of two persons. A
    /// profile may have several that it got before the type became unique.
    #[must_use]
    pub fn contradiction<'k>(&self, left: &'k [IdentityKey], right: &[IdentityKey]) -> Option<&'k str> {
        let contradicts = |kind: &str| {
            let mut others = right.iter().filter(|other| other.kind() == kind).peekable();
            others.peek().is_some() && others.all(|other| !left.contains(other))
        };
        left.iter().map(IdentityKey::kind).find(|kind| self.is_unique(kind) && contradicts(kind))
    }

    /// Refuses identities that a write links to a profile, by their places in `field`, if the settings do. `before` and
    /// `after` are those of the profile.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn check_links(&self, field: &str, before: &[IdentityKey], after: &[IdentityKey]) -> Result<(), Invalid> {
        let mut gained = after.iter().filter(|key| !before.contains(key));
        if let Some(key) = gained.find(|key| !self.links(key)) {
            let problem = format!("identities of type {} never link in this workspace", key.kind());
            return Err(Invalid::field(field, problem));
        }
        self.check_counts(field, before, after)
    }

    /// Refuses more identities of a type than the settings allow.
    ///
    /// # Errors
    /// [`Invalid::Limit`].
    pub fn check_counts(&self, field: &str, before: &[IdentityKey], after: &[IdentityKey]) -> Result<(), Invalid> {
        for key in after.iter().filter(|key| !before.contains(key)) {
            let kind = key.kind();
            let found = after.iter().filter(|other| other.kind() == kind).count();
            if let Some(limit) = self.limit(kind) {
                Invalid::limit(field, "identities of one type", limit, found)?;
            }
        }
        Ok(())
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let each = |kind: &String| size_of::<String>() + kind.capacity();
        let kinds = self.priority.iter().chain(&self.unique_types).chain(&self.never_link_types);
        size_of::<Self>() + kinds.chain(self.type_limits.keys()).map(each).sum::<usize>()
    }
}

/// The keys of a profile's identities, in the order of the profile.
#[must_use]
pub fn keys_in_order(profile: &Profile) -> Vec<IdentityKey> {
    profile.user_identities.iter().chain(&profile.device_identities).map(IdentityKey::of).collect()
}

fn parse_types(field: &str, types: &[String]) -> Result<Vec<String>, Invalid> {
    Invalid::limit(field, "identity types", SETTINGS_TYPES, types.len())?;
    for (index, kind) in types.iter().enumerate() {
        check_kind(format_args!("{field}[{index}]"), kind)?;
    }
    let types: Vec<_> = types.iter().map(|kind| canonical(kind)).collect();
    match repeated(types.iter()) {
        Some(index) => Err(Invalid::field(format!("{field}[{index}]"), "is the same type as an earlier one")),
        None => Ok(types),
    }
}

fn canonical(kind: &str) -> String {
    kind_of(kind).to_owned()
}
