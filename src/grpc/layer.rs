//! What holds for every call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

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
    S::Future: Send + 'static,
{
    type Response = Response<O>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<O>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(status) = explained(response.headers()) {
                let _ = status.add_header(response.headers_mut()); // It is made of ASCII.
            }
            Ok(response)
        })
    }
}

/// Our refusal, where tonic refused without a reason.
fn explained(headers: &HeaderMap) -> Option<Status> {
    headers.get(Status::GRPC_STATUS)?; // Most answers have none here, but in their trailers.
    let refusal = Status::from_header_map(headers)?;
    if refusal.details().is_empty() { status::explained(&refusal) } else { None }
}
