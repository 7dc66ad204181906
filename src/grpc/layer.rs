//! What holds for every call.

use std::task::{Context, Poll};

use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use super::status;

/// Gives the refusals that tonic itself makes the details that ours have: of a request that is too large or badly
/// framed, of a deadline that has passed, of a method that is not there.
#[derive(Debug, Clone, Copy)]
pub struct RefusalLayer;

impl<S> Layer<S> for RefusalLayer {
    type Service = Refusals<S>;

    fn layer(&self, inner: S) -> Refusals<S> {
        Refusals(inner)
    }
}

/// See [`RefusalLayer`].
#[derive(Debug, Clone)]
pub struct Refusals<S>(S);

impl<S, I, O> Service<Request<I>> for Refusals<S>
where
    S: Service<Request<I>, Response = Response<O>>,
{
    type Response = Response<O>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<O>) -> Response<O>>; // Not boxed: every lookup passes here.

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        self.0.call(request).map_ok(explain)
    }
}

fn explain<O>(mut response: Response<O>) -> Response<O> {
    if let Some(status) = explained(response.headers()) {
        let _ = status.add_header(response.headers_mut()); // It is made of ASCII.
    }
    response
}

/// Our refusal, where tonic refused without a reason.
fn explained(headers: &HeaderMap) -> Option<Status> {
    headers.get(Status::GRPC_STATUS)?; // Most answers have none here, but in their trailers.
    let refusal = Status::from_header_map(headers)?;
    if refusal.details().is_empty() { status::explained(&refusal) } else { None }
}
