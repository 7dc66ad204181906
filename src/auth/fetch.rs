//! Fetches a key set: one GET, whose response is small, soon, and not a redirect. Proxies of the environment do not
//! count.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::AuthError;
use super::keys::{KeySet, SET_BYTES};

/// How long it may take to fetch the keys.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing listens, or its certificate is not trusted.
    #[error("cannot connect")]
    Connect,
    /// It takes too long.
    #[error("no response within 5 s")]
    Timeout,
    /// It responds with something else than the keys.
    #[error("HTTP {}", .0.as_u16())]
    Status(StatusCode),
    /// The connection ended too early, or the response is too large.
    #[error("the response is broken off, or larger than 1 MiB")]
    Body,
    /// The fetch panicked, which the log has too.
    #[error("it cannot be read")]
    Failed,
    /// The response holds no keys.
    #[error("{0}")]
    Content(String),
}

/// Where the keys are fetched from.
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: Uri,
}

impl Fetcher {
    /// # Errors
    /// If the URL is https and the system has no certificates to trust.
    pub fn new(url: Uri) -> Result<Self, AuthError> {
        // Without TLS no certificate is asked for: a source on this machine works on a system that has none.
        let builder = HttpsConnectorBuilder::new();
        let builder = match url.scheme_str() {
            Some("https") => builder.with_native_roots().map_err(|_| AuthError::NoCertificates)?,
            _ => builder.with_tls_config(without_certificates()),
        };
        let connector = builder.https_or_http().enable_http1().build();
        // The next fetch is far away: a connection is not kept.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, url })
    }

    /// The URL without its query, which may hold a key.
    pub fn name(&self) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", self.url.scheme_str().unwrap_or_default(), self.url.path())
    }

    /// Fetches the keys once.
    ///
    /// # Errors
    /// [`FetchError`] if there are none.
    pub async fn fetch(&self) -> Result<(Bytes, KeySet), FetchError> {
        let body = tokio::time::timeout(FETCH_TIMEOUT, self.get()).await.map_err(|_| FetchError::Timeout)??;
        let keys = KeySet::parse(&body).map_err(FetchError::Content)?;
        Ok((body, keys))
    }

    async fn get(&self) -> Result<Bytes, FetchError> {
        let mut request = Request::get(self.url.clone()).body(Empty::new()).expect("it has a URL");
        let agent = HeaderValue::from_static(concat!("cameo/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.client.request(request).await.map_err(|_| FetchError::Connect)?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(FetchError::Status(head.status));
        }
        let most = usize::try_from(SET_BYTES).expect("it is small");
        Ok(Limited::new(body, most).collect().await.map_err(|_| FetchError::Body)?.to_bytes())
    }
}

/// TLS that trusts no one.
fn without_certificates() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring has the cipher suites of these versions");
    config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}
