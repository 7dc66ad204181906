//! TLS: the certificate in force, and handshakes within bounds.
//!
//! - `files`: the files of the settings, and what rustls makes of them. `certificate` is what a certificate says.
//! - `places`: how many handshakes run at a time.
//! - `failure`: why a handshake failed.
//!
//! What always holds:
//! - A connection keeps the certificate that it began with. A change of the files concerns the connections after it.
//! - Files that cannot be used change nothing.
//! - A handshake never runs in an accept loop. It has a deadline, and one of [`places::HANDSHAKES`] places.

mod certificate;
mod failure;
mod files;
mod places;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::watch::{self, Contents, Unreadable};
use crate::config::TlsConfig;
use crate::telemetry::metrics::{HandshakeFailure, TlsMetrics};
pub(super) use certificate::ClientCertificate;
use certificate::Expiry;
pub(super) use failure::Failed;
use failure::Failures;
pub use files::TlsError;
use files::{Configs, TlsFiles};
use places::Places;

/// What the files held when the server started. [`Loaded::serve`] puts it in force.
#[derive(Debug)]
pub(super) struct Loaded {
    files: TlsFiles,
    watched: watch::Files,
    configs: Configs,
}

/// TLS of the API and of the listener of operators.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    in_force: ArcSwap<Configs>,
    places: Places,
    failures: Failures,
    metrics: TlsMetrics,
}

impl Loaded {
    /// Reads the files that the settings name. `None` if there is to be no TLS.
    ///
    /// # Errors
    /// [`TlsError`] if the settings are incomplete, or the files cannot be used.
    pub async fn of(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        let Some(files) = TlsFiles::of(config)? else { return Ok(None) };
        let read = watch::Files::read(files.paths()).await;
        let (watched, contents) = read.map_err(|unreadable| files.unreadable(unreadable))?;
        let configs = files.configs(&contents)?;
        if let Some(key) = files.exposed_key() {
            let key = key.display();
            tracing::warn!(%key, "other users of this machine can read the key of --tls-key: give it the mode 0600");
        }
        Ok(Some(Self { files, watched, configs }))
    }

    /// Puts it in force. The files are to be followed by [`Tls::follow`].
    pub fn serve(self, metrics: TlsMetrics) -> (Arc<Tls>, watch::Files) {
        let Self { files, watched, configs } = self;
        let (places, failures) = (Places::new(), Failures::new(metrics.clone()));
        note_expiry(&configs, &metrics);
        let tls = Tls { files, in_force: ArcSwap::from_pointee(configs), places, failures, metrics };
        (Arc::new(tls), watched)
    }
}

impl Tls {
    /// Serves what the files hold whenever they change, until `stop` is cancelled.
    pub async fn follow(self: Arc<Self>, mut watched: watch::Files, stop: CancellationToken) {
        while let Some(changed) = stop.run_until_cancelled(watched.changed()).await {
            self.replace(changed);
        }
    }

    fn replace(&self, changed: Result<Contents, Unreadable>) {
        let read = changed.map_err(|unreadable| self.files.unreadable(unreadable));
        match read.and_then(|contents| self.files.configs(&contents)) {
            Ok(configs) => {
                let expires = configs.expiry.as_ref().map(|expiry| &expiry.shown);
                tracing::info!(expires, "the TLS files changed: new connections are served with what they hold");
                note_expiry(&configs, &self.metrics);
                self.in_force.store(Arc::new(configs));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the TLS files changed and cannot be used: what was in force stays in force");
            }
        }
    }

    /// The handshake of a connection to the API.
    ///
    /// # Errors
    /// Why it failed. That has been counted and logged.
    pub async fn accept(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, Failed> {
        let handshake = async {
            stream.readable().await?; // A peer that says nothing takes no place.
            let place = self.places.take().await;
            tokio::select! {
                accepted = handshake(&self.in_force.load().api, stream) => accepted,
                () = place.is_wanted() => Err(HandshakeFailure::MadeRoom.into()),
            }
        };
        self.within(deadline, peer, handshake).await
    }

    /// The handshake of a connection to the listener of operators, which bounds their number itself.
    ///
    /// # Errors
    /// Why it failed. That has been counted and logged.
    pub async fn accept_operator(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, Failed> {
        self.within(deadline, peer, handshake(&self.in_force.load().operators, stream)).await
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        peer: SocketAddr,
        handshake: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let ended = timeout_at(deadline, handshake).await;
        ended.unwrap_or_else(|_| Err(HandshakeFailure::Timeout.into())).inspect_err(|failed| {
            self.failures.note(peer, failed);
        })
    }
}

fn handshake(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
) -> impl Future<Output = Result<TlsStream<TcpStream>, Failed>> + use<> {
    let accept = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    async { Ok(accept.await?) }
}

/// The certificate that a client presented. `None` if it presented none.
pub(super) fn certificate_of(stream: &TlsStream<TcpStream>) -> Option<ClientCertificate> {
    let presented = stream.get_ref().1.peer_certificates()?;
    presented.first().map(|certificate| ClientCertificate::parse(certificate))
}

/// An expired certificate is served all the same: some clients may not mind, and without it none could connect.
fn note_expiry(configs: &Configs, metrics: &TlsMetrics) {
    let Some(Expiry { seconds, shown, has_passed }) = &configs.expiry else { return };
    metrics.certificate(*seconds);
    if *has_passed {
        tracing::warn!(expired = shown, "the certificate of --tls-cert has expired: clients will refuse it");
    }
}
