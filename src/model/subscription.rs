//! Durable subscriptions: their names and settings.

use std::fmt;
use std::sync::Arc;

use super::limits::SETTINGS_BYTES;
use super::workspace::is_part;
use super::{Filter, Grant, Invalid, Mask, Shard};
use crate::proto::v1::{self, OnExpired};

/// The name of a subscription: 1 to 64 characters of `A-Za-z0-9_-`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionName(Arc<str>);

impl SubscriptionName {
    /// Parses a field that must name a subscription.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is malformed.
    pub fn parse(field: impl fmt::Display, name: &str) -> Result<Self, Invalid> {
        let malformed = || Invalid::field(field, "must be 1 to 64 characters of A-Za-z0-9_-");
        if is_part(name) { Ok(Self(name.into())) } else { Err(malformed()) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The name.
    pub name: SubscriptionName,
    /// What it delivers.
    pub filter: Filter,
    /// The parts to deliver of the profiles.
    pub mask: Mask,
    /// What happens when the log no longer holds what follows.
    pub on_expired: OnExpired,
    /// The settings as the caller gave them. Everything else in the message is unset.
    message: Box<v1::Subscription>,
}

impl Settings {
    /// Parses the subscription in `field` of a request. What is output only is ignored. `grant` is what the caller may
    /// see.
    ///
    /// # Errors
    /// [`Invalid`] if a setting is malformed, or names what the caller may not see.
    pub fn parse(field: &str, subscription: v1::Subscription, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        let subscription_len = prost::Message::encoded_len(&subscription);
        let v1::Subscription { name, filter, read_mask, user_attribute_keys, shard, on_expired, .. } = subscription;
        let parsed = SubscriptionName::parse(format_args!("{field}.name"), &name)?;
        let of_shard = shard.map(|shard| Shard::parse(&format!("{field}.shard"), shard)).transpose()?;
        let unknown = |_| Invalid::field(format_args!("{field}.on_expired"), "is not a known value");
        let on_expired_parsed = OnExpired::try_from(on_expired).map_err(unknown)?;
        Invalid::limit(field, "bytes", SETTINGS_BYTES, subscription_len)?;
        Ok(Self {
            name: parsed,
            filter: Filter::parse(filter.clone(), grant)?.of_shard(of_shard),
            mask: Mask::parse(read_mask.clone(), user_attribute_keys.clone(), grant)?,
            on_expired: on_expired_parsed,
            message: Box::new(v1::Subscription {
                name,
                filter,
                read_mask,
                user_attribute_keys,
                shard,
                on_expired,
                ..v1::Subscription::default()
            }),
        })
    }

    /// These settings over others: those that `paths` names, or all if it names none.
    #[must_use]
    pub fn over(&self, others: &v1::Subscription, paths: &[String]) -> v1::Subscription {
        let is_named = |name: &str| paths.is_empty() || paths.iter().any(|path| path == "*" || path == name);
        let mut merged = others.clone();
        macro_rules! take {
            ($($field:ident),*) => {$(
                if is_named(stringify!($field)) {
                    merged.$field.clone_from(&self.message.$field);
                }
            )*};
        }
        take!(filter, read_mask, user_attribute_keys, shard, on_expired);
        merged
    }

    /// The settings as a message, in which everything else is unset.
    #[must_use]
    pub fn message(&self) -> &v1::Subscription {
        &self.message
    }

    /// The memory that they take beyond their own size, in bytes, at most about.
    #[must_use]
    pub fn weight(&self) -> usize {
        4 * prost::Message::encoded_len(&*self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_64_characters_without_spaces() {
        let parse = |name: &str| SubscriptionName::parse("name", name);
        assert_eq!(parse(&"aB-_9".repeat(12)).unwrap().as_str(), "aB-_9".repeat(12));
        for wrong in ["", "a b", "a/b", "ü", &"a".repeat(65)] {
            assert_eq!(parse(wrong).unwrap_err().to_string(), "name: must be 1 to 64 characters of A-Za-z0-9_-");
        }
    }
}
