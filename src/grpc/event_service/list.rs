//! `ListEvents`: one page of the log, or of a snapshot.

use prost::Message;
use prost::encoding::{bool, int32};

use super::{parse_filter, parse_time, parse_true};
use crate::grpc::codec::Encoded;
use crate::model::cursor::Start;
use crate::model::{Filter, Invalid, Limits, Mask, Mpid, Place, Position, Transition, Workspace, wire};
use crate::proto::field::event::MATCH;
use crate::proto::field::list_events_response::{CAUGHT_UP, CURSOR, EVENTS, SNAPSHOT_PROFILES, TRUNCATED};
use crate::proto::v1::list_events_request::Start as Asked;
use crate::proto::v1::{FilterMatch, ListEventsRequest, Profile};
use crate::refusal::Refusal;
use crate::store::{AsOf, EventRef, LogBounds, PageSize, Past, Store, StoreError};

/// A parsed `ListEventsRequest`.
pub(super) struct List {
    pub workspace: Workspace,
    start: Start,
    filter: Filter,
    mask: Mask,
    size: PageSize,
}

impl List {
    pub fn parse(request: ListEventsRequest, limits: &Limits) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&request.workspace)?;
        let start = match request.start {
            None => Start::Earliest,
            Some(Asked::Cursor(cursor)) => Start::after(cursor),
            Some(Asked::Earliest(earliest)) => parse_true("earliest", earliest).map(|()| Start::Earliest)?,
            Some(Asked::Time(time)) => Start::At(parse_time(&time)?),
            Some(Asked::Snapshot(snapshot)) => parse_true("snapshot", snapshot).map(|()| Start::Snapshot)?,
            Some(Asked::Subscription(_)) => {
                return Err(Invalid::field("subscription", "is not offered by this version"));
            }
        };
        let filter = parse_filter(request.filter, request.shard)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
        let size = PageSize { items: limits.page_size(request.page_size)?, bytes: limits.response_bytes };
        Ok(Self { workspace, start, filter, mask, size })
    }

    /// Makes a `ListEventsResponse`.
    pub fn run(&self, store: &Store) -> Result<Encoded, Refusal> {
        let (bounds, position) = store.begin(&self.workspace, &self.start)?;
        let mut message = Vec::new();
        let reached = match position {
            Position::Snapshot { of, after } => self.profiles(store, of, after, &mut message),
            Position::Log(_) => self.events(store, position, &mut message),
        };
        let cursors = store.cursors(&self.workspace);
        let (reached, is_complete) = reached.map_err(|error| match error {
            StoreError::Corrupt { past: Some(Past::Event(past)), .. } => Refusal::log_damaged(cursors.at(past)),
            StoreError::Corrupt { past: Some(Past::Position(past)), .. } => Refusal::log_damaged(cursors.at(past)),
            other => other.into(),
        })?;
        wire::put_delimited(CURSOR, &cursors.at(reached).encode(), &mut message);
        if is_complete {
            bool::encode(CAUGHT_UP, &true, &mut message);
        }
        if self.is_truncated(store, bounds, position)? {
            bool::encode(TRUNCATED, &true, &mut message);
        }
        Ok(message.into())
    }

    /// Adds events, and returns how far they go and whether that is the end of the log.
    fn events(&self, store: &Store, after: Position, message: &mut Vec<u8>) -> Result<(Position, bool), StoreError> {
        let corrupt = || StoreError::corrupt("event");
        let take = |event: EventRef<'_>| {
            let mut matched = FilterMatch::Unspecified;
            if self.filter.tests_changes() {
                let change = Transition::decode(event.event).map_err(|_| corrupt())?;
                match self.filter.judge(&change) {
                    Some(judged) => matched = judged,
                    None => return Ok(None),
                }
            }
            let mut event = self.mask.event(event.event).map_err(|_| corrupt())?;
            if matched != FilterMatch::Unspecified {
                int32::encode(MATCH, &i32::from(matched), event.to_mut());
            }
            wire::put_delimited(EVENTS, &event, message);
            Ok(Some(event.len()))
        };
        let page = store.list_events(&self.workspace, &Start::From(after), &self.filter, self.size, take)?;
        Ok((page.through.into(), page.complete))
    }

    /// Adds profiles of a snapshot, and returns how far they go.
    fn profiles(
        &self,
        store: &Store,
        of: Place,
        after: Option<Mpid>,
        message: &mut Vec<u8>,
    ) -> Result<(Position, bool), StoreError> {
        let corrupt = || StoreError::corrupt("profile");
        let now = store.now();
        let as_of = AsOf { of, after, mpids: self.filter.mpids(), now };
        let reached = store.profiles_as_of(&self.workspace, as_of, self.size, |mpid, profile| {
            let selects = |profile: &[u8]| -> Result<bool, StoreError> {
                let is_selected = |profile: Profile| self.filter.selects(&profile, now);
                Ok(!self.filter.tests_profiles() || Profile::decode(profile).map(is_selected).map_err(|_| corrupt())?)
            };
            if !self.filter.has_profile(mpid) || !selects(profile)? {
                return Ok(None);
            }
            let profile = self.mask.profile(profile).map_err(|_| corrupt())?;
            wire::put_delimited(SNAPSHOT_PROFILES, &profile, message);
            Ok(Some(profile.len()))
        })?;
        Ok((reached, false))
    }

    /// Whether retention has removed events that the page would have begun with.
    fn is_truncated(&self, store: &Store, bounds: LogBounds, position: Position) -> Result<bool, StoreError> {
        let floor = bounds.floor;
        let is_asked = matches!(self.start, Start::Earliest | Start::At(_));
        if !is_asked || floor == Place::START || position != floor.into() {
            return Ok(false);
        }
        self.filter.single_mpid().map_or(Ok(true), |mpid| store.has_events_before(&self.workspace, mpid, floor))
    }
}
