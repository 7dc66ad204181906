//! A source of keys: an HTTP server on this machine, which counts the requests.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Uri};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What the source responds with.
#[derive(Clone)]
pub enum Reply {
    Keys(String),
    Status(u16),
    /// A redirect to the keys.
    Redirect(String),
    /// Nothing, for ever.
    Silence,
}

#[derive(Clone)]
pub struct Source {
    pub url: Uri,
    reply: Arc<Mutex<Reply>>,
    requests: Arc<AtomicUsize>,
}

impl Source {
    pub async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json?key=hidden", listener.local_addr().unwrap()).parse().unwrap();
        let source = Self { url, reply: Arc::new(Mutex::new(reply)), requests: Arc::default() };
        tokio::spawn(source.clone().serve(listener));
        source
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let this = self.clone();
            let service = service_fn(move |_| this.clone().respond());
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    }

    async fn respond(self) -> Result<Response<Full<Bytes>>, Infallible> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let reply = self.reply.lock().unwrap().clone();
        let (status, location, body) = match reply {
            Reply::Keys(keys) => (200, String::new(), keys),
            Reply::Status(status) => (status, String::new(), "broken".to_owned()),
            Reply::Redirect(keys) => (302, self.url.to_string(), keys),
            Reply::Silence => std::future::pending().await,
        };
        Ok(Response::builder().status(status).header("location", location).body(Full::from(body)).unwrap())
    }

    pub fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    pub async fn asked(&self, requests: usize) {
        while self.requests() < requests {
            tokio::task::yield_now().await;
        }
    }
}

/// Lets time pass at once. Sockets stay as they are.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
