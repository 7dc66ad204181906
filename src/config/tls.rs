//! TLS of the server. `cli::connect` has the flags of the commands that call one.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

/// TLS of the server: its API, and its listener for operators.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsConfig {
    /// File with the certificate of the server and those between it and its CA, in PEM. It needs `--tls-key`. Without
    /// both, the server speaks plaintext. The files of this section are read again when they change.
    #[arg(long, env = "CAMEO_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File with the private key of that certificate, in PEM and not encrypted.
    #[arg(long, env = "CAMEO_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// File with the certificates of the CAs that issue certificates to clients, in PEM. A client may then present
    /// one, which must be good. Without this file, clients are not asked for certificates.
    #[arg(long, env = "CAMEO_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Refuse connections without a client certificate. It needs `--tls-client-ca`.
    #[arg(long, env = "CAMEO_TLS_REQUIRE_CLIENT_CERT")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub tls_require_client_cert: bool,
}
