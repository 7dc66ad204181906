//! Every setting, one struct per concern: [`server`], [`auth`], [`tls`], [`store`], [`feed`], [`limits`], [`quotas`],
//! [`telemetry`].
//!
//! A setting is written once, as a field of its struct: the field's attributes give the flag, the `CAMEO_` variable,
//! the default and the help. [`file`](mod@file) reads the same settings from a TOML file, and [`units`] parses values
//! such as `1GiB` and `10s`. `docs/settings.md` is made from the help, and a test holds it to that.
//!
//! To add a setting, add a field to the struct of the module that uses it. `docs/architecture.md` lists what follows.

pub mod auth;
pub mod feed;
pub mod file;
pub mod limits;
pub mod quotas;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod units;

use std::sync::LazyLock;

use clap::{Args, Command};

pub use auth::{AuthConfig, Jwks};
pub use feed::FeedConfig;
pub use limits::Limits;
pub use quotas::QuotaConfig;
pub use server::ServerConfig;
pub use store::StoreConfig;
pub use telemetry::{LogFormat, TelemetryConfig};
pub use tls::TlsConfig;
pub use traces::TraceConfig;

/// All settings.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where and how to listen.
    #[command(flatten)]
    pub server: ServerConfig,
    /// Who may call.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// TLS of the server.
    #[command(flatten)]
    pub tls: TlsConfig,
    /// Where and how to store.
    #[command(flatten)]
    pub store: StoreConfig,
    /// How streams behave.
    #[command(flatten)]
    pub feed: FeedConfig,
    /// What callers may send.
    #[command(flatten)]
    pub limits: Limits,
    /// How much one client may ask for.
    #[command(flatten)]
    pub quotas: QuotaConfig,
    /// What to log, and where to serve metrics.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceConfig,
}

/// The defaults of these settings, whatever the environment says.
fn defaults<A: Args>() -> A {
    let command = A::augment_args(Command::new("cameo")).mut_args(|arg| arg.env(None::<&str>));
    let parsed = command.try_get_matches_from(["cameo"]).and_then(|matches| A::from_arg_matches(&matches));
    parsed.expect("every setting has a valid default")
}

macro_rules! default_settings {
    ($($config:ty),*) => {$(
        impl Default for $config {
            fn default() -> Self {
                static DEFAULT: LazyLock<$config> = LazyLock::new(defaults);
                DEFAULT.clone()
            }
        }
    )*};
}
default_settings!(
    Config,
    ServerConfig,
    AuthConfig,
    TlsConfig,
    StoreConfig,
    FeedConfig,
    Limits,
    QuotaConfig,
    TelemetryConfig,
    TraceConfig
);
