//! Audiences: named sets of profiles.

use std::fmt;
use std::num::NonZeroI64;

use super::limits::{DESCRIPTION_BYTES, NAME_BYTES};
use super::{Invalid, Micros};
use crate::proto::v1::Audience;

/// The id of an audience in its workspace: any 64-bit integer except 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AudienceId(NonZeroI64);

impl AudienceId {
    /// Parses a field that must name an audience.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is 0.
    pub fn parse(field: impl fmt::Display, id: i64) -> Result<Self, Invalid> {
        Self::new(id).ok_or_else(|| Invalid::field(field, "must not be 0"))
    }

    /// `None` for 0.
    #[must_use]
    pub fn new(id: i64) -> Option<Self> {
        NonZeroI64::new(id).map(Self)
    }

    /// A random positive id.
    #[must_use]
    pub fn draw() -> Self {
        Self::new(rand::random_range(1..=i64::MAX)).expect("the range has no 0")
    }

    /// The id to try next if this one was chosen at random and is in use.
    #[must_use]
    pub fn next_drawn(self) -> Self {
        Self::new(self.get().checked_add(1).unwrap_or(1)).unwrap_or(self)
    }

    /// The number, as in a message.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for AudienceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A valid audience that may be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudience {
    /// Its id.
    pub id: AudienceId,
    /// Its name: 1 to 256 bytes.
    pub name: String,
    /// What it is for: at most 1,024 bytes.
    pub description: String,
}

impl NewAudience {
    /// Parses the audience in `field` of a request. It gets `id` if it has none. What is output only is ignored.
    ///
    /// # Errors
    /// [`Invalid`] if its name or its description is missing or too long.
    pub fn parse(field: &str, audience: Audience, id: AudienceId) -> Result<Self, Invalid> {
        let Audience { audience_id, name, description, .. } = audience;
        if name.is_empty() {
            return Err(Invalid::field(format_args!("{field}.name"), "must not be empty"));
        }
        Invalid::limit(format_args!("{field}.name"), "audience name bytes", NAME_BYTES, name.len())?;
        let (subject, found) = ("audience description bytes", description.len());
        Invalid::limit(format_args!("{field}.description"), subject, DESCRIPTION_BYTES, found)?;
        Ok(Self { id: AudienceId::new(audience_id).unwrap_or(id), name, description })
    }

    /// The message, registered at this time. The caller fills in the rest of what is output only.
    #[must_use]
    pub fn into_message(self, time: Micros) -> Audience {
        let Self { id, name, description } = self;
        let create_time = Some(time.to_timestamp());
        Audience { audience_id: id.get(), name, description, create_time, ..Audience::default() }
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.name.capacity() + self.description.capacity()
    }
}
