//! How a request identifies a profile.

use std::fmt::Display;
use std::sync::Arc;

use super::identity::ParsedIdentity;
use super::weight::Heap;
use super::{Grant, Invalid, Limits, Mpid};
use crate::proto::v1::{self, profile_key};

/// The mpid of a profile, or any identity that the profile owns.
#[derive(Debug, Clone, PartialEq)]
pub enum ProfileKey {
    /// The profile's mpid.
    Mpid(Mpid),
    /// An identity that the profile owns.
    Identity(ParsedIdentity),
}

impl ProfileKey {
    /// Parses the `ProfileKey` in `field` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it is absent, empty or malformed.
    pub fn parse(field: impl Display + Copy, key: Option<v1::ProfileKey>, limits: &Limits) -> Result<Self, Invalid> {
        match key.and_then(|key| key.key) {
            Some(profile_key::Key::Mpid(mpid)) => Mpid::parse(format_args!("{field}.mpid"), mpid).map(Self::Mpid),
            Some(profile_key::Key::Identity(identity)) => {
                ParsedIdentity::parse(format_args!("{field}.identity"), identity, limits).map(Self::Identity)
            }
            None => Err(Invalid::field(field, "either mpid or identity must be set")),
        }
    }

    /// Refuses an identity to a caller that may not see identities of its kind: whether it is found would tell.
    ///
    /// # Errors
    /// [`Invalid::Hidden`].
    pub fn check_within(&self, field: &str, grant: Option<&Arc<Grant>>) -> Result<(), Invalid> {
        let (Self::Identity(identity), Some(grant)) = (self, grant) else { return Ok(()) };
        let kind = if identity.identity.is_device() { "device_identities" } else { "user_identities" };
        Grant::check(grant.has_named(kind), field, kind)
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let heap = match self {
            Self::Mpid(_) => 0,
            Self::Identity(identity) => identity.heap(),
        };
        size_of::<Self>() + heap
    }
}

impl From<&ProfileKey> for v1::ProfileKey {
    fn from(key: &ProfileKey) -> Self {
        let key = match key {
            ProfileKey::Mpid(mpid) => profile_key::Key::Mpid(mpid.get()),
            ProfileKey::Identity(ParsedIdentity { identity, .. }) => profile_key::Key::Identity(identity.clone()),
        };
        Self { key: Some(key) }
    }
}
