//! `cameo.v1.EventService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt, stream};
use tonic::{Request, Response, Status};

use super::codec::Encoded;
use super::server::event_service_server::EventService;
use crate::feed::{Feed, Start, Subscribe, Subscriber};
use crate::model::cursor::CursorSpace;
use crate::model::limits::PAGE_EVENTS;
use crate::model::{Filter, Invalid, Mask, Sequence, Workspace, wire};
use crate::proto::v1::{ListEventsRequest, SubscribeRequest, list_events_request, subscribe_request};
use crate::store::{EventPage, EventRef, Snapshot, Store, StoreError, WorkspaceId};

const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const DEFAULT_PAGE_EVENTS: usize = 100;
/// Of a page: with one event of the largest size more it stays below the 4 MiB that clients take by default.
const PAGE_BYTES: usize = 3 << 20;
/// Fields of `ListEventsResponse`.
const EVENTS: u32 = 1;
const CURSOR: u32 = 2;
const CAUGHT_UP: u32 = 3;

/// The service.
#[derive(Debug, Clone)]
pub struct Events {
    store: Arc<Store>,
    feed: Feed,
}

/// A parsed `ListEventsRequest`.
struct List {
    workspace: Workspace,
    after: Option<String>,
    filter: Filter,
    mask: Mask,
    page_size: usize,
}

/// A page of encoded events.
struct Page<'a> {
    mask: &'a Mask,
    size: usize,
    events: usize,
    message: Vec<u8>,
    corrupt: bool,
}

impl Events {
    /// The service on a store and its feed.
    #[must_use]
    pub fn new(store: Arc<Store>, feed: Feed) -> Self {
        Self { store, feed }
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
        let list = parse_list(request.into_inner())?;
        let store = Arc::clone(&self.store);
        // A page may ask the disk for much: not on a thread that serves others.
        let page = tokio::task::spawn_blocking(move || list_events(&store, &list));
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

fn parse_list(request: ListEventsRequest) -> Result<List, Invalid> {
    let workspace = Workspace::parse(&request.workspace)?;
    let after = match request.start {
        None => None,
        Some(list_events_request::Start::Cursor(cursor)) => Some(cursor),
        Some(list_events_request::Start::Earliest(earliest)) => parse_earliest(earliest).map(|()| None)?,
    };
    let filter = Filter::parse(request.filter)?;
    let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
    let page_size =
        usize::try_from(request.page_size).map_err(|_| Invalid::field("page_size", "must not be negative"))?;
    Invalid::limit("page_size", "events", PAGE_EVENTS, page_size)?;
    let page_size = if page_size == 0 { DEFAULT_PAGE_EVENTS } else { page_size };
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

fn list_events(store: &Store, list: &List) -> Result<Encoded, Status> {
    let cursors = CursorSpace::new(store.log_id(), &list.workspace);
    let mut page = Page { mask: &list.mask, size: list.page_size, events: 0, message: Vec::new(), corrupt: false };
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
    if page.corrupt {
        return Err(StoreError::Corrupt { table: "event" }.into());
    }
    let mut message = page.message;
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
    page: &mut Page<'_>,
) -> Result<EventPage, StoreError> {
    let history = match list.filter.single_mpid() {
        Some(mpid) => snapshot.history(id, mpid, after, head)?,
        None => None,
    };
    let Some(history) = history else {
        return snapshot.events(id, after, head, &list.filter, |event| page.push(event));
    };
    for sequence in history {
        let more =
            snapshot.event(id, sequence, |event| !list.filter.matches(event.kind, event.mpid) || page.push(event))?;
        if !more {
            return Ok(EventPage { through: sequence, complete: sequence == head });
        }
    }
    Ok(EventPage { through: head, complete: true })
}

impl Page<'_> {
    /// Adds an event. Whether there is room for another.
    fn push(&mut self, event: EventRef<'_>) -> bool {
        if self.mask.is_all() {
            wire::put_delimited(EVENTS, event.event, &mut self.message);
        } else {
            match self.mask.cut_event(event.event) {
                Ok(cut) => wire::put_delimited(EVENTS, &cut, &mut self.message),
                Err(_) => self.corrupt = true,
            }
        }
        self.events += 1;
        self.events < self.size && self.message.len() < PAGE_BYTES
    }
}
