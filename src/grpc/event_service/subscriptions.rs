//! Durable subscriptions: their settings, their places in the log, and the streams that they open.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost_types::FieldMask;

use super::{Events, is_over, parse_filter, parse_time, parse_true, sight};
use crate::call::Call;
use crate::command::{
    Acknowledge, Begin, Change, CreateSubscription, DeleteSubscription, SeekSubscription, UpdateSubscription,
};
use crate::feed::{AttachedStream, Attachment, FeedError, Subscribe, Subscriber};
use crate::grpc::codec::Encoded;
use crate::grpc::profile_service::write::{Write, WriteRequest, write_request};
use crate::model::cursor::{CursorSpace, Start};
use crate::model::invalid::Quoted;
use crate::model::limits::{FILTER_FIELDS, SKIP_REASON_BYTES, SKIPS};
use crate::model::{
    Grant, Invalid, Mask, Micros, Place, Position, Sequence, Settings, SubscriptionName, Workspace, subscription_page,
    wire,
};
use crate::proto::field::get_event_response;
use crate::proto::v1::{
    self, AcknowledgeRequest, AcknowledgeResponse, CreateSubscriptionRequest, CreateSubscriptionResponse,
    DeleteSubscriptionRequest, DeleteSubscriptionResponse, GetEventRequest, GetSubscriptionRequest,
    GetSubscriptionResponse, ListSkippedEventsRequest, ListSkippedEventsResponse, ListSubscriptionsRequest,
    ListSubscriptionsResponse, SeekSubscriptionRequest, SeekSubscriptionResponse, Subscription, SubscriptionState,
    SubscriptionStream, UpdateSubscriptionRequest, UpdateSubscriptionResponse, create_subscription_request,
    seek_subscription_request,
};
use crate::refusal::Refusal;
use crate::store::{self, LogBounds, PageSize, ReadClass, Store, StoreError, SubscriptionView};

write_request!(CreateSubscriptionRequest, "CreateSubscription", silent: |_| false);
write_request!(UpdateSubscriptionRequest, "UpdateSubscription", silent: |_| false);
write_request!(DeleteSubscriptionRequest, "DeleteSubscription", silent: |_| false);
write_request!(SeekSubscriptionRequest, "SeekSubscription", silent: |_| false);

/// The settings that `update_mask` may name.
const SETTINGS: [&str; 5] = ["filter", "read_mask", "user_attribute_keys", "shard", "on_expired"];

/// How often a stream is counted at most: see [`Events::open_stream`].
const OPENINGS: usize = 8;

/// The next stream of a subscription, and where it starts.
struct Counted {
    settings: Settings,
    start: Start,
    attachment: Attachment,
}

impl Events {
    /// Opens the next stream of a subscription. Older ones end with the commit that counts it, even if this call does not.
    ///
    /// Retention may remove what follows the acknowledged place just after the stream was counted. The stream is then
    /// counted once more, so that `on_expired` decides where it starts, or that it fails.
    pub(super) async fn open_stream(
        &self,
        call: &Call,
        workspace: &Workspace,
        name: &SubscriptionName,
        heartbeat: Duration,
        until_caught_up: bool,
    ) -> Result<Subscriber, Refusal> {
        // First: a stream that is refused must take over none.
        let (settings, _) = self.store.subscription_settings(workspace, name)?;
        sight::settings(settings, call.grant())?;
        let mut openings = 1;
        loop {
            let Counted { settings: Settings { filter, mask, .. }, start, attachment } =
                self.count_stream(call, workspace, name).await?;
            let (workspace, attachment) = (workspace.clone(), Some(attachment));
            let is_over = is_over(call);
            let subscribe =
                Subscribe { workspace, start, filter, mask, heartbeat, until_caught_up, attachment, is_over };
            match self.feed.open(Arc::clone(&self.store), subscribe) {
                Err(FeedError::Store(StoreError::Expired { .. })) if openings < OPENINGS => openings += 1,
                opened => return Ok(opened?),
            }
        }
    }

    /// Counts the next stream of a subscription, and attaches it.
    async fn count_stream(
        &self,
        call: &Call,
        workspace: &Workspace,
        name: &SubscriptionName,
    ) -> Result<Counted, Refusal> {
        let change = Change::OpenStream(name.clone());
        let state = self.change(call, Write::of(workspace.clone(), change)).await?;
        let store::SubscriptionState { settings, acknowledged, stream, .. } = *state.expect("it exists");
        #[cfg(feature = "planted")]
        let acknowledged = crate::feed::planted::resumed(acknowledged);
        let settings = sight::settings(settings, call.grant())?;
        let (peer, now) = (call.peer(), self.store.now());
        let attachment = self.feed.attach(workspace, name, stream, peer, now, acknowledged);
        // What has changed the subscription since the stream was counted has found no stream to end.
        if self.store.subscription_settings(workspace, name)?.1 != stream {
            return Err(StoreError::TakenOver.into());
        }
        Ok(Counted { settings, start: Start::From(acknowledged), attachment })
    }

    pub(super) async fn create(&self, call: &Call, request: CreateSubscriptionRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let start = parse_start(request.start.clone())?;
        let start = self.resolve(call, &workspace, start).await?;
        let write = Write::within(workspace.clone(), request, |request| {
            let settings = Box::new(parse_settings(request.subscription, call.grant())?);
            Ok(Change::CreateSubscription(CreateSubscription { settings, start }))
        })?;
        let state = self.change(call, write).await?;
        let subscription = self.after(call, &workspace, state).await?;
        Ok(Encoded::new(&CreateSubscriptionResponse { subscription }))
    }

    pub(super) async fn update(&self, call: &Call, request: UpdateSubscriptionRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let name = request.subscription.as_ref().map_or("", |subscription| &subscription.name);
        sight::check(call, &self.store, &workspace, name).await?;
        let write = Write::within(workspace.clone(), request, |request| {
            let paths = parse_paths(request.update_mask)?;
            let settings = Box::new(parse_settings(request.subscription, call.grant())?);
            Ok(Change::UpdateSubscription(UpdateSubscription { settings, paths }))
        })?;
        let state = self.change(call, write).await?;
        let subscription = self.after(call, &workspace, state).await?;
        Ok(Encoded::new(&UpdateSubscriptionResponse { subscription }))
    }

    pub(super) async fn delete(&self, call: &Call, request: DeleteSubscriptionRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let name = SubscriptionName::parse("name", &request.name)?;
        sight::check(call, &self.store, &workspace, &request.name).await?;
        let write = Write::within(workspace, request, |request| {
            Ok(Change::DeleteSubscription(DeleteSubscription { name, allow_missing: request.allow_missing }))
        })?;
        write.run(call, &self.store, &self.limits).await?;
        Ok(Encoded::new(&DeleteSubscriptionResponse {}))
    }

    pub(super) async fn seek(&self, call: &Call, request: SeekSubscriptionRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let name = SubscriptionName::parse("name", &request.name)?;
        sight::check(call, &self.store, &workspace, &request.name).await?;
        let to = self.resolve(call, &workspace, parse_to(request.to.clone())?).await?;
        let seek = SeekSubscription { name, to };
        let write = Write::within(workspace.clone(), request, |_| Ok(Change::SeekSubscription(seek)))?;
        let written = write.run(call, &self.store, &self.limits).await?.0;
        let subscription = self.after(call, &workspace, written.subscription).await?;
        let mut message = SeekSubscriptionResponse { subscription, ..Default::default() }.encode_to_vec();
        message.extend_from_slice(&written.detail); // How far it went, also if this is a repeat.
        Ok(message.into())
    }

    pub(super) async fn get(&self, call: &Arc<Call>, request: GetSubscriptionRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let name = SubscriptionName::parse("name", &request.name)?;
        call.within(&workspace)?;
        let of = workspace.clone();
        let view = call.read(&self.store, ReadClass::Status, move |store, _| store.subscription(&of, &name)).await?;
        Ok(Encoded::new(&GetSubscriptionResponse { subscription: Some(self.message(call, &workspace, view)) }))
    }

    pub(super) async fn list(&self, call: &Arc<Call>, request: ListSubscriptionsRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let size = PageSize { items: self.limits.page_size(request.page_size)?, bytes: self.limits.response_bytes };
        let after = subscription_page::parse_subscriptions(&workspace, &request.page_token)?;
        call.within(&workspace)?;
        let of = workspace.clone();
        let read = move |store: &Store, _: &Call| -> Result<_, StoreError> {
            match store.workspace_id(&of) {
                Some(id) => store.snapshot()?.subscriptions(id, after.as_ref(), size),
                None => Ok((Vec::new(), false)),
            }
        };
        let (views, more) = call.read(&self.store, ReadClass::Status, read).await?;
        let last =
            views.last().filter(|_| more).map(|view| subscription_page::after_subscription(&workspace, &view.name));
        Ok(Encoded::new(&ListSubscriptionsResponse {
            subscriptions: views.into_iter().map(|view| self.message(call, &workspace, view)).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }

    pub(super) async fn list_skipped(
        &self,
        call: &Arc<Call>,
        request: ListSkippedEventsRequest,
    ) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let name = SubscriptionName::parse("subscription", &request.subscription)?;
        let most = self.limits.page_size(request.page_size)?;
        let after = subscription_page::parse_skipped(&workspace, &name, &request.page_token)?;
        call.within(&workspace)?;
        sight::check(call, &self.store, &workspace, &request.subscription).await?;
        let (of, named) = (workspace.clone(), name.clone());
        let read = move |store: &Store, _: &Call| {
            store.subscription(&of, &named)?;
            let id = store.workspace_id(&of).ok_or(StoreError::Closed)?;
            store.snapshot()?.skipped_events(id, &named, after, most)
        };
        let (mut skipped_events, more) = call.read(&self.store, ReadClass::Status, read).await?;
        if call.grant().is_some() {
            for skipped in &mut skipped_events {
                skipped.reason.clear(); // Others wrote them, of what they saw.
            }
        }
        let last = skipped_events.last().filter(|_| more);
        let next_page_token = last.map(|last| subscription_page::after_skipped(&workspace, &name, last.sequence));
        let next_page_token = next_page_token.unwrap_or_default();
        Ok(Encoded::new(&ListSkippedEventsResponse { skipped_events, next_page_token }))
    }

    pub(super) async fn acknowledge_up_to(&self, call: &Call, request: AcknowledgeRequest) -> Result<Encoded, Refusal> {
        let AcknowledgeRequest { workspace, subscription, stream, cursor, skipped } = request;
        let workspace = Workspace::parse(&workspace)?;
        let name = SubscriptionName::parse("subscription", &subscription)?;
        call.within(&workspace)?;
        sight::check(call, &self.store, &workspace, &subscription).await?;
        if stream == 0 {
            return Err(Invalid::field("stream", "must be set: it is in the first message of the stream").into());
        }
        let skipped = parse_skips(skipped)?;
        let cursors = self.store.cursors(&workspace);
        let known = self.store.known_cursors(&workspace);
        let position = known.parse("cursor", &cursor, Place::LAST)?; // The command compares it with the head.
        let open = self.feed.attached(&workspace, &name).filter(|open| open.stream == stream);
        if open.is_some_and(|open| position > open.sent) {
            return Err(Invalid::field("cursor", "is past what the stream has sent").into());
        }
        let acknowledge = Acknowledge { name, stream, position, skipped };
        let acknowledged = self.store.acknowledge(workspace, acknowledge, self.limits).await?;
        #[cfg(feature = "planted")]
        let acknowledged = crate::feed::planted::acknowledged(acknowledged, position);
        let acknowledged_cursor = cursors.at(acknowledged).to_string();
        Ok(Encoded::new(&AcknowledgeResponse { acknowledged_cursor }))
    }

    pub(super) async fn event(&self, call: &Arc<Call>, request: GetEventRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let sequence = Sequence::new(request.sequence).ok_or_else(|| Invalid::field("sequence", "must not be 0"))?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys, call.grant())?;
        call.within(&workspace)?;
        let read = move |store: &Store, _: &Call| {
            let mut message = Vec::new();
            store.event(&workspace, sequence, |event| {
                let event = mask.event(event.event).map_err(|_| StoreError::corrupt("event"))?;
                wire::put_delimited(get_event_response::EVENT, &event, &mut message);
                Ok(())
            })?;
            let cursor = store.cursors(&workspace).at(sequence).encode();
            wire::put_delimited(get_event_response::CURSOR, &cursor, &mut message);
            Ok::<_, StoreError>(Encoded::from(message))
        };
        call.read(&self.store, ReadClass::Scan, read).await
    }

    /// Writes, and returns the subscription after it.
    async fn change(&self, call: &Call, write: Write) -> Result<Option<Box<store::SubscriptionState>>, Refusal> {
        Ok(write.run(call, &self.store, &self.limits).await?.0.subscription)
    }

    /// Where a subscription starts. Times become positions here: a command depends on no search.
    async fn resolve(&self, call: &Call, workspace: &Workspace, start: Start) -> Result<Begin, Refusal> {
        call.within(workspace)?;
        Ok(match start {
            Start::Now => Begin::Now,
            Start::Earliest => Begin::Earliest,
            Start::Snapshot => Begin::Snapshot,
            // The command compares it with the ends of the log, unless it is a repeat.
            Start::After(cursor) => {
                Begin::At(self.store.known_cursors(workspace).parse("cursor", &cursor, Place::LAST)?)
            }
            Start::From(position) => Begin::At(position),
            Start::Since(place, _) => Begin::Since(place),
            start @ Start::At(_) => {
                let of = workspace.clone();
                let read = move |store: &Store| store.begin(&of, &start);
                let (_, position) = self.store.on_read_pool(ReadClass::Scan, Some(workspace), read).await?;
                Begin::Since(position.place()) // Retention may remove events before the command is written.
            }
        })
    }

    /// The subscription after a command, as a message.
    async fn after(
        &self,
        call: &Call,
        workspace: &Workspace,
        state: Option<Box<store::SubscriptionState>>,
    ) -> Result<Option<Subscription>, Refusal> {
        let Some(state) = state else { return Ok(None) };
        let store::SubscriptionState { settings, acknowledged, stream, skipped } = *state;
        let name = SubscriptionName::parse("name", &settings.name)?;
        let of = workspace.clone();
        let read = move |store: &Store| -> Result<_, StoreError> {
            Ok((store.begin(&of, &Start::Now)?.0, store.oldest_after(&of, acknowledged.place())?))
        };
        let (bounds, oldest) = self.store.on_read_pool(ReadClass::Status, Some(workspace), read).await?;
        let view = SubscriptionView { name, settings, acknowledged, stream, skipped, bounds, oldest };
        Ok(Some(self.message(call, workspace, view)))
    }

    /// A subscription as a message.
    fn message(&self, call: &Call, workspace: &Workspace, mut view: SubscriptionView) -> Subscription {
        if let Some(withheld) = sight::withheld(&view.settings, call.grant()) {
            return withheld;
        }
        if let Some(grant) = call.grant() {
            view.settings.user_attribute_keys.retain(|key| grant.has_user_attribute(key));
        }
        let cursors = self.store.cursors(workspace);
        let attached = self.feed.attached(workspace, &view.name);
        let SubscriptionView { settings, acknowledged, skipped, bounds: LogBounds { floor, head, .. }, oldest, .. } =
            view;
        let place = acknowledged.place();
        let is_lost = place < floor;
        let age = oldest.map_or(0, |oldest| self.store.now().get().saturating_sub(oldest.get()).max(0));
        Subscription {
            acknowledged_cursor: cursors.at(acknowledged).to_string(),
            acknowledged_sequence: place.get(),
            state: if is_lost { SubscriptionState::Lost } else { SubscriptionState::Active }.into(),
            lag_events: head.get().saturating_sub(place.max(floor).get()),
            lag_time: Some(duration(age)),
            skipped_events: skipped,
            stream: attached.map(|attached| stream_message(cursors, attached)),
            ..settings
        }
    }
}

fn duration(micros: i64) -> prost_types::Duration {
    let nanos = i32::try_from(micros % 1_000_000 * 1_000).expect("below a second");
    prost_types::Duration { seconds: micros / 1_000_000, nanos }
}

fn stream_message(cursors: CursorSpace, attached: AttachedStream) -> SubscriptionStream {
    let AttachedStream { stream, peer, open_time, sent } = attached;
    SubscriptionStream {
        number: stream,
        peer: peer.to_string(),
        open_time: Some(Micros::to_timestamp(open_time)),
        sent_cursor: cursors.at(sent).to_string(),
        sent_sequence: Position::place(sent).get(),
    }
}

fn parse_settings(subscription: Option<Subscription>, grant: Option<&Arc<Grant>>) -> Result<Settings, Invalid> {
    let subscription = subscription.ok_or_else(|| Invalid::field("subscription", "must be set"))?;
    parse_filter(subscription.filter.clone(), None, grant)?; // First, so that its errors name the field as in a stream.
    Settings::parse("subscription", subscription, grant)
}

fn parse_start(start: Option<create_subscription_request::Start>) -> Result<Start, Invalid> {
    use create_subscription_request::Start as Asked;
    Ok(match start {
        None => Start::Now,
        Some(Asked::Cursor(cursor)) => Start::after(cursor),
        Some(Asked::Earliest(earliest)) => parse_true("earliest", earliest).map(|()| Start::Earliest)?,
        Some(Asked::Time(time)) => Start::At(parse_time(&time)?),
        Some(Asked::Snapshot(snapshot)) => parse_true("snapshot", snapshot).map(|()| Start::Snapshot)?,
    })
}

fn parse_to(to: Option<seek_subscription_request::To>) -> Result<Start, Invalid> {
    use seek_subscription_request::To;
    Ok(match to.ok_or_else(|| Invalid::field("to", "must be set"))? {
        To::Cursor(cursor) => Start::after(cursor),
        To::Earliest(earliest) => parse_true("earliest", earliest).map(|()| Start::Earliest)?,
        To::Time(time) => Start::At(parse_time(&time)?),
        To::Now(now) => parse_true("now", now).map(|()| Start::Now)?,
        To::Snapshot(snapshot) => parse_true("snapshot", snapshot).map(|()| Start::Snapshot)?,
    })
}

/// The settings that an `update_mask` names.
fn parse_paths(mask: Option<FieldMask>) -> Result<Vec<String>, Invalid> {
    let paths = mask.unwrap_or_default().paths;
    Invalid::limit("update_mask", "paths", FILTER_FIELDS, paths.len())?;
    match paths.iter().find(|path| *path != "*" && !SETTINGS.contains(&path.as_str())) {
        Some(unknown) => {
            let problem = format!("{} is not a setting that can be changed", Quoted(unknown));
            Err(Invalid::Mask { field: "update_mask", problem })
        }
        None => Ok(paths),
    }
}

fn parse_skips(skips: Vec<v1::acknowledge_request::Skip>) -> Result<Vec<(Sequence, String)>, Invalid> {
    Invalid::limit("skipped", "events", SKIPS, skips.len())?;
    let parse = |(index, skip): (usize, v1::acknowledge_request::Skip)| {
        let sequence = Sequence::new(skip.sequence);
        let sequence =
            sequence.ok_or_else(|| Invalid::field(format_args!("skipped[{index}].sequence"), "must not be 0"))?;
        let reason = format_args!("skipped[{index}].reason");
        Invalid::limit(reason, "reason bytes", SKIP_REASON_BYTES, skip.reason.len())?;
        Ok((sequence, skip.reason))
    };
    skips.into_iter().enumerate().map(parse).collect()
}
