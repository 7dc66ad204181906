//! Which parts of a profile a reader wants to see. A mask cuts wire bytes and decodes nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use prost::DecodeError;
use prost_types::FieldMask;

use super::grant::Grant;
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
    /// What the caller may see at most. `None` means everything.
    grant: Option<Arc<Grant>>,
}

impl Mask {
    /// Parses the mask of a request. `grant` is what its caller may see; without a mask, that is what it sees.
    ///
    /// # Errors
    /// [`Invalid`] if it names a field that `Profile` does not have or the caller may not see, or too many keys.
    pub fn parse(mask: Option<FieldMask>, keys: Vec<String>, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        Invalid::limit("user_attribute_keys", "keys", READER_KEYS, keys.len())?;
        if let Some(grant) = grant {
            let is_visible = |key: &&String| grant.has_user_attribute(key);
            let hidden = keys.iter().find(|key| !is_visible(key));
            hidden.map_or(Ok(()), |key| Grant::check(false, "user_attribute_keys", key))?;
        }
        let keys: BTreeSet<_> = keys.into_iter().map(String::into_bytes).collect();
        let paths = mask.unwrap_or_default().paths;
        let mut fields = 0;
        for path in &paths {
            if path == "*" {
                fields = u16::MAX;
                continue;
            }
            let number = field_number(path)?;
            Grant::check(grant.is_none_or(|grant| grant.has_field(number)), "read_mask", path)?;
            fields |= 1 << number;
        }
        Ok(Self {
            fields: (!paths.is_empty() && fields != u16::MAX).then_some(fields),
            keys: (!keys.is_empty()).then_some(keys),
            grant: grant.cloned(),
        })
    }

    /// Whether it keeps everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.fields.is_none() && self.keys.is_none() && self.grant.is_none()
    }

    /// Cuts an encoded `Profile` to what the reader wants to see.
    ///
    /// # Errors
    /// If the profile is malformed.
    pub fn profile<'a>(&self, profile: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.is_all() {
            return Ok(Cow::Borrowed(profile));
        }
        self.cut(profile, |tag| self.has_field(tag)).map(Cow::Owned)
    }

    /// The same for a profile of a snapshot. It always has its mpid: nothing else around it says whose it is.
    ///
    /// # Errors
    /// If the profile is malformed.
    pub fn snapshot_profile<'a>(&self, profile: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
        if self.is_all() {
            return Ok(Cow::Borrowed(profile));
        }
        self.cut(profile, |tag| tag == profile::MPID || self.has_field(tag)).map(Cow::Owned)
    }

    /// Cuts an encoded `Profile` to some of its fields, and those to the keys that the reader wants to see.
    fn cut(&self, profile: &[u8], is_kept: impl Fn(u32) -> bool) -> Result<Vec<u8>, DecodeError> {
        let mut cut = Vec::with_capacity(profile.len());
        for field in wire::fields(profile) {
            let field = field?;
            if !is_kept(field.tag) {
                continue;
            }
            match self.keys_of(field.tag) {
                Some(keys) => {
                    let left = cut_struct(field.value, keys)?;
                    // An empty map would tell of attributes that the caller may not see.
                    if self.grant.is_none() || !left.is_empty() {
                        wire::put_delimited(field.tag, &left, &mut cut);
                    }
                }
                None => cut.extend_from_slice(field.whole),
            }
        }
        Ok(cut)
    }

    /// Whether the reader gets a field of `Profile`. A field that this version does not know has no name.
    fn has_field(&self, tag: u32) -> bool {
        self.fields.is_none_or(|fields| fields.checked_shr(tag).unwrap_or_default() & 1 == 1)
            && self.grant.as_ref().is_none_or(|grant| grant.has_field(tag))
    }

    /// The keys to keep of a field. `None` means all of it. A request names only keys that its caller may see.
    fn keys_of(&self, tag: u32) -> Option<&BTreeSet<Vec<u8>>> {
        let granted = || self.grant.as_ref().and_then(|grant| grant.keys());
        match tag {
            profile::USER_ATTRIBUTES => self.keys.as_ref().or_else(granted),
            profile::ACCOUNT_USER_ATTRIBUTES => granted(),
            _ => None,
        }
    }

    /// Cuts the profiles inside an encoded `Event` to what the reader wants to see, and what else the event tells to what
    /// the caller may see.
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
            match (field.tag, &self.grant) {
                (event::PREVIOUS, Some(grant)) => {
                    // It has all account attributes if one of them changed, and then tells that one did.
                    let is_told = account_has_changed(grant, event)?;
                    let is_kept = |tag| self.has_field(tag) && (is_told || tag != profile::ACCOUNT_USER_ATTRIBUTES);
                    wire::put_delimited(field.tag, &self.cut(field.value, is_kept)?, &mut cut);
                }
                (event::PROFILE | event::PREVIOUS | event::MERGED_PROFILE, _) => {
                    wire::put_delimited(field.tag, &self.profile(field.value)?, &mut cut);
                }
                (_, Some(grant)) => put_granted(grant, event, &field, &mut cut)?,
                (_, None) => cut.extend_from_slice(field.whole),
            }
        }
        Ok(Cow::Owned(cut))
    }
}

/// Writes a field of an event, without the names of what the caller may not see.
fn put_granted(grant: &Grant, event: &[u8], field: &wire::Field<'_>, cut: &mut Vec<u8>) -> Result<(), DecodeError> {
    let is_visible = match field.tag {
        event::CHANGED_FIELDS => {
            let paths = cut_paths(grant, event, field.value)?;
            wire::put_delimited(field.tag, &paths, cut);
            return Ok(());
        }
        event::CHANGED_USER_ATTRIBUTES => grant.has_field(profile::USER_ATTRIBUTES) && grant.has_key(field.value),
        event::ENTERED_AUDIENCE_IDS | event::EXITED_AUDIENCE_IDS => grant.has_audiences(),
        event::TAKEN_FROM_MPIDS | event::TAKEN_BY_MPID => grant.has_identities(),
        event::REQUEST_ID => false, // Others chose it, and may have put a name into it.
        _ => true,
    };
    if is_visible {
        cut.extend_from_slice(field.whole);
    }
    Ok(())
}

/// Cuts `changed_fields`. That attributes changed is said only if the caller may see one of them.
fn cut_paths(grant: &Grant, event: &[u8], mask: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut cut = Vec::new();
    for path in wire::fields(mask) {
        let path = path?;
        let name = std::str::from_utf8(path.value).unwrap_or_default();
        let is_told = match field_number(name) {
            Ok(profile::USER_ATTRIBUTES) => grant.has_field(profile::USER_ATTRIBUTES) && has_changed(grant, event)?,
            Ok(profile::ACCOUNT_USER_ATTRIBUTES) => {
                grant.has_field(profile::ACCOUNT_USER_ATTRIBUTES) && account_has_changed(grant, event)?
            }
            Ok(number) => grant.has_field(number),
            Err(_) => false,
        };
        if is_told {
            cut.extend_from_slice(path.whole);
        }
    }
    Ok(cut)
}

/// Whether a user attribute that the caller may see has changed. Of a created or deleted profile only the fields that
/// have a value are named, and not the attributes.
fn has_changed(grant: &Grant, event: &[u8]) -> Result<bool, DecodeError> {
    let mut is_named = false;
    for field in wire::fields(event) {
        let field = field?;
        if field.tag == event::CHANGED_USER_ATTRIBUTES {
            is_named = true;
            if grant.has_key(field.value) {
                return Ok(true);
            }
        }
    }
    Ok(!is_named && grant.keys().is_none())
}

/// Whether an account attribute that the caller may see has changed. Of a created profile there is none before, and of
/// a deleted one none after.
fn account_has_changed(grant: &Grant, event: &[u8]) -> Result<bool, DecodeError> {
    let Some(keys) = grant.keys() else { return Ok(true) };
    let visible = |of| -> Result<Vec<u8>, DecodeError> {
        let profile = wire::find(event, of)?.unwrap_or_default();
        cut_struct(wire::find(profile, profile::ACCOUNT_USER_ATTRIBUTES)?.unwrap_or_default(), keys)
    };
    Ok(visible(event::PROFILE)? != visible(event::PREVIOUS)?)
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
        if entry.tag == struct_message::FIELDS && keys.contains(key_of(entry.value)?) {
            cut.extend_from_slice(entry.whole);
        }
    }
    Ok(cut)
}

/// The key of an entry. Of several, the last one counts, as for those who decode the entry.
fn key_of(entry: &[u8]) -> Result<&[u8], DecodeError> {
    let mut key: &[u8] = &[];
    for field in wire::fields(entry) {
        let field = field?;
        if field.tag == struct_fields_entry::KEY {
            key = field.value;
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::v1::Profile;

    fn mask(paths: &[&str], keys: &[&str]) -> Mask {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Mask::parse(Some(FieldMask { paths: owned(paths) }), owned(keys), None).unwrap()
    }

    /// A newer version stored it, before the operator went back to this one. The mask has 16 bits, and `mpid` is field 1.
    #[test]
    fn no_mask_names_a_field_of_a_newer_version() {
        let known = Profile { mpid: 7, ..Profile::default() }.encode_to_vec();
        for newer in [13, 15, 16, 17, 1_000] {
            let mut profile = known.clone();
            wire::put_delimited(newer, b"new", &mut profile);
            assert_eq!(*mask(&["mpid"], &[]).profile(&profile).unwrap(), *known, "field {newer}");
            assert_eq!(*mask(&["*"], &["plan"]).profile(&profile).unwrap(), *profile, "field {newer}");
        }
    }

    #[test]
    fn a_profile_of_a_snapshot_has_its_mpid_whatever_the_mask_names() {
        let profile = Profile { mpid: 7, etag: "e".into(), is_opted_out: true, ..Profile::default() }.encode_to_vec();
        let cut = |paths: &[&str]| Profile::decode(&*mask(paths, &[]).snapshot_profile(&profile).unwrap()).unwrap();
        assert_eq!(cut(&["etag"]), Profile { mpid: 7, etag: "e".into(), ..Profile::default() });
        assert_eq!(cut(&["mpid"]), Profile { mpid: 7, ..Profile::default() });
        assert_eq!(cut(&[]).encode_to_vec(), profile);
    }

    #[test]
    fn an_entry_with_two_keys_has_the_one_that_a_decoder_sees() {
        let mut entry = Vec::new();
        wire::put_delimited(struct_fields_entry::KEY, b"plan", &mut entry);
        wire::put_delimited(struct_fields_entry::KEY, b"secret", &mut entry);
        let (mut map, mut profile) = (Vec::new(), Vec::new());
        wire::put_delimited(struct_message::FIELDS, &entry, &mut map);
        wire::put_delimited(profile::USER_ATTRIBUTES, &map, &mut profile);
        let keys_after = |key| {
            let cut = Profile::decode(&*mask(&[], &[key]).profile(&profile).unwrap()).unwrap();
            cut.user_attributes.unwrap().fields.into_keys().collect::<Vec<_>>()
        };
        assert_eq!((keys_after("plan"), keys_after("secret")), (vec![], vec!["secret".to_owned()]));
    }
}
