//! Which parts of a profile a reader wants to see. A mask cuts wire bytes and decodes nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use prost::DecodeError;
use prost_types::FieldMask;

use super::invalid::Quoted;
use super::limits::READER_KEYS;
use super::{Invalid, wire};
use crate::proto::field::{event, profile, struct_fields_entry, struct_message};

/// [`Mask`] has a bit for each field of `Profile`.
const _: () = assert!(profile::ALL[profile::ALL.len() - 1].1 < u16::BITS);

/// A parsed `read_mask` with its `user_attribute_keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Mask {
    /// Bit n stands for field n of `Profile`. `None` means all fields.
    fields: Option<u16>,
    /// `None` means all keys.
    keys: Option<BTreeSet<Vec<u8>>>,
}

impl Mask {
    /// Parses the mask of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it names a field that `Profile` does not have, or too many keys.
    pub fn parse(mask: Option<FieldMask>, keys: Vec<String>) -> Result<Self, Invalid> {
        Invalid::limit("user_attribute_keys", "keys", READER_KEYS, keys.len())?;
        let keys: BTreeSet<_> = keys.into_iter().map(String::into_bytes).collect();
        let paths = mask.unwrap_or_default().paths;
        let mut fields = 0;
        for path in &paths {
            fields |= if path == "*" { u16::MAX } else { 1 << field_number(path)? };
        }
        Ok(Self {
            fields: (!paths.is_empty() && fields != u16::MAX).then_some(fields),
            keys: (!keys.is_empty()).then_some(keys),
        })
    }

    /// Whether it keeps everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.fields.is_none() && self.keys.is_none()
    }

    /// Cuts an encoded `Profile` to what the reader wants to see.
    ///
    /// # Errors
    /// If the profile is malformed.
    pub fn profile<'a>(&self, profile: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.is_all() {
            return Ok(Cow::Borrowed(profile));
        }
        let mut cut = Vec::with_capacity(profile.len());
        for field in wire::fields(profile) {
            let field = field?;
            if self.fields.is_some_and(|fields| fields >> field.tag & 1 == 0) {
                continue;
            }
            match &self.keys {
                Some(keys) if field.tag == profile::USER_ATTRIBUTES => {
                    wire::put_delimited(field.tag, &cut_struct(field.value, keys)?, &mut cut);
                }
                _ => cut.extend_from_slice(field.whole),
            }
        }
        Ok(Cow::Owned(cut))
    }

    /// Cuts the profiles inside an encoded `Event` to what the reader wants to see.
    ///
    /// # Errors
    /// If the event is malformed.
    pub fn event<'a>(&self, event: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.is_all() {
            return Ok(Cow::Borrowed(event));
        }
        let mut cut = Vec::with_capacity(event.len());
        for field in wire::fields(event) {
            let field = field?;
            if matches!(field.tag, event::PROFILE | event::PREVIOUS | event::MERGED_PROFILE) {
                wire::put_delimited(field.tag, &self.profile(field.value)?, &mut cut);
            } else {
                cut.extend_from_slice(field.whole);
            }
        }
        Ok(Cow::Owned(cut))
    }
}

fn field_number(path: &str) -> Result<u32, Invalid> {
    if let Some((_, number)) = profile::ALL.iter().find(|(field, _)| *field == path) {
        return Ok(*number);
    }
    let inner =
        profile::ALL.iter().any(|(field, _)| path.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')));
    let path = Quoted(path);
    let problem = if inner {
        format!("must name a whole field, not {path}; user_attribute_keys selects user attributes")
    } else {
        format!("Profile has no field {path}")
    };
    Err(Invalid::Mask { field: "read_mask", problem })
}

fn cut_struct(map: &[u8], keys: &BTreeSet<Vec<u8>>) -> Result<Vec<u8>, DecodeError> {
    let mut cut = Vec::new();
    for entry in wire::fields(map) {
        let entry = entry?;
        let key = wire::find(entry.value, struct_fields_entry::KEY)?.unwrap_or_default();
        if entry.tag == struct_message::FIELDS && keys.contains(key) {
            cut.extend_from_slice(entry.whole);
        }
    }
    Ok(cut)
}
