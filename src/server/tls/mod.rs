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

use crate::config::TlsConfig;
use crate::telemetry::audit;
use crate::telemetry::metrics::{HandshakeFailure, ReloadMetrics, Reloaded, TlsMetrics};
use crate::watch::{self, Contents, Unreadable};
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
    reloads: ReloadMetrics,
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
    pub fn serve(self, metrics: TlsMetrics, reloads: ReloadMetrics) -> (Arc<Tls>, watch::Files) {
        let Self { files, watched, configs } = self;
        let (places, failures) = (Places::new(), Failures::new(metrics.clone()));
        note_expiry(&configs, &metrics);
        let tls = Tls { files, in_force: ArcSwap::from_pointee(configs), places, failures, metrics, reloads };
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
        let configs = read.and_then(|contents| self.files.configs(&contents));
        self.reloads.note(Reloaded::Tls, configs.is_ok());
        match configs {
            Ok(configs) => {
                let expires = configs.expiry.as_ref().map(|expiry| &expiry.shown);
                tracing::info!(expires, "the TLS files changed: new connections are served with what they hold");
                tracing::info!(target: audit::TARGET, reloaded = "the TLS files", expires);
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
            stream.peek(&mut [0]).await?; // A silent peer takes no place. To tokio a new socket is `readable`.
            let place = self.places.take().await;
            tokio::select! {
                accepted = handshake(&self.in_force.load().api, stream) => accepted,
                () = place.is_wanted() => Err(HandshakeFailure::MadeRoom.into()),
            }
        };
        self.within(deadline, peer, handshake).await
    }

    /// The handshake of a connection to the listener of operators, which bounds their number itself: it gives up when
    /// the place of the connection `is_wanted`.
    ///
    /// # Errors
    /// Why it failed. That has been counted and logged.
    pub async fn accept_operator(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        deadline: Instant,
        is_wanted: impl Future<Output = ()>,
    ) -> Result<TlsStream<TcpStream>, Failed> {
        let accepting = handshake(&self.in_force.load().operators, stream);
        let handshake = async {
            tokio::select! {
                biased;
                () = is_wanted => Err(HandshakeFailure::MadeRoom.into()),
                accepted = accepting => accepted,
            }
        };
        self.within(deadline, peer, handshake).await
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca() -> Ca {
        let mut params = CertificateParams::new(["ca.example.org".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate and its key.
    fn issue(ca: &Ca, name: &str) -> (rcgen::Certificate, KeyPair) {
        let (key, params) = (KeyPair::generate().unwrap(), CertificateParams::new([name.to_owned()]).unwrap());
        (params.signed_by(&key, ca).unwrap(), key)
    }

    /// TLS that trusts the clients of this CA.
    async fn served(ca: &Ca) -> Arc<Tls> {
        let dir = TempDir::new().unwrap();
        let (cert, key) = issue(ca, "localhost");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("cert"), cert.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        fs::write(path("ca"), ca.pem()).unwrap();
        let config = TlsConfig {
            tls_cert: Some(path("cert")),
            tls_key: Some(path("key")),
            tls_client_ca: Some(path("ca")),
            ..TlsConfig::default()
        };
        Loaded::of(&config).await.unwrap().unwrap().serve(TlsMetrics::default(), ReloadMetrics::default()).0
    }

    /// A client that trusts this CA, and presents a certificate together with that of its CA.
    fn client(ca: &Ca, presents: Option<&str>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match presents.map(|name| issue(ca, name)) {
            Some((cert, key)) => {
                let chain: Vec<CertificateDer<'_>> = vec![cert.der().clone(), ca.der().clone()];
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }

    /// What the server knows of this client after the handshake.
    async fn certificate_after(tls: &Tls, client: TlsConnector) -> Option<ClientCertificate> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = tokio::spawn(async move { client.connect(name, connecting).await.unwrap() });
        let (stream, peer) = listener.accept().await.unwrap();
        let accepted = tls.accept(stream, peer, Instant::now() + Duration::from_secs(60)).await.unwrap();
        connecting.await.unwrap();
        certificate_of(&accepted)
    }

    #[tokio::test]
    async fn a_client_has_the_names_of_its_own_certificate() {
        let ca = ca();
        let tls = served(&ca).await;
        let names = certificate_after(&tls, client(&ca, Some("crm.internal"))).await.map(|known| known.names);
        assert_eq!(names, Some(vec!["dns:crm.internal".to_owned()]));
        assert_eq!(certificate_after(&tls, client(&ca, None)).await, None);
    }
}
