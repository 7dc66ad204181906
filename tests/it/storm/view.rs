//! What a subscriber asks for, and which events the API says that it then sees.

use cameo::proto::v1::*;
use prost_types::Timestamp;

use super::changes::{has_ended, trimmed};
use super::conditions::holds;
use super::log::{Log, Version};
use super::snapshot::served;

/// What a subscriber sees of the log.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub filter: EventFilter,
    pub mask: Vec<String>,
    pub keys: Vec<String>,
    pub shard: Option<Shard>,
}

impl View {
    /// Whether to deliver an event, and its match. A second implementation of what the API says of `EventFilter`. Whether
    /// a membership has ended depends on the log alone: the profile before is tested as of when it became that, and the
    /// one after as of the event. One that matches again after its membership ended silently enters.
    ///
    /// What an erasure left of an event may have been of a profile that matched: it leaves, or enters again.
    pub fn verdict(&self, log: &Log, version: &Version) -> Option<FilterMatch> {
        let (filter, event, before) = (&self.filter, &version.event, version.before.as_deref());
        let is_of_type = filter.types.is_empty() || filter.types.contains(&event.r#type);
        let is_mine = self.has_profile(log, event.mpid);
        let is_other_mine = version.absorbed.is_some_and(|absorbed| self.has_profile(log, absorbed));
        if !is_of_type || !(is_mine || is_other_mine) || (filter.omit_silent && event.silent) {
            return None;
        }
        let selects = |profile: &Profile, time| self.selects(profile, event, time);
        let matched_before = is_mine && before.is_some_and(|before| selects(before, before.update_time));
        let matched_after = is_mine && event.profile.as_ref().is_some_and(|after| selects(after, event.time));
        let absorbed = event.merged_profile.as_ref().filter(|_| is_other_mine);
        let is_absorbed = absorbed.is_some_and(|absorbed| selects(absorbed, absorbed.update_time));
        let matched = match (matched_before || version.is_stripped(), matched_after) {
            _ if !self.has_condition() && is_mine => FilterMatch::Unspecified,
            _ if !self.has_condition() => FilterMatch::Left,
            (false, false) if is_absorbed => FilterMatch::Left,
            (false, false) => return None,
            (false, true) => FilterMatch::Entered,
            (true, true) if version.is_stripped() || self.has_lapsed(event, before) => FilterMatch::Entered,
            (true, true) => FilterMatch::Stayed,
            (true, false) => FilterMatch::Left,
        };
        let goes_anyway = matches!(matched, FilterMatch::Entered | FilterMatch::Left)
            || event.profile.is_none()
            || event.merged_profile.is_some()
            || event.redacted;
        (goes_anyway || self.is_changed(event)).then_some(matched)
    }

    /// Whether the profile before an event no longer satisfied the conditions, because a membership had ended silently.
    fn has_lapsed(&self, event: &Event, before: Option<&Profile>) -> bool {
        let before = before.zip(event.time).map(|(before, time)| served(before, time));
        before.is_some_and(|before| !self.selects(&before, event, event.time))
    }

    fn is_changed(&self, event: &Event) -> bool {
        let fields = self.filter.changed_fields.clone().unwrap_or_default().paths;
        let keys = &self.filter.changed_user_attributes;
        let changed = event.changed_fields.clone().unwrap_or_default().paths;
        fields.is_empty() && keys.is_empty()
            || fields.iter().any(|field| changed.contains(field))
            || keys.iter().any(|key| event.changed_user_attributes.contains(key))
    }

    /// Whether the filter has conditions on profiles.
    pub fn has_condition(&self) -> bool {
        !self.filter.audience_ids.is_empty() || !self.filter.expression.is_empty()
    }

    /// Whether the conditions hold of a profile as of a time.
    pub fn selects(&self, profile: &Profile, event: &Event, time: Option<Timestamp>) -> bool {
        let wanted = &self.filter.audience_ids;
        let is_member = |joined: &AudienceMembership| wanted.contains(&joined.audience_id) && !has_ended(joined, time);
        (wanted.is_empty() || profile.audience_memberships.iter().any(is_member))
            && holds(&self.filter.expression, profile, event)
    }

    /// Whether the filter and the shard have a profile, whatever it is.
    pub fn has_profile(&self, log: &Log, mpid: i64) -> bool {
        (self.filter.mpids.is_empty() || self.filter.mpids.contains(&mpid))
            && self.shard.is_none_or(|shard| log.is_in(shard, mpid))
    }

    /// What the mask leaves of a profile.
    pub fn cut(&self, profile: &Profile) -> Profile {
        trimmed(profile, &self.mask, &self.keys)
    }

    /// What the mask leaves of an event, without its match.
    pub fn cut_event(&self, event: &Event) -> Event {
        let cut = |profile: &Option<Profile>| profile.as_ref().map(|profile| self.cut(profile));
        Event {
            profile: cut(&event.profile),
            previous: cut(&event.previous),
            merged_profile: cut(&event.merged_profile),
            r#match: 0,
            ..event.clone()
        }
    }
}
