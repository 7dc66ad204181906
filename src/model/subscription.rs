//! Durable subscriptions: their names and settings, and shares of the profiles.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::workspace::is_part;
use super::{Filter, Invalid, Mask, Mpid};
use crate::proto::v1::{self, OnExpired};

/// The most shards of a workspace.
const SHARDS: u32 = 1_024;

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
    /// Parses the subscription in `field` of a request. What is output only is ignored.
    ///
    /// # Errors
    /// [`Invalid`] if a setting is malformed.
    pub fn parse(field: &str, subscription: v1::Subscription) -> Result<Self, Invalid> {
        let v1::Subscription { name, filter, read_mask, user_attribute_keys, shard, on_expired, .. } = subscription;
        let parsed = SubscriptionName::parse(format_args!("{field}.name"), &name)?;
        let of_shard = shard.map(|shard| Shard::parse(&format!("{field}.shard"), shard)).transpose()?;
        let unknown = |_| Invalid::field(format_args!("{field}.on_expired"), "is not a known value");
        let on_expired_parsed = OnExpired::try_from(on_expired).map_err(unknown)?;
        Ok(Self {
            name: parsed,
            filter: Filter::parse(filter.clone())?.of_shard(of_shard),
            mask: Mask::parse(read_mask.clone(), user_attribute_keys.clone())?,
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

/// A share of the profiles of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// Parses the shard in `field` of a request.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is not one of 1 to 1,024 shards.
    pub fn parse(field: &str, shard: v1::Shard) -> Result<Self, Invalid> {
        let v1::Shard { index, count } = shard;
        if !(1..=SHARDS).contains(&count) {
            return Err(Invalid::field(format_args!("{field}.count"), "must be 1 to 1024"));
        }
        if index >= count {
            return Err(Invalid::field(format_args!("{field}.index"), "must be below the count"));
        }
        Ok(Self { index, count })
    }

    /// Whether a profile belongs to it. The hash is part of the contract: a reader that counts on it may have stored
    /// which shard has which profile.
    #[must_use]
    pub fn holds(self, mpid: Mpid) -> bool {
        let hash = u128::from(xxh3_64(&mpid.get().to_le_bytes()));
        hash * u128::from(self.count) >> u64::BITS == u128::from(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_is_in_one_shard_and_the_shards_are_even() {
        for count in [1, 2, 3, 7, 1_024] {
            let shards: Vec<_> =
                (0..count).map(|index| Shard::parse("shard", v1::Shard { index, count }).unwrap()).collect();
            let mut sizes = vec![0_u32; shards.len()];
            for mpid in (-5_000..=5_000).filter_map(Mpid::new) {
                let of: Vec<_> = shards.iter().enumerate().filter(|(_, shard)| shard.holds(mpid)).collect();
                assert_eq!(of.len(), 1, "{mpid} of {count}");
                sizes[of[0].0] += 1;
            }
            let even = 10_000 / count;
            assert!(sizes.iter().all(|size| count == 1_024 || size.abs_diff(even) < even / 10), "{count}: {sizes:?}");
        }
    }

    #[test]
    fn a_shard_is_one_of_1_to_1024() {
        let parse = |index, count| Shard::parse("shard", v1::Shard { index, count });
        let refused = |index, count| parse(index, count).unwrap_err().to_string();
        assert!(parse(1_023, 1_024).is_ok());
        assert_eq!(refused(0, 0), "shard.count: must be 1 to 1024");
        assert_eq!(refused(0, 1_025), "shard.count: must be 1 to 1024");
        assert_eq!(refused(3, 3), "shard.index: must be below the count");
    }

    #[test]
    fn a_name_is_64_characters_without_spaces() {
        let parse = |name: &str| SubscriptionName::parse("name", name);
        assert_eq!(parse(&"aB-_9".repeat(12)).unwrap().as_str(), "aB-_9".repeat(12));
        for wrong in ["", "a b", "a/b", "ü", &"a".repeat(65)] {
            assert_eq!(parse(wrong).unwrap_err().to_string(), "name: must be 1 to 64 characters of A-Za-z0-9_-");
        }
    }
}
