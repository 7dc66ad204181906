//! An identity provider: keys that sign JWTs, and their public halves in a file or behind a URL.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cameo::config::Config;
use cameo::config::auth::Jwks;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Response, Uri};
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

const ISSUER: &str = "https://idp.example.com/";
const AUDIENCE: &str = "cameo.example.com";
const LIFETIME: Duration = Duration::from_secs(3_600);

/// A key of the provider.
pub struct SigningKey {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    pub fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    /// The JWT of a caller named `crm`, with these roles everywhere.
    pub fn token(&self, roles: &[&str]) -> String {
        let end = (SystemTime::now() + LIFETIME).duration_since(UNIX_EPOCH).unwrap().as_secs();
        let cameo = json!({"roles": roles, "workspaces": ["*/*/*"]});
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "crm", "exp": end, "cameo": cameo});
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.kid});
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        format!("{message}.{}", base64(self.pair.sign(message.as_bytes())))
    }

    fn public(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": base64(self.pair.public_key())})
    }
}

fn set(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()}).to_string()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Makes a server ask for JWTs that these keys verify.
fn require(keys: Jwks) -> impl FnOnce(&mut Config) {
    |config| {
        config.auth.jwks = Some(keys);
        config.auth.jwt_issuer = Some(ISSUER.to_owned());
        config.auth.jwt_audience = Some(AUDIENCE.to_owned());
    }
}

/// A file of public keys.
pub struct KeyFile(TempDir);

impl KeyFile {
    pub fn new(keys: &[&SigningKey]) -> Self {
        let file = Self(TempDir::new().unwrap());
        file.publish(keys);
        file
    }

    /// Replaces the keys. The server never sees half of a file.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let new = self.0.path().join("new");
        std::fs::write(&new, set(keys)).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    pub fn require(&self) -> impl FnOnce(&mut Config) + use<> {
        require(Jwks::File(self.path()))
    }

    fn path(&self) -> PathBuf {
        Path::new(self.0.path()).join("jwks.json")
    }
}

/// An HTTP server with public keys, which counts its requests.
#[derive(Clone)]
pub struct KeyServer {
    url: Uri,
    body: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    is_silent: Arc<AtomicBool>,
}

impl KeyServer {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap()).parse().unwrap();
        let server = Self { url, body: Arc::default(), requests: Arc::default(), is_silent: Arc::default() };
        server.publish(keys);
        tokio::spawn(server.clone().serve(listener));
        server
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let this = self.clone();
            let respond = service_fn(move |_| {
                this.requests.fetch_add(1, Ordering::Relaxed);
                let (body, is_silent) = (this.body.lock().unwrap().clone(), this.is_silent.load(Ordering::Relaxed));
                async move {
                    if is_silent {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), respond));
        }
    }

    /// Replaces the keys.
    pub fn publish(&self, keys: &[&SigningKey]) {
        *self.body.lock().unwrap() = set(keys);
    }

    /// From now on it takes requests and responds to none.
    pub fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }

    pub fn url(&self) -> String {
        self.url.to_string()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn require(&self) -> impl FnOnce(&mut Config) + use<> {
        require(Jwks::Url(self.url.clone()))
    }
}
