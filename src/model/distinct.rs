//! Which values of a list are new.
//!
//! A search for each value takes quadratic time: 4,000 values that are appended to lists of 60,000 took the writer
//! 0.2 s. So longer lists are hashed.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use prost_types::Value;
use prost_types::value::Kind;

/// Up to this many values are searched for one by one.
const FEW: usize = 16;

/// The values that are neither in `known` nor earlier in `values`, in order.
pub(super) fn absent<'v>(known: &[Value], values: &'v [Value]) -> Vec<&'v Value> {
    if values.len() <= FEW {
        let seen = |index: usize, value| known.contains(value) || values[..index].contains(value);
        let absent = values.iter().enumerate().filter(|(index, value)| !seen(*index, value));
        return absent.map(|(_, value)| value).collect();
    }
    let mut seen: HashSet<_> = known.iter().map(Hashed).collect();
    values.iter().filter(|value| seen.insert(Hashed(value))).collect()
}

/// A value with a hash. Its numbers are finite, so it is equal to itself.
#[derive(PartialEq)]
struct Hashed<'v>(&'v Value);

impl Eq for Hashed<'_> {}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.0, state);
    }
}

fn hash<H: Hasher>(value: &Value, state: &mut H) {
    std::mem::discriminant(&value.kind).hash(state);
    let Some(kind) = &value.kind else { return };
    std::mem::discriminant(kind).hash(state);
    match kind {
        Kind::NullValue(null) => null.hash(state),
        Kind::NumberValue(number) => (number + 0.0).to_bits().hash(state), // 0 and -0 are equal.
        Kind::StringValue(text) => text.hash(state),
        Kind::BoolValue(bool) => bool.hash(state),
        Kind::StructValue(map) => {
            map.fields.len().hash(state);
            for (key, value) in &map.fields {
                key.hash(state);
                hash(value, state);
            }
        }
        Kind::ListValue(list) => {
            list.values.len().hash(state);
            list.values.iter().for_each(|value| hash(value, state));
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{ListValue, Struct};

    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn map(key: &str, inner: Value) -> Value {
        value(Kind::StructValue(Struct { fields: [(key.to_owned(), inner)].into() }))
    }

    /// Values of every kind. Only 0 and -0 are equal, also inside another value.
    fn values() -> Vec<Value> {
        let [zero, minus, one] = [0.0, -0.0, 1.0].map(|number| value(Kind::NumberValue(number)));
        let list = |values| value(Kind::ListValue(ListValue { values }));
        let texts = ["", "a", "b"].map(|text| value(Kind::StringValue(text.into())));
        let others = [false, true].map(|bool| value(Kind::BoolValue(bool)));
        let nulls = [0, 1].map(|null| value(Kind::NullValue(null)));
        let nested = [
            list(vec![]),
            list(vec![zero.clone()]),
            list(vec![minus.clone()]),
            list(vec![list(vec![])]),
            value(Kind::StructValue(Struct::default())),
            map("k", zero.clone()),
            map("k", minus.clone()),
            map("l", zero.clone()),
        ];
        [zero, minus, one].into_iter().chain(texts).chain(others).chain(nulls).chain(nested).collect()
    }

    /// The same by comparing every pair.
    fn one_by_one<'v>(known: &[Value], values: &'v [Value]) -> Vec<&'v Value> {
        let mut absent: Vec<&Value> = Vec::new();
        for value in values {
            if !known.contains(value) && !absent.contains(&value) {
                absent.push(value);
            }
        }
        absent
    }

    #[test]
    fn many_values_are_told_apart_as_few_are() {
        let values = values();
        let twice = [values.clone(), values.clone()].concat();
        assert!(twice.len() > 2 * FEW);
        assert_eq!(absent(&[], &twice), one_by_one(&[], &twice));
        assert_eq!(absent(&[], &twice).len(), values.len() - 3, "0 and -0, alone, in a list and in a map");
        assert_eq!(absent(&values, &twice), [] as [&Value; 0]);
        for (index, known) in values.iter().enumerate() {
            let known = std::slice::from_ref(known);
            assert_eq!(absent(known, &twice), one_by_one(known, &twice), "without value {index}");
            assert_eq!(absent(known, &values[..FEW]), one_by_one(known, &values[..FEW]), "without value {index}");
        }
    }
}
