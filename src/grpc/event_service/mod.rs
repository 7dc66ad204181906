//! `cameo.v1.EventService`.

mod list;
pub mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::Empty;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::feed::{Feed, Subscribe};
use crate::grpc::codec::Encoded;
use crate::grpc::server::event_service_server::EventService;
use crate::model::cursor::Start;
use crate::model::{Filter, Invalid, Limits, Mask, Micros, Shard, Workspace, time};
use crate::proto::v1::{
    self, AcknowledgeRequest, CreateSubscriptionRequest, DeleteSubscriptionRequest, EventFilter, GetEventRequest,
    GetSubscriptionRequest, ListEventsRequest, ListSkippedEventsRequest, ListSubscriptionsRequest,
    SeekSubscriptionRequest, SubscribeRequest, UpdateSubscriptionRequest, subscribe_request,
};
use crate::refusal::Refusal;
use crate::store::{ReadClass, Store};
use list::List;

const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The service.
#[derive(Debug, Clone)]
pub struct Events {
    store: Arc<Store>,
    feed: Feed,
    limits: Limits,
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
    /// The messages are sent by [`stream`].
    type SubscribeStream = Empty<Result<Encoded, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let call = Call::of(request.extensions());
        let subscribe = parse_subscribe(request.into_inner(), call.peer().ip()).map_err(|error| call.refuse(error))?;
        call.within(&subscribe.workspace);
        let frames = self.feed.subscribe(Arc::clone(&self.store), subscribe).map_err(|error| call.refuse(error))?;
        Ok(stream::response(frames, call))
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
        let list = List::parse(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        call.within(&list.workspace);
        Ok(Response::new(call.read(&self.store, ReadClass::Scan, move |store, _| list.run(store)).await?))
    }
}

fn unknown<T>(request: &Request<T>) -> Result<Response<Encoded>, Status> {
    Err(Call::of(request.extensions()).refuse(Refusal::method_unknown("not offered by this version")).into())
}

fn parse_subscribe(request: SubscribeRequest, peer: IpAddr) -> Result<Subscribe, Invalid> {
    let not_offered = |field| Err(Invalid::field(field, "is not offered by this version"));
    let workspace = Workspace::parse(&request.workspace)?;
    let start = match request.start {
        None => Start::Now,
        Some(subscribe_request::Start::Cursor(cursor)) => Start::after(cursor),
        Some(subscribe_request::Start::Earliest(earliest)) => {
            parse_true("earliest", earliest).map(|()| Start::Earliest)?
        }
        Some(subscribe_request::Start::Time(time)) => Start::At(parse_time(&time)?),
        Some(subscribe_request::Start::Snapshot(snapshot)) => {
            parse_true("snapshot", snapshot).map(|()| Start::Snapshot)?
        }
        Some(subscribe_request::Start::Subscription(_)) => return not_offered("subscription"),
    };
    Ok(Subscribe {
        workspace,
        start,
        filter: parse_filter(request.filter, request.shard)?,
        mask: Mask::parse(request.read_mask, request.user_attribute_keys)?,
        heartbeat: parse_heartbeat(request.heartbeat_interval)?,
        until_caught_up: request.until_caught_up,
        peer,
        attachment: None,
    })
}

fn parse_true(field: &str, is_true: bool) -> Result<(), Invalid> {
    if is_true { Ok(()) } else { Err(Invalid::field(field, "must be true if it is set")) }
}

fn parse_time(time: &prost_types::Timestamp) -> Result<Micros, Invalid> {
    let invalid = || Invalid::field("time", "is not a valid time");
    if time::is_valid(time) { Ok(Micros::from_timestamp(time)) } else { Err(invalid()) }
}

fn parse_filter(filter: Option<EventFilter>, shard: Option<v1::Shard>) -> Result<Filter, Invalid> {
    let shard = shard.map(|shard| Shard::parse("shard", shard)).transpose()?;
    Ok(Filter::parse(filter)?.of_shard(shard))
}

fn parse_heartbeat(interval: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let Some(interval) = interval else { return Ok(HEARTBEAT) };
    let interval = Duration::try_from(interval).ok().filter(|interval| HEARTBEAT_RANGE.contains(interval));
    interval.ok_or_else(|| Invalid::field("heartbeat_interval", "must be 1 s to 60 s"))
}
