//! `cameo.v1.EventService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::feed::{Feed, Subscribe};
use crate::grpc::codec::Encoded;
use crate::grpc::server::event_service_server::EventService;
use crate::model::cursor::Start;
use crate::model::{Filter, Invalid, Limits, Mask, Workspace, wire};
use crate::proto::field::list_events_response::{CAUGHT_UP, CURSOR, EVENTS};
use crate::proto::v1::{
    AcknowledgeRequest, CreateSubscriptionRequest, DeleteSubscriptionRequest, GetEventRequest, GetSubscriptionRequest,
    ListEventsRequest, ListSkippedEventsRequest, ListSubscriptionsRequest, SeekSubscriptionRequest, SubscribeRequest,
    UpdateSubscriptionRequest, list_events_request, subscribe_request,
};
use crate::refusal::Refusal;
use crate::store::{PageSize, Past, ReadClass, Store, StoreError};

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
    start: Start,
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
        let call = Call::of(request.extensions());
        let subscribe = parse_subscribe(request.into_inner()).map_err(|error| call.refuse(error))?;
        call.within(&subscribe.workspace);
        let frames = self.feed.subscribe(Arc::clone(&self.store), subscribe).map_err(|error| call.refuse(error))?;
        let frames = frames.map_ok(Encoded).map_err(move |error| call.refuse(error).into());
        Ok(Response::new(Box::pin(frames)))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn get_subscription(&self, request: Request<GetSubscriptionRequest>) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn seek_subscription(&self, request: Request<SeekSubscriptionRequest>) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn acknowledge(&self, request: Request<AcknowledgeRequest>) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn list_skipped_events(
        &self,
        request: Request<ListSkippedEventsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        unknown(&request)
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let list = parse_list(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        call.within(&list.workspace);
        let size = PageSize { items: list.page_size, bytes: self.limits.response_bytes };
        Ok(Response::new(
            call.read(&self.store, ReadClass::Scan, move |store, _| list_events(store, &list, size)).await?,
        ))
    }
}

fn unknown<T>(request: &Request<T>) -> Result<Response<Encoded>, Status> {
    Err(Call::of(request.extensions()).refuse(Refusal::method_unknown("not offered by this version")).into())
}

fn parse_subscribe(request: SubscribeRequest) -> Result<Subscribe, Invalid> {
    let not_offered = |field| Err(Invalid::field(field, "is not offered by this version"));
    let workspace = Workspace::parse(&request.workspace)?;
    let start = match request.start {
        None => Start::Now,
        Some(subscribe_request::Start::Cursor(cursor)) => Start::after(cursor),
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
    let not_offered = |field| Err(Invalid::field(field, "is not offered by this version"));
    let workspace = Workspace::parse(&request.workspace)?;
    let start = match request.start {
        None => Start::Earliest,
        Some(list_events_request::Start::Cursor(cursor)) => Start::after(cursor),
        Some(list_events_request::Start::Earliest(earliest)) => parse_earliest(earliest).map(|()| Start::Earliest)?,
        Some(list_events_request::Start::Time(_)) => return not_offered("time"),
        Some(list_events_request::Start::Snapshot(_)) => return not_offered("snapshot"),
        Some(list_events_request::Start::Subscription(_)) => return not_offered("subscription"),
    };
    let filter = Filter::parse(request.filter)?;
    let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
    let page_size = limits.page_size(request.page_size)?;
    Ok(List { workspace, start, filter, mask, page_size })
}

fn parse_earliest(earliest: bool) -> Result<(), Invalid> {
    if earliest { Ok(()) } else { Err(Invalid::field("earliest", "must be true if it is set")) }
}

fn parse_heartbeat(interval: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let Some(interval) = interval else { return Ok(HEARTBEAT) };
    let interval = Duration::try_from(interval).ok().filter(|interval| HEARTBEAT_RANGE.contains(interval));
    interval.ok_or_else(|| Invalid::field("heartbeat_interval", "must be 1 s to 60 s"))
}

/// A `ListEventsResponse`.
fn list_events(store: &Store, list: &List, size: PageSize) -> Result<Encoded, Refusal> {
    let mut message = Vec::new();
    let page = store.list_events(&list.workspace, &list.start, &list.filter, size, |event| {
        let event = list.mask.event(event.event).map_err(|_| StoreError::corrupt("event"))?;
        wire::put_delimited(EVENTS, &event, &mut message);
        Ok(event.len())
    });
    let cursors = store.cursors(&list.workspace);
    let page = page.map_err(|error| match error {
        StoreError::Corrupt { past: Some(Past::Event(past)), .. } => Refusal::log_damaged(cursors.at(past)),
        other => other.into(),
    })?;
    wire::put_delimited(CURSOR, &cursors.at(page.through).encode(), &mut message);
    if page.complete {
        prost::encoding::bool::encode(CAUGHT_UP, &true, &mut message);
    }
    Ok(message.into())
}
