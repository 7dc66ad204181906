//! How much memory a parsed value takes. The queue of the writer is bounded by it.
//!
//! The encoded size is no measure: a map of one entry takes 14 bytes on the wire and more than 632 in memory, because a
//! B-tree allocates whole nodes. So each allocation of the value is counted, with the requested size. The overhead of
//! the allocator is not counted.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

use super::identity::{IdentityKey, ParsedIdentity};
use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile, ProfilePatch};

impl ParsedIdentity {
    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.heap()
    }
}

/// A value that may own memory.
pub(super) trait Heap {
    /// The bytes of memory that it owns beyond its own size.
    fn heap(&self) -> usize;
}

/// The entries that a B-tree node of the standard library can hold.
const NODE_ENTRIES: usize = 11;
/// The entries per node in a tree that grows at its end, including one in the level above. Maps mostly arrive in order,
/// and then this is exact. In any other order, nodes are fuller.
const SPLIT_ENTRIES: usize = 7;

impl<V: Heap> Heap for BTreeMap<String, V> {
    fn heap(&self) -> usize {
        tree_bytes(self.len(), size_of::<String>() + size_of::<V>())
            + self.iter().map(|(key, value)| key.heap() + value.heap()).sum::<usize>()
    }
}

/// The bytes of all nodes of a tree of `len` entries.
fn tree_bytes(len: usize, entry: usize) -> usize {
    let pointer = size_of::<usize>();
    let leaf = (NODE_ENTRIES * entry).next_multiple_of(pointer) + 2 * pointer; // Parent, index in the parent, length.
    let (mut bytes, mut node, mut entries) = (0, leaf, len);
    while entries > 0 {
        let nodes = 1 + entries.saturating_sub(NODE_ENTRIES).div_ceil(SPLIT_ENTRIES);
        bytes += nodes * node;
        (node, entries) = (leaf + (NODE_ENTRIES + 1) * pointer, nodes - 1); // The level above.
    }
    bytes
}

impl<T: Heap> Heap for Vec<T> {
    fn heap(&self) -> usize {
        self.capacity() * size_of::<T>() + self.iter().map(Heap::heap).sum::<usize>()
    }
}

impl<T: Heap> Heap for Option<T> {
    fn heap(&self) -> usize {
        self.as_ref().map_or(0, Heap::heap)
    }
}

impl Heap for String {
    fn heap(&self) -> usize {
        self.capacity()
    }
}

impl Heap for IdentityKey {
    fn heap(&self) -> usize {
        self.as_bytes().len()
    }
}

impl Heap for Kind {
    fn heap(&self) -> usize {
        match self {
            Self::NullValue(_) | Self::NumberValue(_) | Self::BoolValue(_) => 0,
            Self::StringValue(text) => text.heap(),
            Self::StructValue(map) => map.heap(),
            Self::ListValue(list) => list.heap(),
        }
    }
}

macro_rules! owns_nothing {
    ($($type:ty),*) => {$(
        impl Heap for $type {
            fn heap(&self) -> usize {
                0
            }
        }
    )*};
}
owns_nothing!(bool, i64, f64, Timestamp);

/// Names every field, so that a new field does not compile until it is added here.
macro_rules! owns_its_fields {
    ($($type:ty { $($field:ident),* })*) => {$(
        impl Heap for $type {
            fn heap(&self) -> usize {
                let Self { $($field),* } = self;
                0 $(+ $field.heap())*
            }
        }
    )*};
}
owns_its_fields! {
    Struct { fields }
    ListValue { values }
    Value { kind }
    Identity { r#type, encoding, value }
    ParsedIdentity { identity, key }
    AudienceMembership { audience_id, audience_name, expire_time }
    Attribution { partner, campaign, attribute_time }
    Profile {
        mpid, create_time, update_time, is_opted_out, limit_ad_tracking, device_identities, user_identities,
        account_user_attributes, user_attributes, audience_memberships, attribution, etag
    }
    ProfilePatch {
        is_opted_out, limit_ad_tracking, set_user_attributes, remove_user_attributes, increment_user_attributes,
        append_user_attributes, clear_user_attributes, set_account_user_attributes, remove_account_user_attributes,
        add_identities, remove_identities, take_identities, join_audiences, leave_audiences, add_attribution
    }
}
