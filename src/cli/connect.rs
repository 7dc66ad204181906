//! How a command connects to a server: with TLS or without, and with the token that it presents.
//!
//! A token comes from a file or from the environment, never from the command line, which others can see.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::config::units::Address;
use crate::server;

/// The variable with a token, for those who have no file.
pub(super) const TOKEN: &str = "CAMEO_TOKEN";
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How often a connection with a call in flight is pinged while nothing arrives. Otherwise the system notices only after
/// many minutes that the server, or the way to it, is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the server has to respond to that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server, with the token in each call.
pub(super) type Server = InterceptedService<Channel, Bearer>;

#[derive(Debug, Clone, Args)]
pub(super) struct Connect {
    /// Connect with TLS. The certificate of the server must be from a CA that the system trusts, or from one of
    /// `--tls-ca`. Each of the other flags with `tls` in its name implies this one.
    #[arg(long, env = "CAMEO_TLS")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    tls: bool,
    /// File with the certificates of the CAs to trust instead of the system's, in PEM.
    #[arg(long, env = "CAMEO_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Name that the certificate of the server must have, if it is not the host of the address.
    #[arg(long, env = "CAMEO_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
    /// File with the certificate to present to the server, in PEM. It needs `--tls-client-key`.
    #[arg(long, env = "CAMEO_TLS_CLIENT_CERT", value_name = "FILE", requires = "tls_client_key")]
    tls_client_cert: Option<PathBuf>,
    /// File with the private key of that certificate, in PEM.
    #[arg(long, env = "CAMEO_TLS_CLIENT_KEY", value_name = "FILE", requires = "tls_client_cert")]
    tls_client_key: Option<PathBuf>,
    /// File with the token to present to the server. It is read again for each call. The variable `CAMEO_TOKEN` holds
    /// the token itself instead.
    #[arg(long, env = "CAMEO_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Connect {
    /// Connects to the first of the host's addresses that accepts the connection. `flag` is where the address comes
    /// from.
    ///
    /// # Errors
    /// Why no connection was made.
    pub async fn connect(&self, addr: &Address, flag: &str) -> anyhow::Result<Server> {
        let bearer = self.bearer()?;
        let resolved = server::resolve(addr).await;
        let resolved = resolved.map_err(|cause| anyhow!("cannot find the host of {addr}: {cause}. Check {flag}"))?;
        let mut failed = anyhow!("{addr} has no address");
        for resolved in resolved {
            match self.endpoint(&resolved.to_string(), addr.host())?.connect().await {
                Ok(channel) => return Ok(InterceptedService::new(channel, bearer)),
                Err(error) => {
                    let advice = advice(&error, flag);
                    failed = anyhow!("cannot connect to {addr}: {}. {advice}", innermost(&error));
                }
            }
        }
        Err(failed)
    }

    /// The server at `addr`. It is connected with the first call, within `time`.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn connect_lazily(&self, addr: &Address, time: Duration) -> anyhow::Result<Server> {
        let endpoint = self.endpoint(addr.as_str(), addr.host())?.connect_timeout(time);
        Ok(InterceptedService::new(endpoint.connect_lazy(), self.bearer()?))
    }

    /// Whether to connect with TLS.
    pub fn is_tls(&self) -> bool {
        let Self { tls, tls_ca, tls_server_name, tls_client_cert, tls_client_key, token_file: _ } = self;
        let files = [tls_ca, tls_client_cert, tls_client_key];
        *tls || tls_server_name.is_some() || files.into_iter().any(Option::is_some)
    }

    fn endpoint(&self, addr: &str, host: &str) -> anyhow::Result<Endpoint> {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{addr}"))?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if !self.is_tls() {
            return Ok(endpoint);
        }
        let endpoint = endpoint.tls_config(self.tls(host)?);
        endpoint.map_err(|error| anyhow!("cannot connect with TLS: {}", innermost(&error)))
    }

    fn tls(&self, host: &str) -> anyhow::Result<ClientTlsConfig> {
        let name = self.tls_server_name.as_deref().unwrap_or(host);
        let tls = ClientTlsConfig::new().domain_name(name).timeout(HANDSHAKE_TIME);
        let tls = match &self.tls_ca {
            Some(file) => tls.ca_certificate(ca(file)?),
            None => tls.with_native_roots(),
        };
        let (Some(cert), Some(key)) = (&self.tls_client_cert, &self.tls_client_key) else { return Ok(tls) };
        Ok(tls.identity(Identity::from_pem(read(cert, "--tls-client-cert")?, read(key, "--tls-client-key")?)))
    }

    fn bearer(&self) -> anyhow::Result<Bearer> {
        if let Some(file) = &self.token_file {
            of_file(file)?; // Tells at once of a file that cannot be used.
            return Ok(Bearer(Some(Arc::new(Source::File(file.clone())))));
        }
        match std::env::var(TOKEN).unwrap_or_default() {
            none if none.is_empty() => Ok(Bearer(None)),
            token => Ok(Bearer(Some(Arc::new(Source::Token(header(&token).context(TOKEN)?))))),
        }
    }
}

/// A file without any certificate would trust no server, and the error would blame the server.
fn ca(file: &Path) -> anyhow::Result<Certificate> {
    let pem = read(file, "--tls-ca")?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if certificates.map_or(0, |certificates| certificates.len()) == 0 {
        bail!("--tls-ca: {} is not a file of certificates in PEM", file.display());
    }
    Ok(Certificate::from_pem(pem))
}

fn read(file: &Path, flag: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{flag}: cannot read {}", file.display()))
}

/// Presents a token in each call, if there is one.
#[derive(Clone)]
pub(super) struct Bearer(Option<Arc<Source>>);

enum Source {
    /// A file, which may be replaced while the command runs.
    File(PathBuf),
    Token(MetadataValue<Ascii>),
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = match self.0.as_deref() {
            None => return Ok(request),
            Some(Source::Token(header)) => header.clone(),
            // It is tried again: the file may be being replaced.
            Some(Source::File(file)) => of_file(file).map_err(|error| Status::unavailable(format!("{error:#}")))?,
        };
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

fn of_file(file: &Path) -> anyhow::Result<MetadataValue<Ascii>> {
    let token = String::from_utf8(read(file, "--token-file")?).unwrap_or_default();
    header(&token).with_context(|| format!("--token-file: {}", file.display()))
}

/// Says nothing of the token in an error.
fn header(token: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("a token is one line of ASCII without spaces");
    }
    let mut header: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
    header.set_sensitive(true); // HTTP/2 does not index it, and `Debug` does not show it.
    Ok(header)
}

/// What to do when no connection was made.
fn advice(error: &(dyn Error + 'static), flag: &str) -> String {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    let Some(rustls::Error::InvalidCertificate(problem)) = of_tls(error) else { return format!("Check {flag}") };
    match problem {
        NotValidForName | NotValidForNameContext { .. } => {
            format!("Check {flag}, or name the server as its certificate does with --tls-server-name")
        }
        _ => "If the server is the right one, name the file with the CA of its certificate with --tls-ca".to_owned(),
    }
}

/// What TLS said. An I/O error has what it wraps not as its source.
fn of_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let within = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    error.downcast_ref().or_else(|| within.and_then(of_tls))
}

/// What the system or TLS said, without the layers of the client above it.
pub(super) fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e dyn Display {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use clap::{Command, FromArgMatches};
    use hyper_util::rt::TokioIo;
    use tokio::time::{Instant, timeout};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tower::service_fn;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Connect, clap::Error> {
        let command = Connect::augment_args(Command::new("test")).mut_args(|arg| arg.env(None::<&str>));
        let matches = command.try_get_matches_from([&["test"], flags].concat())?;
        Connect::from_arg_matches(&matches)
    }

    #[test]
    fn each_flag_of_tls_implies_tls() {
        for (flags, is_tls) in [
            (&[][..], false),
            (&["--token-file", "x"], false),
            (&["--tls=false"], false),
            (&["--tls"], true),
            (&["--tls-ca", "x"], true),
            (&["--tls-server-name", "x"], true),
            (&["--tls-client-cert", "x", "--tls-client-key", "x"], true),
        ] {
            assert_eq!(parse(flags).unwrap().is_tls(), is_tls, "{flags:?}");
        }
        assert!(parse(&["--tls-client-cert", "x"]).is_err() && parse(&["--tls-client-key", "x"]).is_err());
    }

    /// The server is gone without a word: what is sent to it is lost, and nothing comes back.
    #[tokio::test(start_paused = true)]
    async fn a_call_on_a_dead_connection_fails_within_half_a_minute() {
        let endpoint = parse(&[]).unwrap().endpoint("127.0.0.1:1", "127.0.0.1").unwrap();
        let (near, _far) = tokio::io::duplex(1 << 20);
        let mut near = Some(TokioIo::new(near));
        let connector =
            service_fn(move |_| ready(near.take().ok_or(io::Error::from(io::ErrorKind::ConnectionRefused))));
        let mut health = HealthClient::new(endpoint.connect_with_connector_lazy(connector));
        let begun = Instant::now();
        let failed = timeout(Duration::from_secs(600), health.check(HealthCheckRequest::default())).await;
        assert_eq!(failed.expect("it fails").unwrap_err().code(), tonic::Code::Unavailable);
        assert_eq!(begun.elapsed().as_secs(), (KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT).as_secs());
    }

    fn presented(bearer: &mut Bearer) -> Result<String, Status> {
        let request = bearer.call(Request::new(()))?;
        Ok(request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_read_again_for_each_call() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let connect = parse(&["--token-file", file.path().to_str().unwrap()]).unwrap();
        assert!(connect.bearer().is_err(), "the file is empty");
        std::fs::write(file.path(), " one\n").unwrap();
        let mut bearer = connect.bearer().unwrap();
        assert_eq!(presented(&mut bearer).unwrap(), "Bearer one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(presented(&mut bearer).unwrap(), "Bearer two");
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(presented(&mut bearer).unwrap_err().code(), tonic::Code::Unavailable);
    }

    #[test]
    fn no_error_and_no_debug_output_holds_the_token() {
        for bad in ["", " ", "sec ret", "sec\nret", "sécret", "sec\u{1}ret"] {
            let error = format!("{:#}", header(bad).unwrap_err());
            assert!(!error.contains("sec"), "{error}");
        }
        assert!(!format!("{:?}", header("secret").unwrap()).contains("secret"));
    }
}
