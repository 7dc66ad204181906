//! The files of the settings, and what rustls makes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::certificate::{self, Expiry};
use crate::config::TlsConfig;
use crate::watch::{self, Unreadable};

/// The protocols that the API speaks, the preferred one first.
const OF_THE_API: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The protocol that the listener of operators speaks.
const OF_OPERATORS: [&[u8]; 1] = [b"http/1.1"];

/// Why TLS cannot begin, or why the files cannot replace what is in force.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A setting that another one needs is missing.
    #[error("{given} needs {missing}: {advice}")]
    Incomplete { given: &'static str, missing: &'static str, advice: &'static str },
    /// A file cannot be read.
    #[error("{flag}: {cause}. Correct the path, or the permissions of the file")]
    Unreadable { flag: &'static str, cause: Box<dyn std::error::Error + Send + Sync> },
    /// A file does not hold what it should.
    #[error("{flag}: {path} {problem}")]
    Malformed { flag: &'static str, path: PathBuf, problem: String },
    /// rustls cannot use the certificate with the key.
    #[error("the certificate in {cert} and the key in {key} cannot be used together: {cause}")]
    Unusable { cert: PathBuf, key: PathBuf, cause: rustls::Error },
}

/// The files that the settings name. With them there is TLS.
#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    require_client_cert: bool,
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Configs {
    pub api: Arc<ServerConfig>,
    pub operators: Arc<ServerConfig>,
    /// When the server's certificate expires. `None` if it does not tell.
    pub expiry: Option<Expiry>,
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";
const REQUIRE: &str = "--tls-require-client-cert";

impl TlsFiles {
    /// `None` if there is to be no TLS.
    ///
    /// # Errors
    /// [`TlsError::Incomplete`] if a setting needs another one.
    pub fn of(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        let TlsConfig { tls_cert, tls_key, tls_client_ca, tls_require_client_cert } = config.clone();
        let incomplete = |given, missing, advice| Err(TlsError::Incomplete { given, missing, advice });
        match (tls_cert, tls_key, tls_client_ca, tls_require_client_cert) {
            (Some(_), None, ..) => incomplete(CERT, KEY, "name the file with the certificate's private key"),
            (None, Some(_), ..) => incomplete(KEY, CERT, "name the file with the certificate that the key belongs to"),
            (None, None, Some(_), _) => {
                incomplete(CLIENT_CA, CERT, "clients present certificates only over TLS, so set --tls-key too")
            }
            (_, _, None, true) => incomplete(REQUIRE, CLIENT_CA, "name the file with the CAs of the clients"),
            (None, None, None, false) => Ok(None),
            (Some(cert), Some(key), client_ca, require_client_cert) => {
                Ok(Some(Self { cert, key, client_ca, require_client_cert }))
            }
        }
    }

    /// The paths, in the order in which [`Self::configs`] takes the contents.
    pub fn paths(&self) -> Vec<PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// Says of an error in reading which setting it concerns.
    pub fn unreadable(&self, unreadable: Unreadable) -> TlsError {
        let flag = match &unreadable.path {
            path if *path == self.cert => CERT,
            path if *path == self.key => KEY,
            _ => CLIENT_CA,
        };
        TlsError::Unreadable { flag, cause: unreadable.into() }
    }

    /// The file of the key, if other users of the machine can read it.
    pub fn exposed_key(&self) -> Option<&Path> {
        use std::os::unix::fs::PermissionsExt;
        const OTHERS_READ: u32 = 0o044;
        let mode = std::fs::metadata(&self.key).map_or(0, |file| file.permissions().mode());
        (mode & OTHERS_READ != 0).then_some(&self.key)
    }

    /// What rustls makes of the contents.
    pub fn configs(&self, contents: &watch::Contents) -> Result<Configs, TlsError> {
        let [cert, key, client_ca @ ..] = &contents[..] else { unreachable!("there are two paths at least") };
        let chain = certificates(CERT, &self.cert, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| malformed(KEY, &self.key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = client_ca.first().map(|content| self.verifier(content, &provider)).transpose()?;
        let expiry = certificate::expiry(&chain[0]);
        let config = config(provider, verifier, chain, key).map_err(|cause| TlsError::Unusable {
            cert: self.cert.clone(),
            key: self.key.clone(),
            cause,
        })?;
        Ok(Configs { api: speaking(&config, &OF_THE_API), operators: speaking(&config, &OF_OPERATORS), expiry })
    }

    /// Verifies that a client's certificate is from one of these CAs.
    fn verifier(
        &self,
        content: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let path = self.client_ca.as_deref().expect("it has a content, so it has a path");
        let unusable = |cause: &dyn std::fmt::Display| TlsError::Malformed {
            flag: CLIENT_CA,
            path: path.to_owned(),
            problem: format!("holds a certificate that cannot be that of a CA: {cause}"),
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CLIENT_CA, path, content)? {
            roots.add(certificate).map_err(|cause| unusable(&cause))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = if self.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
        verifier.build().map_err(|cause| unusable(&cause))
    }
}

/// No session is resumed: the client's certificate is verified on each connection, with the CAs that are in force.
fn config(
    provider: Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn speaking(config: &ServerConfig, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The certificates in a file: one at least.
fn certificates(flag: &'static str, path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let all = all.and_then(|all| if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(all) });
    all.map_err(|error| malformed(flag, path, &error))
}

/// Quotes nothing of the file: it may be that of a key.
fn malformed(flag: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    let problem = match error {
        pem::Error::NoItemsFound if flag == KEY => "holds no private key in PEM, or only an encrypted one",
        pem::Error::NoItemsFound => "holds no certificate in PEM",
        pem::Error::MissingSectionEnd { .. } => "ends in the middle of a section: it is not written completely",
        _ => "is not PEM",
    };
    TlsError::Malformed { flag, path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn given(names: &[&str], require: bool) -> TlsConfig {
        let path = |flag: &str| names.contains(&flag).then(|| PathBuf::from(flag));
        let (tls_cert, tls_key, tls_client_ca) = (path(CERT), path(KEY), path(CLIENT_CA));
        TlsConfig { tls_cert, tls_key, tls_client_ca, tls_require_client_cert: require }
    }

    #[test]
    fn a_setting_that_needs_another_one_names_it() {
        for (names, require, given_flag, missing_flag) in [
            (&[CERT][..], false, CERT, KEY),
            (&[KEY], false, KEY, CERT),
            (&[CLIENT_CA], false, CLIENT_CA, CERT),
            (&[CERT, CLIENT_CA], false, CERT, KEY),
            (&[CERT, KEY], true, REQUIRE, CLIENT_CA),
            (&[], true, REQUIRE, CLIENT_CA),
        ] {
            let refused = TlsFiles::of(&given(names, require)).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{given_flag} needs {missing_flag}: ")), "{names:?}: {refused}");
        }
        assert!(TlsFiles::of(&given(&[], false)).unwrap().is_none());
        let all = TlsFiles::of(&given(&[CERT, KEY, CLIENT_CA], true)).unwrap().unwrap();
        assert_eq!(all.paths(), [CERT, KEY, CLIENT_CA].map(PathBuf::from));
    }

    fn pair() -> [Vec<u8>; 2] {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        [cert.pem(), signing_key.serialize_pem()].map(String::into_bytes)
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_its_content() {
        let ([cert, key], [other_cert, other_key]) = (pair(), pair());
        let half = |pem: &[u8]| pem[..pem.len() / 2].to_vec();
        let files = TlsFiles::of(&given(&[CERT, KEY, CLIENT_CA], false)).unwrap().unwrap();
        let problem = |contents: [&[u8]; 3]| {
            let contents = contents.map(<[u8]>::to_vec).to_vec();
            files.configs(&contents).err().map(|error| error.to_string())
        };
        assert_eq!(problem([&cert, &key, &other_cert]), None);
        for (contents, told) in [
            ([&b""[..], &key, &cert], "--tls-cert: --tls-cert holds no certificate in PEM"),
            ([&half(&cert), &key, &cert], "--tls-cert: --tls-cert ends in the middle of a section"),
            ([&cert, b"", &cert], "--tls-key: --tls-key holds no private key in PEM"),
            ([&cert, &cert, &cert], "--tls-key: --tls-key holds no private key in PEM"),
            ([&cert, &half(&key), &cert], "--tls-key: --tls-key ends in the middle of a section"),
            ([&cert, &key, b"CA"], "--tls-client-ca: --tls-client-ca holds no certificate in PEM"),
            (
                [&cert, &other_key, &cert],
                "the certificate in --tls-cert and the key in --tls-key cannot be used together",
            ),
        ] {
            let problem = problem(contents).unwrap();
            assert!(problem.starts_with(told), "{problem}");
            let lines = String::from_utf8_lossy(contents[1]).into_owned();
            assert!(lines.lines().all(|line| line.is_empty() || !problem.contains(line)), "{problem}");
        }
    }
}
