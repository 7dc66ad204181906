//! A collector of traces: it takes OTLP over gRPC, and keeps what it gets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cameo::config::Config;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

/// See the module. It serves until the test ends.
#[derive(Clone)]
pub struct Collector {
    pub addr: SocketAddr,
    requests: Requests,
}

type Requests = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

struct Service {
    requests: Requests,
    /// How many spans of each request it refuses.
    rejects: i64,
}

impl Collector {
    pub fn start() -> Self {
        Self::that_rejects(0)
    }

    /// A collector that takes all but so many spans of each request.
    pub fn that_rejects(rejects: i64) -> Self {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let (addr, requests) = (incoming.local_addr().unwrap(), Requests::default());
        let service = TraceServiceServer::new(Service { requests: Arc::clone(&requests), rejects });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { addr, requests }
    }

    /// What it got.
    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// All spans that it got.
    pub fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The spans with this name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The only span with this name.
    #[track_caller]
    pub fn one(&self, name: &str) -> Span {
        let mut named = self.named(name);
        assert_eq!(named.len(), 1, "{name} among {:#?}", self.spans());
        named.remove(0)
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.requests.lock().unwrap().push(request.into_inner());
        let partial_success = (self.rejects > 0)
            .then(|| ExportTracePartialSuccess { rejected_spans: self.rejects, error_message: String::new() });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

/// Sends traces to an address.
pub fn traces_to(addr: SocketAddr) -> impl FnOnce(&mut Config) {
    move |config| config.traces.otlp_endpoint = Some(format!("http://{addr}").parse().unwrap())
}

/// The value of an attribute of a span or of a resource, as text.
pub fn tag(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    })
}
