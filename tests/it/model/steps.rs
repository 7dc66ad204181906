//! The steps of a test, at random, and how each is said to the API.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cameo::proto::v1::*;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::harness::*;

/// The mpids that callers choose: few, so that steps meet on the same profiles.
const MPIDS: Range<i64> = 1..5;
/// The numbers of emails and of customer ids.
const NAMES: Range<u8> = 0..3;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Number(i32),
    Text(String),
    List(Vec<i32>),
}

/// An identity. An email moves between profiles; a customer id stays with the profile that was created under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Email(u8),
    Customer(u8),
}

/// What a request names a profile by.
#[derive(Debug, Clone)]
pub enum Key {
    Mpid(i64),
    Name(Name),
}

/// The one thing that a patch does to an attribute.
#[derive(Debug, Clone)]
pub enum Edit {
    Set(Attribute),
    Remove,
    Increment(i32),
    Append(Vec<i32>),
}

#[derive(Debug, Clone)]
pub struct Patch {
    pub opted_out: Option<bool>,
    pub clear: bool,
    pub edits: BTreeMap<String, Edit>,
    /// Emails to add (`true`) or to remove.
    pub emails: BTreeMap<u8, bool>,
    pub take: bool,
}

/// One step of a test: a call, or a restart of the server.
#[derive(Debug, Clone)]
pub enum Step {
    Create { mpid: i64, emails: BTreeSet<u8> },
    Update { key: Key, patch: Patch, allow_missing: bool },
    Delete(Key),
    Batch(Vec<Key>),
    List { page_size: i32 },
    Import(Vec<(Key, Patch)>),
    Restart,
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        (0..3).prop_map(Attribute::Number),
        "[xy]".prop_map(Attribute::Text),
        vec(0..3, 0..3).prop_map(Attribute::List),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => attribute().prop_map(Edit::Set),
        1 => Just(Edit::Remove),
        2 => (-1..3).prop_map(Edit::Increment),
        1 => vec(0..4, 0..3).prop_map(Edit::Append),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        3 => MPIDS.prop_map(Key::Mpid),
        2 => NAMES.prop_map(|n| Key::Name(Name::Customer(n))),
        1 => NAMES.prop_map(|n| Key::Name(Name::Email(n))),
    ]
}

/// A key that may create a profile, because the test then knows whose key it is. An email may belong to anybody.
fn creating_key() -> impl Strategy<Value = Key> {
    prop_oneof![MPIDS.prop_map(Key::Mpid), NAMES.prop_map(|n| Key::Name(Name::Customer(n)))]
}

prop_compose! {
    fn patch()(
        opted_out in proptest::option::weighted(0.2, any::<bool>()),
        clear in proptest::bool::weighted(0.1),
        edits in btree_map("[abc]", edit(), 0..3),
        emails in btree_map(NAMES, proptest::bool::weighted(0.7), 0..2),
        take in any::<bool>(),
    ) -> Patch {
        Patch { opted_out, clear, edits, emails, take }
    }
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (MPIDS, btree_set(NAMES, 0..2)).prop_map(|(mpid, emails)| Step::Create { mpid, emails }),
        6 => (key(), patch()).prop_map(|(key, patch)| Step::Update { key, patch, allow_missing: false }),
        3 => (creating_key(), patch()).prop_map(|(key, patch)| Step::Update { key, patch, allow_missing: true }),
        2 => key().prop_map(Step::Delete),
        2 => vec(key(), 1..6).prop_map(Step::Batch),
        2 => (1..4).prop_map(|page_size| Step::List { page_size }),
        3 => vec((creating_key(), patch()), 0..8).prop_map(Step::Import),
        1 => Just(Step::Restart),
    ]
}

impl Attribute {
    #[allow(clippy::cast_possible_truncation)] // Whole and small.
    pub fn of(value: &Value) -> Self {
        let whole = |number: f64| {
            assert!(number.fract() == 0.0);
            number as i32
        };
        match value.kind.as_ref().unwrap() {
            Kind::NumberValue(number) => Self::Number(whole(*number)),
            Kind::StringValue(text) => Self::Text(text.clone()),
            Kind::ListValue(list) => Self::List(
                list.values
                    .iter()
                    .map(|value| match Self::of(value) {
                        Self::Number(number) => number,
                        other => panic!("{other:?} in a list"),
                    })
                    .collect(),
            ),
            other => panic!("{other:?}"),
        }
    }

    pub fn to_value(&self) -> Value {
        match self {
            Self::Number(value) => number((*value).into()),
            Self::Text(value) => text(value),
            Self::List(values) => value(Kind::ListValue(numbers(values))),
        }
    }
}

fn numbers(values: &[i32]) -> ListValue {
    list(values.iter().map(|value| number((*value).into())))
}

impl Name {
    pub fn identity(&self) -> Identity {
        match self {
            Self::Email(n) => email(&format!("e{n}")),
            Self::Customer(n) => identity("customer_id", &format!("c{n}")),
        }
    }

    pub fn of(identity: &Identity) -> Self {
        let all = NAMES.flat_map(|n| [Self::Email(n), Self::Customer(n)]);
        all.into_iter().find(|name| name.identity() == *identity).unwrap()
    }
}

impl Key {
    pub fn to_key(&self) -> ProfileKey {
        match self {
            Self::Mpid(mpid) => by_mpid(*mpid),
            Self::Name(name) => by_identity(name.identity()),
        }
    }
}

impl Patch {
    pub fn to_patch(&self) -> ProfilePatch {
        let mut patch = ProfilePatch {
            is_opted_out: self.opted_out,
            clear_user_attributes: self.clear,
            take_identities: self.take,
            ..ProfilePatch::default()
        };
        let mut set = BTreeMap::new();
        for (key, edit) in self.edits.clone() {
            match edit {
                Edit::Set(value) => drop(set.insert(key, value.to_value())),
                Edit::Remove => patch.remove_user_attributes.push(key),
                Edit::Increment(by) => drop(patch.increment_user_attributes.insert(key, by.into())),
                Edit::Append(values) => drop(patch.append_user_attributes.insert(key, numbers(&values))),
            }
        }
        patch.set_user_attributes = Some(Struct { fields: set });
        for (n, add) in &self.emails {
            let side = if *add { &mut patch.add_identities } else { &mut patch.remove_identities };
            side.push(Name::Email(*n).identity());
        }
        patch
    }
}
