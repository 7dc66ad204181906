//! Which events a reader wants to see.
//!
//! A filter has two parts. The first tests what the header of a row holds, and nothing is decoded. The second, which few
//! filters have, tests the change itself: see [`Transition`].

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::{DecodeError, Message};

use super::change::COMPARED;
use super::expression::{Facts, Subject};
use super::grant::Grant;
use super::invalid::Quoted;
use super::limits::{FILTER_FIELDS, FILTER_TYPES, READER_KEYS};
use super::profile::is_expired;
use super::shard::Shard;
use super::transition::Transition;
use super::{EventKind, Expression, Invalid, Micros, Mpid};
use crate::proto::v1::{Event, EventFilter, FilterMatch, Profile};

/// A parsed filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Bit n stands for the kind with number n. `None` means all kinds.
    kinds: Option<u8>,
    /// Sorted. Empty means all profiles.
    mpids: Vec<Mpid>,
    shard: Option<Shard>,
    omit_silent: bool,
    /// `None` means any change.
    changed: Option<Changed>,
    /// `None` means any profile.
    condition: Option<Condition>,
}

/// What must have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Changed {
    fields: BTreeSet<String>,
    user_attributes: BTreeSet<String>,
}

/// What must hold of a profile, before the change or after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Condition {
    /// Empty means any.
    audiences: BTreeSet<i64>,
    /// `None` means any.
    expression: Option<Expression>,
}

impl Filter {
    /// Parses the filter of a request. `grant` is what its caller may see.
    ///
    /// # Errors
    /// [`Invalid`] if it is malformed or too large, or tests what the caller may not see.
    pub fn parse(filter: Option<EventFilter>, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        let parsed = Self::parse_whole(&filter)?;
        match grant {
            Some(grant) => parsed.check_within(grant, &filter).map(|()| parsed),
            None => Ok(parsed),
        }
    }

    fn parse_whole(filter: &EventFilter) -> Result<Self, Invalid> {
        Ok(Self {
            kinds: parse_kinds(&filter.types)?,
            mpids: parse_mpids(&filter.mpids)?,
            shard: None,
            omit_silent: filter.omit_silent,
            changed: Changed::parse(filter)?,
            condition: Condition::parse(filter)?,
        })
    }

    /// Refuses what the caller may not see: which events come would tell of it.
    fn check_within(&self, grant: &Grant, filter: &EventFilter) -> Result<(), Invalid> {
        for path in filter.changed_fields.iter().flat_map(|mask| &mask.paths) {
            let is_of_keys = matches!(path.as_str(), "user_attributes" | "account_user_attributes");
            let is_visible = grant.has_named(path) && !(is_of_keys && grant.keys().is_some());
            Grant::check(is_visible, "filter.changed_fields", path)?;
        }
        for key in &filter.changed_user_attributes {
            Grant::check(grant.has_user_attribute(key), "filter.changed_user_attributes", key)?;
        }
        let needs_audiences = !filter.audience_ids.is_empty();
        Grant::check(!needs_audiences || grant.has_audiences(), "filter.audience_ids", "audience_memberships")?;
        let expression = self.condition.as_ref().and_then(|condition| condition.expression.as_ref());
        expression.map_or(Ok(()), |expression| expression.check_within(grant))
    }

    /// The filter, of a share of the profiles.
    #[must_use]
    pub fn of_shard(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// Whether to deliver an event, as far as its header tells. `other` is the profile that a merge absorbed.
    #[must_use]
    pub fn matches(&self, kind: EventKind, mpid: Mpid, other: Option<Mpid>, silent: bool) -> bool {
        !(silent && self.omit_silent)
            && self.kinds.is_none_or(|kinds| kinds >> kind as u8 & 1 == 1)
            && (self.has_profile(mpid) || other.is_some_and(|other| self.has_profile(other)))
    }

    /// What to say of an event that [`Self::matches`] and whose change is not tested: that the profile leaves, if the
    /// event is there only for the profile that a merge absorbed.
    #[must_use]
    pub fn match_of(&self, mpid: Mpid) -> FilterMatch {
        if self.has_profile(mpid) { FilterMatch::Unspecified } else { FilterMatch::Left }
    }

    /// Whether it leaves out profiles by their mpids.
    #[must_use]
    pub fn selects_mpids(&self) -> bool {
        !self.mpids.is_empty() || self.shard.is_some()
    }

    /// Whether the profile is one of those that it names, and of its shard.
    #[must_use]
    pub fn has_profile(&self, mpid: Mpid) -> bool {
        (self.mpids.is_empty() || self.mpids.binary_search(&mpid).is_ok())
            && self.shard.is_none_or(|shard| shard.holds(mpid))
    }

    /// Whether the header of an event does not decide.
    #[must_use]
    pub fn tests_changes(&self) -> bool {
        self.changed.is_some() || self.condition.is_some()
    }

    /// Whether to deliver an event that [`Self::matches`], and what to say of it: `None` if it is not delivered.
    ///
    /// A profile that enters or leaves is delivered whatever changed, and so is one that is deleted, erased or merged:
    /// otherwise a reader that keeps what matches would keep too much, or too little. So is a redacted event: a snapshot
    /// may lack the profile because of it.
    #[must_use]
    pub fn judge(&self, change: &Transition) -> Option<FilterMatch> {
        let is_of_survivor = Mpid::new(change.event.mpid).is_some_and(|mpid| self.has_profile(mpid));
        let matched = match &self.condition {
            None if is_of_survivor => FilterMatch::Unspecified,
            None => FilterMatch::Left,
            Some(condition) => {
                let other = Mpid::new(change.event.merged_mpid);
                let is_of_absorbed = other.is_some_and(|mpid| self.has_profile(mpid));
                condition.judge(change, is_of_survivor, is_of_absorbed)?
            }
        };
        let may_be_left_out = matches!(matched, FilterMatch::Unspecified | FilterMatch::Stayed);
        let is_left_out = may_be_left_out
            && change.event.profile.is_some()
            && change.event.merged_profile.is_none()
            && !change.event.redacted
            && self.changed.as_ref().is_some_and(|changed| !changed.is_in(&change.event));
        (!is_left_out).then_some(matched)
    }

    /// As [`Self::judge`], of an encoded event, which is decoded only if the filter needs that.
    ///
    /// # Errors
    /// If the event is malformed.
    pub fn judge_encoded(&self, mpid: Mpid, event: &[u8]) -> Result<Option<FilterMatch>, DecodeError> {
        if !self.tests_changes() {
            return Ok(Some(self.match_of(mpid)));
        }
        Ok(self.judge(&Transition::decode(event)?))
    }

    /// Whether to deliver an encoded profile of a snapshot, which [`Self::has_profile`].
    ///
    /// # Errors
    /// If the profile is malformed.
    pub fn selects(&self, profile: &[u8], now: Micros) -> Result<bool, DecodeError> {
        let Some(condition) = &self.condition else { return Ok(true) };
        Ok(condition.holds(&Profile::decode(profile)?, now))
    }

    /// The profiles that it selects, sorted. Empty means all.
    #[must_use]
    pub fn mpids(&self) -> &[Mpid] {
        &self.mpids
    }

    /// The profile that it selects, if it selects exactly one.
    #[must_use]
    pub fn single_mpid(&self) -> Option<Mpid> {
        match self.mpids[..] {
            [mpid] => Some(mpid),
            _ => None,
        }
    }
}

fn parse_kinds(types: &[String]) -> Result<Option<u8>, Invalid> {
    Invalid::limit("filter.types", "types", FILTER_TYPES, types.len())?;
    let mut kinds = 0;
    for (index, name) in types.iter().enumerate() {
        kinds |= 1 << EventKind::parse(format_args!("filter.types[{index}]"), name)? as u8;
    }
    Ok((kinds != 0).then_some(kinds))
}

fn parse_mpids(mpids: &[i64]) -> Result<Vec<Mpid>, Invalid> {
    Invalid::limit("filter.mpids", "mpids", READER_KEYS, mpids.len())?;
    let parse = |(index, mpid): (usize, &i64)| {
        Mpid::new(*mpid).ok_or_else(|| Invalid::filter(format_args!("filter.mpids[{index}]"), "must not be 0"))
    };
    let mut mpids = mpids.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    mpids.sort_unstable();
    mpids.dedup();
    Ok(mpids)
}

impl Changed {
    fn parse(filter: &EventFilter) -> Result<Option<Self>, Invalid> {
        let fields = filter.changed_fields.as_ref().map(|mask| &*mask.paths).unwrap_or_default();
        let user_attributes = &filter.changed_user_attributes;
        Invalid::limit("filter.changed_fields", "fields", FILTER_FIELDS, fields.len())?;
        Invalid::limit("filter.changed_user_attributes", "keys", READER_KEYS, user_attributes.len())?;
        if let Some(unknown) = fields.iter().find(|field| !COMPARED.contains(&field.as_str())) {
            let problem = format!("{} is not a field that a change is told of", Quoted(unknown));
            return Err(Invalid::filter("filter.changed_fields", problem));
        }
        let any = fields.is_empty() && user_attributes.is_empty();
        let set = |names: &[String]| names.iter().cloned().collect();
        Ok((!any).then(|| Self { fields: set(fields), user_attributes: set(user_attributes) }))
    }

    fn is_in(&self, event: &Event) -> bool {
        let mut fields = event.changed_fields.iter().flat_map(|mask| &mask.paths);
        fields.any(|field| self.fields.contains(field))
            || event.changed_user_attributes.iter().any(|key| self.user_attributes.contains(key))
    }
}

impl Condition {
    fn parse(filter: &EventFilter) -> Result<Option<Self>, Invalid> {
        let audiences = &filter.audience_ids;
        Invalid::limit("filter.audience_ids", "audiences", READER_KEYS, audiences.len())?;
        if let Some(index) = audiences.iter().position(|id| *id == 0) {
            return Err(Invalid::filter(format_args!("filter.audience_ids[{index}]"), "must not be 0"));
        }
        let source = Some(&*filter.expression).filter(|source| !source.is_empty());
        let expression = source.map(Expression::parse).transpose()?;
        let any = audiences.is_empty() && expression.is_none();
        Ok((!any).then(|| Self { audiences: audiences.iter().copied().collect(), expression }))
    }

    /// The profile before the change is tested as of the time when it became what it was. If a membership has ended since,
    /// a reader may have been told that it began, and not yet that it ended. A reader whose snapshot is newer does not
    /// have the profile. For both, a profile that matches again enters.
    ///
    /// An erasure or a redaction removes what the profile was before the event. The filter then assumes that it matched,
    /// and that the reader may not have it. The absorbed profile of a merge always leaves, even if the survivor matches.
    fn judge(&self, change: &Transition, is_of_survivor: bool, is_of_absorbed: bool) -> Option<FilterMatch> {
        let (before, after) = (change.before.as_ref(), change.event.profile.as_ref());
        let absorbed = change.event.merged_profile.as_ref();
        let absorbed = is_of_absorbed && absorbed.is_some_and(|profile| self.holds_in(change, profile));
        let before = is_of_survivor
            && before.is_some_and(|profile| self.is_in_audience(profile, change.time_before()))
            && self.is_satisfied(change, Transition::subject_before);
        let before = before || change.is_stripped();
        let after = is_of_survivor
            && after.is_some_and(|profile| self.is_in_audience(profile, change.time()))
            && self.is_satisfied(change, Transition::subject_after);
        match (before, after) {
            (false, false) if absorbed => Some(FilterMatch::Left),
            (false, false) => None,
            (false, true) => Some(FilterMatch::Entered),
            (true, true) if change.is_stripped() || self.has_lapsed(change) => Some(FilterMatch::Entered),
            (true, true) => Some(FilterMatch::Stayed),
            (true, false) => Some(FilterMatch::Left),
        }
    }

    /// Whether it did not hold right before the change, because a membership had ended.
    fn has_lapsed(&self, change: &Transition) -> bool {
        change.lapsed().is_some_and(|lapsed| {
            let is_satisfied = |expression: &Expression| expression.matches(change.facts(), &Subject::new(&lapsed));
            !(self.is_in_audience(&lapsed, change.time()) && self.expression.as_ref().is_none_or(is_satisfied))
        })
    }

    /// Whether it held of the profile that a merge absorbed.
    fn holds_in(&self, change: &Transition, absorbed: &Profile) -> bool {
        let is_satisfied = |expression: &Expression| expression.matches(change.facts(), &Subject::new(absorbed));
        let became = absorbed.update_time.as_ref().map(Micros::from_timestamp).unwrap_or_default();
        self.is_in_audience(absorbed, became) && self.expression.as_ref().is_none_or(is_satisfied)
    }

    /// Whether it holds of a profile that is read without an event.
    fn holds(&self, profile: &Profile, time: Micros) -> bool {
        let is_satisfied = |expression: &Expression| expression.matches(&Facts::none(), &Subject::new(profile));
        self.is_in_audience(profile, time) && self.expression.as_ref().is_none_or(is_satisfied)
    }

    fn is_satisfied(&self, change: &Transition, subject: fn(&Transition) -> Option<&Subject>) -> bool {
        let Some(expression) = &self.expression else { return true };
        subject(change).is_some_and(|subject| expression.matches(change.facts(), subject))
    }

    fn is_in_audience(&self, profile: &Profile, time: Micros) -> bool {
        let mut memberships = profile.audience_memberships.iter();
        self.audiences.is_empty()
            || memberships.any(|joined| self.audiences.contains(&joined.audience_id) && !is_expired(joined, time))
    }
}

#[cfg(test)]
mod tests;
