//! `ListEvents`: one page of the log, or of a snapshot.

use std::sync::Arc;

use prost::encoding::{bool, int32};

use super::{parse_filter, parse_time, parse_true, refuse_settings, sight};
use crate::grpc::codec::Encoded;
use crate::model::cursor::{CursorSpace, Start};
use crate::model::{
    Filter, Grant, Invalid, Limits, Mask, Micros, Mpid, Place, Position, SubscriptionName, Workspace, wire,
};
use crate::proto::field::event::MATCH;
use crate::proto::field::list_events_response::{CAUGHT_UP, CURSOR, EVENTS, SNAPSHOT_PROFILES, TRUNCATED};
use crate::proto::v1::list_events_request::Start as Asked;
use crate::proto::v1::{FilterMatch, ListEventsRequest};
use crate::refusal::Refusal;
use crate::store::{AsOf, EventRef, ListedEvents, Listing, PageSize, Past, Store, StoreError};

/// A parsed `ListEventsRequest`.
pub(super) struct List {
    pub workspace: Workspace,
    from: From,
    size: PageSize,
}

/// Where a page starts, and what it has.
enum From {
    Start(Selection),
    /// After what the subscription acknowledged, with its settings.
    Subscription(SubscriptionName),
}

/// The part of a workspace's events to list.
struct Selection {
    start: Start,
    filter: Filter,
    mask: Mask,
}

impl List {
    /// `grant` is what the caller may see.
    pub fn parse(request: ListEventsRequest, limits: &Limits, grant: Option<&Arc<Grant>>) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&request.workspace)?;
        let size = PageSize { items: limits.page_size(request.page_size)?, bytes: limits.response_bytes };
        let start = match &request.start {
            None => Start::Earliest,
            Some(Asked::Cursor(cursor)) => Start::after(cursor.clone()),
            Some(Asked::Earliest(earliest)) => parse_true("earliest", *earliest).map(|()| Start::Earliest)?,
            Some(Asked::Time(time)) => Start::At(parse_time(time)?),
            Some(Asked::Snapshot(snapshot)) => parse_true("snapshot", *snapshot).map(|()| Start::Snapshot)?,
            Some(Asked::Subscription(name)) => {
                let name = SubscriptionName::parse("subscription", name)?;
                refuse_settings([
                    ("filter", request.filter.is_some()),
                    ("read_mask", request.read_mask.is_some()),
                    ("user_attribute_keys", !request.user_attribute_keys.is_empty()),
                    ("shard", request.shard.is_some()),
                ])?;
                return Ok(Self { workspace, from: From::Subscription(name), size });
            }
        };
        let filter = parse_filter(request.filter, request.shard, grant)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys, grant)?;
        Ok(Self { workspace, from: From::Start(Selection { start, filter, mask }), size })
    }

    /// Makes a `ListEventsResponse`.
    pub fn run(self, store: &Store, grant: Option<&Arc<Grant>>) -> Result<Encoded, Refusal> {
        let Self { workspace, from, size } = self;
        let listing = store.listing(&workspace)?;
        let selection = match from {
            From::Start(selection) => selection,
            From::Subscription(name) => {
                let view = listing.subscription(&name)?;
                let settings = sight::settings(view.settings, grant)?;
                Selection { start: Start::From(view.acknowledged), filter: settings.filter, mask: settings.mask }
            }
        };
        let page = Page { listing, cursors: store.cursors(&workspace), now: store.now(), selection, size };
        page.read()
    }
}

/// A page to read.
struct Page<'s> {
    listing: Listing<'s>,
    cursors: CursorSpace,
    now: Micros,
    selection: Selection,
    size: PageSize,
}

/// How far a page goes.
struct Reached {
    position: Position,
    /// Whether that is the end of the log.
    is_complete: bool,
    /// See [`ListedEvents::truncated`].
    is_truncated: bool,
}

impl Page<'_> {
    fn read(&self) -> Result<Encoded, Refusal> {
        let (_, position) = self.listing.begin(&self.selection.start)?;
        let mut message = Vec::new();
        let reached = match position {
            Position::Snapshot { of, after } => self.profiles(of, after, &mut message),
            Position::Log(after) => self.events(after, &mut message),
        };
        let reached = reached.map_err(|error| match error {
            StoreError::Corrupt { past: Some(Past::Position(past)), .. } => Refusal::log_damaged(self.cursors.at(past)),
            other => other.into(),
        })?;
        wire::put_delimited(CURSOR, &self.cursors.at(reached.position).encode(), &mut message);
        if reached.is_complete {
            bool::encode(CAUGHT_UP, &true, &mut message);
        }
        if reached.is_truncated && matches!(self.selection.start, Start::Earliest | Start::At(_)) {
            bool::encode(TRUNCATED, &true, &mut message);
        }
        Ok(message.into())
    }

    /// Adds events.
    fn events(&self, after: Place, message: &mut Vec<u8>) -> Result<Reached, StoreError> {
        let (Selection { filter, mask, .. }, corrupt) = (&self.selection, || StoreError::corrupt("event"));
        let take = |event: EventRef<'_>| {
            let Some(matched) = filter.judge_encoded(event.mpid, event.event).map_err(|_| corrupt())? else {
                return Ok(None);
            };
            let mut event = mask.event(event.event).map_err(|_| corrupt())?;
            if matched != FilterMatch::Unspecified {
                int32::encode(MATCH, &i32::from(matched), event.to_mut());
            }
            wire::put_delimited(EVENTS, &event, message);
            Ok(Some(event.len()))
        };
        let ListedEvents { page, truncated } = self.listing.events(after, filter, self.size, take)?;
        Ok(Reached { position: page.through.into(), is_complete: page.complete, is_truncated: truncated })
    }

    /// Adds profiles of a snapshot.
    fn profiles(&self, of: Place, after: Option<Mpid>, message: &mut Vec<u8>) -> Result<Reached, StoreError> {
        let (Selection { filter, mask, .. }, corrupt) = (&self.selection, || StoreError::corrupt("profile"));
        let now = self.now;
        let as_of = AsOf { of, after, filter, now };
        let position = self.listing.profiles_as_of(as_of, self.size, |_, profile| {
            if !filter.selects(profile, now).map_err(|_| corrupt())? {
                return Ok(None);
            }
            let profile = mask.snapshot_profile(profile).map_err(|_| corrupt())?;
            wire::put_delimited(SNAPSHOT_PROFILES, &profile, message);
            Ok(Some(profile.len()))
        })?;
        Ok(Reached { position, is_complete: false, is_truncated: false })
    }
}
