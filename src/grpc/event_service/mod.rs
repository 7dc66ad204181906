//! `cameo.v1.EventService`.

mod list;
mod sight;
pub mod stream;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::Empty;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::feed::{Feed, Frames, IsOver, Subscribe};
use crate::grpc::codec::Encoded;
use crate::grpc::server::event_service_server::EventService;
use crate::model::cursor::Start;
use crate::model::{Filter, Grant, Invalid, Limits, Mask, Micros, Shard, SubscriptionName, Workspace, time};
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

impl Events {
    async fn open(&self, call: &Call, request: SubscribeRequest) -> Result<Frames, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        call.within(&workspace)?;
        let heartbeat = parse_heartbeat(request.heartbeat_interval)?;
        let until_caught_up = request.until_caught_up;
        let place = self.feed.enter(call.client())?; // First: a stream that is refused must take over none.
        let subscriber = if let Some(subscribe_request::Start::Subscription(name)) = &request.start {
            let name = SubscriptionName::parse("subscription", name)?;
            refuse_settings([
                ("filter", request.filter.is_some()),
                ("read_mask", request.read_mask.is_some()),
                ("user_attribute_keys", !request.user_attribute_keys.is_empty()),
                ("shard", request.shard.is_some()),
            ])?;
            let opened = self.open_stream(call, &workspace, &name, heartbeat, until_caught_up);
            Box::pin(opened).await? // Boxed: most streams need none of it.
        } else {
            let filter = parse_filter(request.filter, request.shard, call.grant())?;
            let mask = Mask::parse(request.read_mask, request.user_attribute_keys, call.grant())?;
            let start = self.found(&workspace, parse_start(request.start)?).await?;
            let (attachment, is_over) = (None, is_over(call));
            let subscribe =
                Subscribe { workspace, start, filter, mask, heartbeat, until_caught_up, attachment, is_over };
            self.feed.open(Arc::clone(&self.store), subscribe)?
        };
        Ok(self.feed.serve(subscriber, place))
    }

    /// A start whose place is found, if it is a time. The search may read much of the disk, so the read pool makes it.
    async fn found(&self, workspace: &Workspace, start: Start) -> Result<Start, Refusal> {
        let Start::At(time) = start else { return Ok(start) };
        let of = workspace.clone();
        let read = move |store: &Store| store.begin(&of, &start);
        let (_, position) = self.store.on_read_pool(ReadClass::Scan, Some(workspace), read).await?;
        Ok(Start::Since(position.place(), time))
    }
}

#[tonic::async_trait]
impl EventService for Events {
    /// The messages are sent by [`stream`].
    type SubscribeStream = Empty<Result<Encoded, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let call = Call::of(request.extensions());
        let frames = self.open(&call, request.into_inner()).await.map_err(|error| call.refuse(error))?;
        Ok(stream::response(frames, call))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.event(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.create(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn get_subscription(&self, request: Request<GetSubscriptionRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.get(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.list(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.update(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.delete(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn seek_subscription(&self, request: Request<SeekSubscriptionRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.seek(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn acknowledge(&self, request: Request<AcknowledgeRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.acknowledge_up_to(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn list_skipped_events(
        &self,
        request: Request<ListSkippedEventsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.list_skipped(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let list = List::parse(request.into_inner(), &self.limits, call.grant()).map_err(|error| call.refuse(error))?;
        call.within(&list.workspace).map_err(|refusal| call.refuse(refusal))?;
        Ok(Response::new(
            call.read(&self.store, ReadClass::Scan, move |store, call| list.run(store, call.grant())).await?,
        ))
    }
}

/// Refuses settings that a request gives, because the subscription that it names has its own.
fn refuse_settings(given: [(&'static str, bool); 4]) -> Result<(), Invalid> {
    match given.into_iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(Invalid::field(field, "must not be set: the subscription has its own")),
        None => Ok(()),
    }
}

fn parse_start(start: Option<subscribe_request::Start>) -> Result<Start, Invalid> {
    use subscribe_request::Start as Asked;
    Ok(match start {
        None => Start::Now,
        Some(Asked::Cursor(cursor)) => Start::after(cursor),
        Some(Asked::Earliest(earliest)) => parse_true("earliest", earliest).map(|()| Start::Earliest)?,
        Some(Asked::Time(time)) => Start::At(parse_time(&time)?),
        Some(Asked::Snapshot(snapshot)) => parse_true("snapshot", snapshot).map(|()| Start::Snapshot)?,
        Some(Asked::Subscription(_)) => return Err(Invalid::field("subscription", "opens a stream of its own")),
    })
}

fn parse_true(field: &str, is_true: bool) -> Result<(), Invalid> {
    if is_true { Ok(()) } else { Err(Invalid::field(field, "must be true if it is set")) }
}

fn parse_time(time: &prost_types::Timestamp) -> Result<Micros, Invalid> {
    let invalid = || Invalid::field("time", "is not a valid time");
    if time::is_valid(time) { Ok(Micros::from_timestamp(time)) } else { Err(invalid()) }
}

/// Whether the credential of a call is over, to be asked while its stream is open.
fn is_over(call: &Call) -> Option<IsOver> {
    let caller = call.caller().filter(|caller| caller.name().is_some()).cloned()?;
    Some(Box::new(move || caller.is_over(SystemTime::now())))
}

fn parse_filter(
    filter: Option<EventFilter>,
    shard: Option<v1::Shard>,
    grant: Option<&Arc<Grant>>,
) -> Result<Filter, Invalid> {
    let shard = shard.map(|shard| Shard::parse("shard", shard)).transpose()?;
    Ok(Filter::parse(filter, grant)?.of_shard(shard))
}

fn parse_heartbeat(interval: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let Some(interval) = interval else { return Ok(HEARTBEAT) };
    let interval = Duration::try_from(interval).ok().filter(|interval| HEARTBEAT_RANGE.contains(interval));
    interval.ok_or_else(|| Invalid::field("heartbeat_interval", "must be 1 s to 60 s"))
}
