//! One attempt: a POST to the receiver, signed at that moment.
//!
//! Only the status and `Retry-After` of a response are looked at. Redirects are not followed: a 3xx is a failure.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::event::Delivery;
use super::retry::Failure;
use super::sign::Secrets;
use crate::telemetry::traces::{DeliverySpan, Trace, Traces};

/// How much of a response is read, so that its connection serves the next request.
const MAX_RESPONSE: usize = 64 << 10;
/// How long that may take.
const RESPONSE_TIME: Duration = Duration::from_secs(1);

/// The receiver of the deliveries.
pub struct Receiver {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secrets: Secrets,
    timeout: Duration,
    traces: Traces,
}

/// Parses the URL of a receiver.
///
/// # Errors
/// What is wrong with the text.
pub fn url(text: &str) -> Result<Uri, String> {
    let problem = || "a URL is such as https://example.com/events".to_owned();
    let url: Uri = text.parse().map_err(|_| problem())?;
    let Some(authority) = url.authority().filter(|_| matches!(url.scheme_str(), Some("http" | "https"))) else {
        return Err(problem());
    };
    if authority.as_str().contains('@') {
        return Err(
            "a URL with a password shows in the list of processes: let the receiver check signatures".to_owned()
        );
    }
    Ok(url)
}

impl Receiver {
    /// # Errors
    /// If the URL is https and the system has no certificates to trust.
    pub fn new(url: Uri, secrets: Secrets, timeout: Duration, traces: Traces) -> anyhow::Result<Self> {
        // Without TLS no certificate is asked for: a receiver next door works on a system that has none.
        let builder = HttpsConnectorBuilder::new();
        let builder = match url.scheme_str() {
            Some("https") => builder.with_native_roots().context("the system trusts no certificates")?,
            _ => builder.with_tls_config(without_certificates()?),
        };
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, url, secrets, timeout, traces })
    }

    /// Attempts a delivery once, for the `number`th time. The attempt belongs to the delivery's trace.
    ///
    /// # Errors
    /// Why the receiver does not have it, as far as is known.
    pub async fn attempt(&self, delivery: &Delivery, trace: &Trace, number: u32) -> Result<(), Failure> {
        let mut span = self.traces.delivery(trace, &self.url, &delivery.id, number);
        let attempted = self.send(delivery, &mut span).await;
        span.end(attempted.as_ref().err().map(|failure| &*failure.reason));
        attempted
    }

    async fn send(&self, delivery: &Delivery, span: &mut DeliverySpan) -> Result<(), Failure> {
        let mut request = self.request(delivery);
        span.propagate(request.headers_mut());
        let response = tokio::time::timeout(self.timeout, self.client.request(request)).await;
        let Ok(response) = response else {
            let within = humantime::format_duration(self.timeout);
            return Err(Failure::of(format!("no response within {within}")));
        };
        let response = response.map_err(|error| {
            Failure::of(if error.is_connect() { "cannot connect" } else { "the connection was lost" })
        })?;
        let (head, body) = response.into_parts();
        span.status(head.status.as_u16());
        let rest = Limited::new(body, MAX_RESPONSE).collect();
        let _ = tokio::time::timeout(RESPONSE_TIME, rest).await; // An error costs a connection, nothing else.
        if head.status.is_success() {
            return Ok(());
        }
        Err(Failure {
            reason: format!("HTTP {}", head.status.as_u16()),
            retry_after: retry_after(&head.headers, SystemTime::now()),
            is_overload: matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE),
            is_final: head.status == StatusCode::GONE,
        })
    }

    fn request(&self, delivery: &Delivery) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.url.clone()).body(Full::new(delivery.body.clone())).expect("it has a URL");
        let headers = request.headers_mut();
        headers.extend(delivery.headers.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("cameo/", env!("CARGO_PKG_VERSION"))));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let signatures = self.secrets.signatures(&delivery.id, now, &delivery.body);
        let signed = [
            ("webhook-id", Some(delivery.id.clone())),
            ("webhook-timestamp", Some(now.to_string())),
            ("webhook-signature", signatures),
        ];
        for (name, value) in signed {
            let Some(value) = value else { continue };
            headers.insert(name, HeaderValue::try_from(value).expect("ids and signatures are ASCII"));
        }
        debug_assert!(headers.contains_key(CONTENT_TYPE), "the delivery says what it is");
        request
    }
}

impl Failure {
    fn of(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None, is_overload: false, is_final: false }
    }
}

/// The wait that a response asks for: seconds, or a date. None if it asks for none that can be understood.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// TLS that trusts no one.
fn without_certificates() -> anyhow::Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_url_is_absolute_and_holds_no_password() {
        for good in ["http://localhost", "https://example.com:8443/a?b=c", "http://[::1]:80/"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in ["", "example.com", "/events", "ftp://example.com", "https://ada:secret@example.com/", "http://"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
