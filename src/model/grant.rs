//! The part of profiles that a caller may see.
//!
//! A caller without a grant sees everything. For one with a grant, what the grant leaves out is absent from profiles and
//! events, and a request that names it is refused. A refusal depends on the request alone: it tells nothing of a
//! profile.

use std::collections::BTreeSet;

use super::Invalid;
use super::invalid::Quoted;
use super::limits::READER_KEYS;
use crate::proto::field::profile;

/// The fields that every caller sees: they say which profile it is and that it changed.
pub const ALWAYS_VISIBLE: [&str; 4] = ["mpid", "create_time", "update_time", "etag"];

/// The fields and the attributes that a caller may see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Bit n stands for field n of `Profile`.
    fields: u16,
    /// The keys of attributes. `None` means all.
    keys: Option<BTreeSet<Vec<u8>>>,
}

impl Grant {
    /// Parses the names of fields of `Profile` and the keys of attributes that a caller may see. No fields means all of
    /// them, and no keys means all attributes. `None` if there is no limit.
    ///
    /// # Errors
    /// [`Invalid`] if a field does not exist, or there are too many keys.
    pub fn parse(fields: &[String], keys: &[String]) -> Result<Option<Self>, Invalid> {
        Invalid::limit("attribute_keys", "keys", READER_KEYS, keys.len())?;
        if fields.is_empty() && keys.is_empty() {
            return Ok(None);
        }
        let mut granted = ALWAYS_VISIBLE.iter().fold(0, |granted, name| granted | bit(name).unwrap_or_default());
        for name in fields {
            let unknown = || Invalid::field("fields", format!("Profile has no field {}", Quoted(name)));
            granted |= bit(name).ok_or_else(unknown)?;
        }
        let fields = if fields.is_empty() { u16::MAX } else { granted };
        let keys = (!keys.is_empty()).then(|| keys.iter().map(|key| key.clone().into_bytes()).collect());
        Ok(Some(Self { fields, keys }))
    }

    /// Whether the caller may see a field of `Profile`, by its number. It may not see one that this version does not know.
    #[must_use]
    pub fn has_field(&self, number: u32) -> bool {
        self.fields.checked_shr(number).unwrap_or_default() & 1 == 1
    }

    /// Whether the caller may see a field of `Profile`, by its name.
    #[must_use]
    pub fn has_named(&self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.fields & bit != 0)
    }

    /// Whether the caller may see the attribute with this key.
    #[must_use]
    pub fn has_key(&self, key: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// The keys of attributes that the caller may see. `None` means all.
    #[must_use]
    pub fn keys(&self) -> Option<&BTreeSet<Vec<u8>>> {
        self.keys.as_ref()
    }

    /// Whether the caller may see user attributes with this key.
    #[must_use]
    pub fn has_user_attribute(&self, key: &str) -> bool {
        self.has_field(profile::USER_ATTRIBUTES) && self.has_key(key.as_bytes())
    }

    /// Whether the caller may see in which audiences people are.
    #[must_use]
    pub fn has_audiences(&self) -> bool {
        self.has_field(profile::AUDIENCE_MEMBERSHIPS)
    }

    /// Whether the caller may see identities of both kinds.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        self.has_field(profile::DEVICE_IDENTITIES) && self.has_field(profile::USER_IDENTITIES)
    }

    /// Refuses a part of a request that names what the caller may not see.
    ///
    /// # Errors
    /// [`Invalid::Hidden`] unless `is_visible`.
    pub fn check(is_visible: bool, field: &str, name: &str) -> Result<(), Invalid> {
        if is_visible {
            return Ok(());
        }
        Err(Invalid::Hidden { field: field.to_owned(), problem: format!("the caller may not see {}", Quoted(name)) })
    }
}

fn bit(name: &str) -> Option<u16> {
    profile::ALL.iter().find(|(field, _)| *field == name).map(|(_, number)| 1 << number)
}

#[cfg(test)]
mod tests;
