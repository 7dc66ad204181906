//! What one subscriber asked for and read, over all its streams.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;
use prost_types::Timestamp;

use super::conditions::holds;
use super::log::{Log, has_ended, trimmed};
use super::retention::Expired;
use super::snapshot::served;

/// One stream.
#[derive(Debug, Clone)]
pub struct Connection {
    pub start: Option<Start>,
    pub view: View,
    /// The cursor of a write whose response had come before the stream was asked for. Empty if there was none.
    pub written: String,
    /// For a durable stream.
    pub acknowledged: Option<Acknowledged>,
    /// The sequence of the last event that was gone: from before the stream was asked for, to after it was opened.
    pub floors: RangeInclusive<u64>,
    /// When it was asked for, and when the last message of its snapshot had come. The snapshot was read in between.
    pub snapshot_read: RangeInclusive<SystemTime>,
    pub messages: Vec<SubscribeResponse>,
    /// If it was refused, or ended, because retention had removed what comes next.
    pub expired: Option<Expired>,
}

/// Where a durable subscription is, as its subscriber knows it.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// The last place that was confirmed, and those that were asked for since.
    pub places: Vec<String>,
    /// The last event that was gone before the place was confirmed. A stream that was opened since, and whose response
    /// was lost, may have begun anywhere after it.
    pub floor: u64,
    pub on_expired: OnExpired,
}

/// All streams of one subscriber, in order.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub connections: Vec<Connection>,
    /// The places that acknowledgements returned, in order.
    pub confirmed: Vec<String>,
    /// The cursors from the stream whose acknowledgement the server called a mistake of the client.
    pub refused: Vec<String>,
    /// The places before a snapshot that its subscription was set to without a stream, and their sequences.
    pub snapshots: Vec<(String, u64)>,
}

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
    pub fn verdict(&self, log: &Log, event: &Event, before: Option<&Profile>) -> Option<FilterMatch> {
        let filter = &self.filter;
        let is_of_type = filter.types.is_empty() || filter.types.contains(&event.r#type);
        if !is_of_type || !self.has_profile(log, event.mpid) || (filter.omit_silent && event.silent) {
            return None;
        }
        let after = event.profile.as_ref();
        let matched_before = before.is_some_and(|before| self.selects(before, event, before.update_time));
        let matched = match (matched_before, after.is_some_and(|after| self.selects(after, event, event.time))) {
            _ if !self.has_condition() => FilterMatch::Unspecified,
            (false, false) => return None,
            (false, true) => FilterMatch::Entered,
            (true, true) if self.has_lapsed(event, before) => FilterMatch::Entered,
            (true, true) => FilterMatch::Stayed,
            (true, false) => FilterMatch::Left,
        };
        let goes_anyway = matches!(matched, FilterMatch::Entered | FilterMatch::Left) || event.profile.is_none();
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
        Event { profile: cut(&event.profile), previous: cut(&event.previous), r#match: 0, ..event.clone() }
    }
}
