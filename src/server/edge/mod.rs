//! The edge: what holds for every request before a service sees it, and for every response.
//!
//! - `head`: the host, the protocol and the content type.
//! - `credentials`: the token of a request.
//! - `methods`: what the descriptors say of a method.
//! - `receive`: requests arrive whole, within memory and time. `inflate` decompresses them.
//! - `respond`: responses count until they are sent. `compress` compresses them.
//!
//! Every refusal says why in the protocol of its client: a status of gRPC, or a problem document.

mod compress;
pub(super) mod credentials;
mod head;
mod inflate;
mod methods;
mod receive;
mod respond;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

pub(super) use respond::Outgoing;

use super::budget::{Hold, Size};
use super::connection::{CallInFlight, Connection};
use super::connections::Connections;
use super::in_flight::Kind;
use super::routes::Services;
use crate::auth::{Access, Authenticator};
use crate::call::Call;
use crate::compression::Encoding;
use crate::config::Config;
use crate::grpc::large;
use crate::grpc::status;
use crate::http::{refused, status_name};
use crate::proto::v1::ErrorReason;
use crate::quota::Quotas;
use crate::refusal::Refusal;
use crate::store::{self, Kept};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Traces};
pub(super) use head::Hosts;
use head::{Foreign, Protocol};
use methods::Method;
use receive::{Bounds, Counted, Messages};
use respond::Held;

/// What a browser's script may read of a gRPC-Web response.
const EXPOSED: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];
/// How long a browser may keep what it was told of an origin.
const PREFLIGHT_AGE: Duration = Duration::from_secs(60 * 60);
/// Health checks that are served when there is no room for other calls.
const MOST_CHECKS: usize = 256;
/// How long a client that calls too often, or that is not known, waits for its refusal. One that calls again at once
/// would otherwise keep the server busy with nothing else.
const HOLD: Duration = Duration::from_millis(50);
/// Refusals that wait. Further ones are sent at once.
const MOST_HELD: usize = 1_000;
/// Refusals with a body that was not read yet. Further ones have no body.
const MOST_UNREAD: usize = 1_000;
/// Strangers can make calls of health and of reflection, and calls that wait for keys. Of each kind there may be a quarter
/// as many as calls of others, and as connections: while a call lasts, its connection makes no room.
const STRANGERS_PART: usize = 4;
/// The part of the time for a message that a health check has: one second of thirty. Connections that wait for one keep
/// others out.
const CHECK_PART: u32 = 30;
/// The method that watches a shutdown itself.
const IMPORT: &str = "ProfileService/ImportProfiles";

type Answer = Response<tonic::body::Body>;

/// See the module.
pub(super) struct Edge {
    services: Services,
    connections: Arc<Connections>,
    auth: Arc<Authenticator>,
    quotas: Arc<Quotas>,
    hosts: Hosts,
    /// For gRPC-Web. `None` if no other origin may call.
    cors: Option<CorsLayer>,
    most_calls: usize,
    bounds: Bounds,
    send_timeout: Duration,
    /// The size of a page or a batch.
    largest_response: usize,
    metrics: Metrics,
    traces: Traces,
}

/// A call that is being served.
#[derive(Clone)]
struct Exchange {
    call: Arc<Call>,
    method: &'static Method,
    connection: Arc<Connection>,
    /// How the messages of its response are compressed.
    encoding: Option<Encoding>,
}

impl Edge {
    pub fn new(
        services: Services,
        connections: Arc<Connections>,
        auth: Arc<Authenticator>,
        config: &Config,
        is_loopback: bool,
        stop: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        let server = &config.server;
        let allowed = server.allowed_hosts.clone();
        let hosts = if is_loopback || !allowed.is_empty() { Hosts::LoopbackAnd(allowed) } else { Hosts::Any };
        Self {
            services,
            connections,
            auth,
            quotas: Quotas::new(&config.quotas),
            hosts,
            cors: (!server.cors_origins.is_empty()).then(|| cors(&server.cors_origins)),
            most_calls: server.max_calls,
            bounds: Bounds { message: config.limits.request_bytes, time: server.receive_timeout, stop },
            send_timeout: server.send_timeout,
            largest_response: config.limits.response_bytes,
            metrics,
            traces: Traces::default(),
        }
    }

    /// The same. Calls have spans in `traces`.
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Serves one request.
    pub async fn serve(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Outgoing> {
        let mut in_flight = connection.begin_call(request.version());
        let method = methods::at(request.uri().path());
        let span = self.traces.call(method.counted, request.method(), request.headers());
        let call = Call::begin(&self.metrics.calls, method.counted, method.is_write, connection.peer, span);
        let (mut is_plain, mut encoding) = (false, None);
        let admitted = match self.admit(&mut in_flight, method, &request) {
            Ok(admitted) => match self.identify(&call, &mut in_flight, method, &request).await {
                Ok(()) => Ok(admitted),
                Err(refusal) => {
                    let refusal = call.refuse(refusal); // First: a client that does not wait for it is logged too.
                    hold(&refusal, &call, &mut in_flight).await;
                    Err(Refused::Call(refusal))
                }
            },
            refused => refused,
        };
        let (response, held) = match admitted {
            Ok((protocol, head)) => {
                is_plain = protocol == Protocol::Grpc;
                if protocol != Protocol::Http {
                    encoding = compress::accepted(request.headers());
                }
                let exchange =
                    Exchange { call: Arc::clone(&call), method, connection: Arc::clone(connection), encoding };
                let (response, held) = match protocol {
                    Protocol::Grpc => self.grpc(exchange, request).await,
                    // Boxed: gRPC has no need of the room that they take.
                    Protocol::GrpcWeb => Box::pin(self.grpc_web(exchange, request)).await,
                    Protocol::Http => (Box::pin(self.http(exchange, request)).await, Held::default()),
                };
                (response, held.with_head(head))
            }
            Err(refused) => {
                let response = refused.render(&request, &call);
                let response = Box::pin(self.readable_by_pages(request, response)).await;
                let most = MOST_UNREAD.min(self.connections.most().div_ceil(STRANGERS_PART));
                (make_way(response, &mut in_flight, most), Held::default())
            }
        };
        if let Some(code) = code_of(&response) {
            call.end(code);
        }
        let encoding = encoding.filter(|_| is_plain); // Before the translation to gRPC-Web it is done already.
        let stream = method.streams.server.then(|| Arc::clone(&self.connections));
        response.map(|body| Outgoing::new(body, is_plain, encoding, stream, call, held, in_flight))
    }

    /// Checks the head of a request, and whether one more call may be in flight.
    fn admit<B>(
        &self,
        in_flight: &mut CallInFlight,
        method: &Method,
        request: &Request<B>,
    ) -> Result<(Protocol, Option<Hold>), Refused> {
        self.hosts.check(request).map_err(Refused::Call)?;
        let protocol = head::protocol(request, self.cors.is_some()).map_err(Refused::Foreign)?;
        let is_check = method.is_health_check() && in_flight.count(Kind::Check, MOST_CHECKS);
        if is_check || request.method() == http::Method::OPTIONS {
            return Ok((protocol, None)); // A browser's question whether it may call is answered at once.
        }
        if !self.connections.serves(in_flight.connection()) {
            return Err(Refused::Call(Refusal::too_many_connections(self.connections.most())));
        }
        let (kind, most) = if method.access == Some(Access::Open) {
            (Kind::Open, self.most_of_strangers())
        } else {
            (Kind::Call, self.most_calls)
        };
        if !in_flight.count(kind, most) {
            return Err(Refused::Call(Refusal::too_many_calls(most)));
        }
        let (receiving, weight) = (&in_flight.connection().receiving, head::weight(request.headers()));
        if weight <= head::USUAL_WEIGHT {
            return Ok((protocol, None));
        }
        if !receiving.may_receive(weight, Size::Small) {
            return Err(Refused::Call(Refusal::too_much_received()));
        }
        Ok((protocol, Some(receiving.take(weight))))
    }

    /// How many calls there may be of each kind that strangers can make.
    fn most_of_strangers(&self) -> usize {
        self.most_calls.min(self.connections.most()).div_ceil(STRANGERS_PART)
    }

    /// Finds out who makes a call, and whether it may make it at all.
    async fn identify<B>(
        &self,
        call: &Call,
        in_flight: &mut CallInFlight,
        method: &Method,
        request: &Request<B>,
    ) -> Result<(), Refusal> {
        if method.access == Some(Access::Open) || request.method() == http::Method::OPTIONS {
            return Ok(()); // A browser asks without a credential whether it may call.
        }
        let token = credentials::token(request.headers(), request.uri())?;
        let connection = Arc::clone(in_flight.connection());
        let certificate = connection.certificate.get().map(|certificate| &*certificate.names);
        let (mut waits, most) = (false, self.most_of_strangers());
        let has_room = || {
            waits = in_flight.count(Kind::Unknown, most);
            waits
        };
        let caller = self.auth.authenticate_if_room(token, certificate, has_room).await?;
        if waits && !in_flight.count(Kind::Call, self.most_calls) {
            return Err(Refusal::too_many_calls(self.most_calls));
        }
        call.made_by(caller, &self.quotas)
    }

    async fn grpc<B>(&self, exchange: Exchange, request: Request<B>) -> (Answer, Held)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let deadline = status::deadline(request.headers());
        let (call, encoding) = (Arc::clone(&exchange.call), exchange.encoding);
        let served = pin!(self.grpc_call(exchange, request));
        let served = traces::scope(call.span(), large::serve(served));
        let served = store::keep(call.write_place().map(|place| place as Kept), served);
        let outcome = match deadline {
            None => served.await,
            Some(deadline) => {
                let late = |_| Err(Refusal::deadline_exceeded(status::DEADLINE));
                tokio::time::timeout(deadline, served).await.unwrap_or_else(late)
            }
        };
        match outcome {
            Ok((mut response, held)) => {
                status::explain(&mut response, &call);
                if let Some(encoding) = encoding {
                    compress::announce(encoding, response.headers_mut());
                }
                (response, held)
            }
            Err(refusal) => (Status::from(call.refuse(refusal)).into_http(), Held::default()),
        }
    }

    async fn grpc_call<B>(&self, exchange: Exchange, request: Request<B>) -> Result<(Answer, Held), Refusal>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let Exchange { call, method, connection, encoding: response_encoding } = exchange;
        if !method.exists() {
            return Err(Refusal::method_unknown("no such method"));
        }
        let (mut head, body) = request.into_parts();
        head.extensions.insert(Arc::clone(&call));
        let encoding = inflate::encoding(&head.headers);
        if method.streams.client {
            let ends_at_stop = method.counted.name() != IMPORT;
            let messages = Messages::new(body, encoding, &connection.receiving, self.bounds.clone(), ends_at_stop);
            let Ok(answer) = self.services.grpc(Request::from_parts(head, messages)).await;
            return Ok((answer, Held::default()));
        }
        let time = if method.is_health_check() { self.bounds.time / CHECK_PART } else { self.bounds.time };
        let received = receive::one_message(body, encoding, &connection.receiving, &self.bounds, time).await;
        let message = received.inspect_err(|refusal| {
            if refusal.reason == ErrorReason::Overloaded && connection.receiving.has_share() {
                self.connections.reclaim(|connection| &connection.receiving); // Others hold the memory.
            }
        })?;
        let Some(mut message) = message else {
            return Ok((Status::cancelled("the caller cancelled the call").into_http(), Held::default()));
        };
        let response = self.room(&connection, method, response_encoding).await?;
        // What a stream keeps of its request is bounded: a filter and a mask.
        let request = message.hold.take().filter(|_| !method.streams.server);
        let held = Held::new(request, response);
        let bytes = message.len();
        call.counts(bytes);
        poll_fn(|context| large::poll_turn(bytes, context)).await;
        let Ok(answer) = self.services.grpc(Request::from_parts(head, message)).await;
        Ok((answer, held))
    }

    async fn room(
        &self,
        connection: &Connection,
        method: &Method,
        encoding: Option<Encoding>,
    ) -> Result<Option<Hold>, Refusal> {
        if method.is_health_check() {
            return Ok(None);
        }
        let reclaim = || self.connections.reclaim(|connection| &connection.sending);
        // A message that is compressed is there twice for a moment.
        let largest = self.largest_response * if encoding.is_some() { 2 } else { 1 };
        respond::room(&connection.sending, method.size, largest, self.send_timeout, reclaim).await
    }

    async fn grpc_web(self: &Arc<Self>, exchange: Exchange, mut request: Request<Incoming>) -> (Answer, Held) {
        head::normalise(&mut request);
        let (edge, held) = (Arc::clone(self), Arc::new(Mutex::new(Held::default())));
        let inner_held = Arc::clone(&held);
        let inner = service_fn(move |request: Request<tonic::body::Body>| {
            let (edge, exchange, held) = (Arc::clone(&edge), exchange.clone(), Arc::clone(&inner_held));
            async move {
                let (call, encoding) = (Arc::clone(&exchange.call), exchange.encoding);
                let (response, inner_held) = edge.grpc(exchange, request).await;
                *held.lock().unwrap_or_else(PoisonError::into_inner) = inner_held;
                Ok::<_, Infallible>(response.map(|body| respond::before_translation(body, encoding, call)))
            }
        });
        let service = GrpcWebLayer::new().layer(inner);
        let answered = match &self.cors {
            Some(cors) => cors.layer(service).oneshot(request).await,
            None => service.oneshot(request).await,
        };
        let held = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
        (answered.unwrap_or_else(|never| match never {}), held)
    }

    /// Lets web pages read why a call was refused, if they may call at all.
    async fn readable_by_pages(&self, request: Request<Incoming>, refused: Answer) -> Answer {
        let is_service = head::is_service(request.uri().path()) && self.hosts.check(&request).is_ok();
        let Some(cors) = self.cors.as_ref().filter(|_| is_service) else { return refused };
        let mut refused = Some(refused);
        let service = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(refused.take().unwrap_or_default())));
        cors.layer(service).oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    async fn http(&self, exchange: Exchange, mut request: Request<Incoming>) -> Answer {
        if let Err(refusal) = self.room(&exchange.connection, exchange.method, None).await {
            return Refused::Call(refusal).render(&request, &exchange.call);
        }
        request.extensions_mut().insert(Arc::clone(&exchange.call));
        let request = request.map(|body| Counted::new(body, &exchange.connection.receiving));
        let response = self.services.http(request).await;
        if let Some(reason) = response.extensions().get() {
            exchange.call.refused(*reason);
        }
        response
    }
}

/// The code of a response whose code is in its head. Most responses of gRPC have it in their trailers.
fn code_of<B>(response: &Response<B>) -> Option<&'static str> {
    let kind = response.headers().get(http::header::CONTENT_TYPE);
    match status::code_name(response.headers()) {
        None if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) => None,
        None => Some(status_name(response.status())),
        code => code,
    }
}

fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([http::Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(EXPOSED))
        .max_age(PREFLIGHT_AGE)
}

/// Delays the refusal of a client that calls too often, or that is not known: no quota bounds how often a stranger calls.
/// The refusal takes no room among the calls meanwhile.
async fn hold(refusal: &Refusal, call: &Call, in_flight: &mut CallInFlight) {
    let is_unbounded = call.caller().is_none() || refusal.reason == ErrorReason::RateLimited;
    if is_unbounded && in_flight.count(Kind::Held, MOST_HELD) {
        Box::pin(tokio::time::sleep(HOLD)).await; // Boxed: most calls have no need of the room that it takes.
    }
}

/// A refusal takes no room of calls. Its body waits for a reader that may never come, so at most `most` have one. Without
/// a body nothing is left to be read.
fn make_way(refused: Answer, in_flight: &mut CallInFlight, most: usize) -> Answer {
    if !refused.body().is_end_stream() && in_flight.count(Kind::Refused, most) {
        return refused;
    }
    in_flight.count_no_longer();
    refused.map(|_| tonic::body::Body::empty())
}

/// Why the edge does not pass a request on.
enum Refused {
    Call(Refusal),
    Foreign(Foreign),
}

impl Refused {
    /// In the protocol of the client.
    fn render<B>(self, request: &Request<B>, call: &Call) -> Answer {
        let (status, refusal) = match self {
            Self::Call(refusal) if head::speaks_grpc(request) => return Status::from(call.refuse(refusal)).into_http(),
            Self::Call(refusal) => (None, refusal),
            Self::Foreign(Foreign::Method) => {
                (Some(StatusCode::METHOD_NOT_ALLOWED), Refusal::method_unknown("a gRPC method is called with POST"))
            }
            Self::Foreign(Foreign::ContentType) => (None, Refusal::content_type_unsupported()),
            Self::Foreign(Foreign::Version) => (None, Refusal::version_unsupported()),
        };
        let mut response = refused(call.refuse(refusal), status);
        if status == Some(StatusCode::METHOD_NOT_ALLOWED) {
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("POST"));
        }
        if request.method() == http::Method::HEAD {
            return response.map(|_| tonic::body::Body::empty()); // A body would break the protocol.
        }
        response.map(tonic::body::Body::new)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::server::connection::tests::connection;

    #[test]
    fn a_refusal_takes_no_room_of_calls_and_only_so_many_have_a_body() {
        const MOST: usize = 3;
        let connection = connection(false);
        let refuse = |body: &'static str| {
            let mut in_flight = connection.begin_call(http::Version::HTTP_2);
            assert!(in_flight.count(Kind::Call, 1), "those before take no room");
            let refused = Response::new(tonic::body::Body::new(Full::from(body)));
            let has_body = !make_way(refused, &mut in_flight, MOST).body().is_end_stream();
            (in_flight, has_body)
        };
        let unread: Vec<_> = (0..MOST).map(|_| refuse("why")).collect();
        assert!(unread.iter().all(|(_, has_body)| *has_body));
        let (_further, has_body) = refuse("why");
        assert!(!has_body && !refuse("").1);
        drop(unread);
        assert!(refuse("why").1);
    }
}
