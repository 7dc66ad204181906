//! `cameo.v1.EventService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt, stream};
use tonic::{Request, Response, Status};

use super::codec::Encoded;
use super::page::Page;
use super::server::event_service_server::EventService;
use crate::feed::{Feed, Start, Subscribe, Subscriber};
use crate::model::cursor::CursorSpace;
use crate::model::{Filter, Invalid, Limits, Mask, Sequence, Workspace, wire};
use crate::proto::field::list_events_response::{CAUGHT_UP, CURSOR, EVENTS};
use crate::proto::v1::{ListEventsRequest, SubscribeRequest, list_events_request, subscribe_request};
use crate::store::{EventPage, EventRef, Snapshot, Store, StoreError, WorkspaceId};

const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The service.
#[derive(Debug, Clone)]
pub struct Events {
    store: Arc<Store>,
    feed: Feed,
    limits: Limits,
}

/// A parsed `ListEventsRequest`.
struct List {
    workspace: Workspace,
    after: Option<String>,
    filter: Filter,
    mask: Mask,
    page_size: usize,
}

impl Events {
    /// The service on a store and its feed.
    #[must_use]
    pub fn new(store: Arc<Store>, feed: Feed, limits: Limits) -> Self {
        Self { store, feed, limits }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let subscribe = parse_subscribe(request.into_inner())?;
        let subscriber = Subscriber::open(&self.feed, Arc::clone(&self.store), subscribe)?;
        let frames = stream::unfold(Box::new(subscriber), |mut subscriber| async move {
            subscriber.next().await.map(|frame| (frame, subscriber))
        });
        Ok(Response::new(Box::pin(frames.map_ok(Encoded).map_err(Status::from))))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<Encoded>, Status> {
        let list = parse_list(request.into_inner(), &self.limits)?;
        let page = Page::new(EVENTS, list.page_size, &self.limits);
        let store = Arc::clone(&self.store);
        // A page may ask the disk for much: not on a thread that serves others.
        let page = tokio::task::spawn_blocking(move || list_events(&store, &list, page));
        page.await.unwrap_or_else(|_| Err(StoreError::Closed.into())).map(Response::new)
    }
}

fn parse_subscribe(request: SubscribeRequest) -> Result<Subscribe, Invalid> {
    let not_offered = |field| Err(Invalid::field(field, "is not offered by this version"));
    let workspace = Workspace::parse(&request.workspace)?;
    let start = match request.start {
        None => Start::Now,
        Some(subscribe_request::Start::Cursor(cursor)) => Start::After(cursor),
        Some(subscribe_request::Start::Earliest(earliest)) => parse_earliest(earliest).map(|()| Start::Earliest)?,
        Some(subscribe_request::Start::Time(_)) => return not_offered("time"),
        Some(subscribe_request::Start::Snapshot(_)) => return not_offered("snapshot"),
        Some(subscribe_request::Start::Subscription(_)) => return not_offered("subscription"),
    };
    Ok(Subscribe {
        workspace,
        start,
        filter: Filter::parse(request.filter)?,
        mask: Mask::parse(request.read_mask, request.user_attribute_keys)?,
        heartbeat: parse_heartbeat(request.heartbeat_interval)?,
        until_caught_up: request.until_caught_up,
    })
}

fn parse_list(request: ListEventsRequest, limits: &Limits) -> Result<List, Invalid> {
    let workspace = Workspace::parse(&request.workspace)?;
    let after = match request.start {
        None => None,
        Some(list_events_request::Start::Cursor(cursor)) => Some(cursor),
        Some(list_events_request::Start::Earliest(earliest)) => parse_earliest(earliest).map(|()| None)?,
    };
    let filter = Filter::parse(request.filter)?;
    let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
    let page_size = limits.page_size(request.page_size)?;
    Ok(List { workspace, after, filter, mask, page_size })
}

fn parse_earliest(earliest: bool) -> Result<(), Invalid> {
    if earliest { Ok(()) } else { Err(Invalid::field("earliest", "must be true if it is set")) }
}

fn parse_heartbeat(interval: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let Some(interval) = interval else { return Ok(HEARTBEAT) };
    let interval = Duration::try_from(interval).ok().filter(|interval| HEARTBEAT_RANGE.contains(interval));
    interval.ok_or_else(|| Invalid::field("heartbeat_interval", "must be 1 s to 60 s"))
}

fn list_events(store: &Store, list: &List, mut page: Page) -> Result<Encoded, Status> {
    let cursors = CursorSpace::new(store.log_id(), &list.workspace);
    let read = if let Some(id) = store.workspace_id(&list.workspace) {
        let snapshot = store.snapshot()?;
        let bounds = snapshot.log_bounds(id)?;
        let after = match &list.after {
            Some(cursor) => cursors.parse("cursor", cursor, bounds.head)?,
            None => bounds.oldest.saturating_sub(1),
        };
        bounds.check_held(after)?;
        read_page(&snapshot, id, list, after, bounds.head, &mut page)?
    } else {
        let after = list.after.as_ref().map_or(Ok(0), |cursor| cursors.parse("cursor", cursor, 0))?;
        EventPage { through: after, complete: true }
    };
    let mut message = page.finish().map_err(|_| StoreError::Corrupt { table: "event" })?;
    wire::put_delimited(CURSOR, &cursors.at(read.through).encode(), &mut message);
    if read.complete {
        prost::encoding::bool::encode(CAUGHT_UP, &true, &mut message);
    }
    Ok(message.into())
}

fn read_page(
    snapshot: &Snapshot,
    id: WorkspaceId,
    list: &List,
    after: Sequence,
    head: Sequence,
    page: &mut Page,
) -> Result<EventPage, StoreError> {
    let mut push = |event: EventRef<'_>| page.push(list.mask.event(event.event));
    let history = match list.filter.single_mpid() {
        Some(mpid) => snapshot.history(id, mpid, after, head)?,
        None => None,
    };
    let Some(history) = history else {
        return snapshot.events(id, after, head, &list.filter, push);
    };
    for sequence in history {
        let more = snapshot
            .event(id, sequence, |event| !list.filter.matches(event.kind, event.mpid, event.silent) || push(event))?;
        if !more {
            return Ok(EventPage { through: sequence, complete: sequence == head });
        }
    }
    Ok(EventPage { through: head, complete: true })
}
