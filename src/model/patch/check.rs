//! What a patch may not hold, however the profile looks that it changes.

use std::collections::BTreeMap;

use prost_types::Value;
use prost_types::value::Kind;

use super::super::identity::repeated;
use super::super::invalid::AttributeIn;
use super::super::limits::APPENDED_VALUES;
use super::super::profile::{check_attribute, check_attribute_key, check_attributes, check_memberships, check_value};
use super::super::{Invalid, Limits};
use crate::proto::v1::ProfilePatch;

pub(super) fn check_user_attributes(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    check_attributes("patch.set_user_attributes", patch.set_user_attributes.as_ref(), limits)?;
    let named = patch.remove_user_attributes.len();
    Invalid::limit("patch.remove_user_attributes", "attributes", limits.attributes, named)?;
    let named = patch.increment_user_attributes.len();
    Invalid::limit("patch.increment_user_attributes", "attributes", limits.attributes, named)?;
    let named = patch.append_user_attributes.len();
    Invalid::limit("patch.append_user_attributes", "attributes", limits.attributes, named)?;
    for (key, by) in &patch.increment_user_attributes {
        let by = Value { kind: Some(Kind::NumberValue(*by)) }; // As large as the sum.
        check_attribute("patch.increment_user_attributes", key, &by, limits)?;
    }
    for (key, values) in &patch.append_user_attributes {
        let field = "patch.append_user_attributes";
        check_attribute_key(field, key, limits)?;
        let attribute = AttributeIn(field, key);
        Invalid::limit(attribute, "appended values", APPENDED_VALUES, values.values.len())?;
        values.values.iter().try_for_each(|value| check_value(attribute, value, 2))?;
    }
    let set = patch.set_user_attributes.iter().flat_map(|map| map.fields.keys());
    let named = set.map(|key| AttributeIn("patch.set_user_attributes", key));
    let removed = patch.remove_user_attributes.iter().map(|key| AttributeIn("patch.remove_user_attributes", key));
    let incremented = patch.increment_user_attributes.keys();
    let incremented = incremented.map(|key| AttributeIn("patch.increment_user_attributes", key));
    let appended = patch.append_user_attributes.keys().map(|key| AttributeIn("patch.append_user_attributes", key));
    refuse_repeated(named.chain(removed).chain(incremented).chain(appended))
}

pub(super) fn check_account_attributes(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    let set = patch.set_account_user_attributes.as_ref();
    check_attributes("patch.set_account_user_attributes", set, limits)?;
    let named = patch.remove_account_user_attributes.len();
    Invalid::limit("patch.remove_account_user_attributes", "attributes", limits.attributes, named)?;
    let set = set.into_iter().flat_map(|map| map.fields.keys());
    let named = set.map(|key| AttributeIn("patch.set_account_user_attributes", key));
    let removed = patch.remove_account_user_attributes.iter();
    refuse_repeated(named.chain(removed.map(|key| AttributeIn("patch.remove_account_user_attributes", key))))
}

pub(super) fn check_audiences(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    check_memberships("patch.join_audiences", &patch.join_audiences, limits)?;
    let left = patch.leave_audiences.len();
    Invalid::limit("patch.leave_audiences", "audience memberships", limits.audience_memberships, left)?;
    if let Some(index) = patch.leave_audiences.iter().position(|&id| id == 0) {
        return Err(Invalid::field(format!("patch.leave_audiences[{index}]"), "must not be 0"));
    }
    refuse_repeated_audience(patch)
}

fn refuse_repeated_audience(patch: &ProfilePatch) -> Result<(), Invalid> {
    let joined: Vec<_> = patch.join_audiences.iter().map(|membership| membership.audience_id).collect();
    let left = &patch.leave_audiences;
    let Some(index) = repeated(joined.iter().chain(left)) else { return Ok(()) };
    let earlier = "is the same audience as an earlier one";
    Err(match index.checked_sub(joined.len()) {
        None => Invalid::field(format!("patch.join_audiences[{index}]"), earlier),
        Some(index) => {
            let problem = if joined.contains(&left[index]) { "is also in patch.join_audiences" } else { earlier };
            Invalid::field(format!("patch.leave_audiences[{index}]"), problem)
        }
    })
}

/// Refuses an attribute that a patch names twice, in one field or in two.
fn refuse_repeated<'a>(attributes: impl Iterator<Item = AttributeIn<'a>>) -> Result<(), Invalid> {
    let mut seen = BTreeMap::new();
    for attribute @ AttributeIn(field, key) in attributes {
        match seen.insert(key, field) {
            Some(other) if other == field => return Err(Invalid::field(attribute, "is named twice")),
            Some(other) => return Err(Invalid::field(attribute, format!("is also in {other}"))),
            None => {}
        }
    }
    Ok(())
}
