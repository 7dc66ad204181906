//! What holds for every call: its content type is gRPC, its deadline is kept, and every refusal has a reason.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Map, MapOk, Ready, ready};
use futures_util::{FutureExt, TryFutureExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use tokio::time::Timeout;
use tokio::time::error::Elapsed;
use tonic::Status;
use tower::{Layer, Service};

use super::status;
use crate::refusal::Refusal;

/// tonic enforces deadlines too, but says CANCELLED without a reason. So ours ends a call a little earlier: tonic's
/// timer ticks in milliseconds.
const AHEAD: Duration = Duration::from_millis(2);

/// Refuses requests that are not gRPC before they reach a service, and ends calls whose deadline has passed. Where
/// tonic itself refuses (a request that is too large or badly framed, a method that does not exist), it adds the
/// details that our own refusals have.
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

type Outcome<O, E> = Result<Response<O>, E>;

impl<S, I, O: Default> Service<Request<I>> for Refusals<S>
where
    S: Service<Request<I>, Response = Response<O>>,
{
    type Response = Response<O>;
    type Error = S::Error;
    // Not boxed: every lookup takes this path.
    type Future = Either<
        Either<
            MapOk<S::Future, fn(Response<O>) -> Response<O>>,
            Map<Timeout<S::Future>, fn(Result<Outcome<O, S::Error>, Elapsed>) -> Outcome<O, S::Error>>,
        >,
        Ready<Outcome<O, S::Error>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        if is_service(request.uri().path()) && !is_grpc(request.headers()) {
            let mut refusal = Response::new(O::default());
            *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Either::Right(ready(Ok(refusal)));
        }
        let deadline = deadline(request.headers());
        let response = self.0.call(request);
        Either::Left(match deadline {
            None => Either::Left(response.map_ok(explain)),
            Some(deadline) => {
                Either::Right(tokio::time::timeout(deadline.saturating_sub(AHEAD), response).map(in_time))
            }
        })
    }
}

/// Whether a path belongs to a gRPC service: `/package.Service/Method`.
fn is_service(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|service| service.contains('.'))
}

/// tonic does not check the content type. But a browser lets any web page send requests of the common types to us, and
/// asks us first only for others, such as this one.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn in_time<O: Default, E>(outcome: Result<Outcome<O, E>, Elapsed>) -> Outcome<O, E> {
    outcome.unwrap_or_else(|_| Ok(Status::from(Refusal::deadline_exceeded(status::DEADLINE)).into_http())).map(explain)
}

/// The deadline in `grpc-timeout`: up to eight digits and a unit. A malformed one is ignored.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 60 * 60),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn explain<O>(mut response: Response<O>) -> Response<O> {
    if let Some(status) = explained(response.headers()) {
        let _ = status.add_header(response.headers_mut()); // It cannot fail: our statuses are ASCII.
    }
    response
}

/// Our status for a refusal of tonic's that has no reason.
fn explained(headers: &HeaderMap) -> Option<Status> {
    headers.get(Status::GRPC_STATUS)?; // Most responses have their status in the trailers.
    status::explained(&Status::from_header_map(headers)?).map(Status::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let parse =
            |text: &str| deadline(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse("99999999M"), Some(Duration::from_secs(99_999_999 * 60)));
        assert_eq!(parse("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse("15m"), Some(Duration::from_millis(15)));
        assert_eq!(parse("15u"), Some(Duration::from_micros(15)));
        assert_eq!(parse("15n"), Some(Duration::from_nanos(15)));
        for malformed in ["", "S", "1", "1s", "+1S", "123456789S", "1 S"] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
