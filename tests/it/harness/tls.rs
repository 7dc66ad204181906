//! TLS: certificates, good and bad ones, a server that has one, and clients that speak TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cameo::config::{Config, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{Client, within};

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// A CA.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server on this machine or a client named so.
    pub fn issue(&self) -> Pair {
        self.issue_with(|_| {})
    }

    pub fn issue_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let (key, params) = (KeyPair::generate().unwrap(), params(change));
        Pair { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    change(&mut params);
    params
}

/// A certificate that no CA has issued.
pub fn self_signed() -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair { cert: params(|_| {}).self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// The certificate was good until long ago.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
}

/// The files of a server's TLS.
pub struct TlsFiles {
    pub dir: TempDir,
    /// The CA of the server's certificate.
    pub ca: Ca,
    /// The CA of the clients' certificates.
    pub client_ca: Ca,
}

impl TlsFiles {
    pub fn new() -> Self {
        let files = Self { dir: TempDir::new().unwrap(), ca: Ca::new(), client_ca: Ca::new() };
        files.write(&files.ca.issue());
        std::fs::write(files.path("client-ca.pem"), files.client_ca.pem()).unwrap();
        std::fs::write(files.path("ca.pem"), files.ca.pem()).unwrap();
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the server's certificate and its key.
    pub fn write(&self, pair: &Pair) {
        std::fs::write(self.path("cert.pem"), &pair.cert).unwrap();
        std::fs::write(self.path("key.pem"), &pair.key).unwrap();
    }

    /// Turns TLS on.
    pub fn serve(&self, config: &mut Config) {
        config.tls.tls_cert = Some(self.path("cert.pem"));
        config.tls.tls_key = Some(self.path("key.pem"));
    }

    /// Turns TLS on, and verifies the certificates of clients.
    pub fn verify_clients(&self, config: &mut Config) {
        self.serve(config);
        config.tls = TlsConfig { tls_client_ca: Some(self.path("client-ca.pem")), ..config.tls.clone() };
    }

    /// The flags of a server with TLS.
    pub fn flags(&self) -> [String; 4] {
        let path = |name: &str| self.path(name).display().to_string();
        ["--tls-cert".to_owned(), path("cert.pem"), "--tls-key".to_owned(), path("key.pem")]
    }

    /// A client that trusts the server.
    pub fn client(&self) -> TlsClient {
        TlsClient { ca: self.ca.pem(), presents: None, versions: rustls::ALL_VERSIONS.to_vec(), alpn: &["h2"] }
    }
}

/// A client that speaks TLS.
#[derive(Clone)]
pub struct TlsClient {
    ca: String,
    presents: Option<Pair>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: &'static [&'static str],
}

impl TlsClient {
    pub fn presents(self, pair: Pair) -> Self {
        Self { presents: Some(pair), ..self }
    }

    /// The only version of TLS that it speaks.
    pub fn speaks(self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self }
    }

    /// The protocols that it offers.
    pub fn offers(self, alpn: &'static [&'static str]) -> Self {
        Self { alpn, ..self }
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions).unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match &self.presents {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
            }
            None => Ok(config.with_no_client_auth()),
        }
        .unwrap();
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// Connects, up to the end of the handshake.
    pub async fn connect(&self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = within(TcpStream::connect(addr)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        within(Box::pin(TlsConnector::from(Arc::new(self.config())).connect(name, stream))).await
    }

    /// The services over TLS, on a connection of its own.
    pub async fn services(&self, addr: SocketAddr) -> Result<Client, tonic::transport::Error> {
        Ok(Client::on(self.channel(addr).await?))
    }

    /// A connection of gRPC over TLS.
    pub async fn channel(&self, addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(&self.ca));
        let tls = match &self.presents {
            Some(pair) => tls.identity(Identity::from_pem(&pair.cert, &pair.key)),
            None => tls,
        };
        let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap();
        within(endpoint.connect()).await
    }

    /// The certificate that the server presents.
    pub async fn presented_by(&self, addr: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(addr).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}
