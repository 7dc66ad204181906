//! Where and how to listen.

use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use http::HeaderValue;

use super::units::{self, Address};

/// Where and how to listen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerConfig {
    /// Address to listen on: a host name or an IP address, and a port. Port 0 lets the system choose a port.
    #[arg(long, env = "CAMEO_ADDR", value_parser = units::address, default_value = "127.0.0.1:50051")]
    pub addr: Address,
    /// Listen on an address that other machines can reach, although there is no authentication and no encryption.
    #[arg(long, env = "CAMEO_INSECURE")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub insecure: bool,
    /// Time that a shutdown may take before open calls are cut off.
    #[arg(long, env = "CAMEO_DRAIN_TIMEOUT", value_parser = units::duration, default_value = "10s")]
    pub drain_timeout: Duration,
    /// How long an import may wait for its sender. Then it is ended. Records that were taken have been applied.
    #[arg(long, env = "CAMEO_IMPORT_IDLE_TIMEOUT", value_parser = units::positive_duration, default_value = "60s")]
    pub import_idle_timeout: Duration,
    /// HTTP requests per second that a workspace may send, which is also the size of a burst. Requests that name no
    /// existing workspace share one rate of the same size. 0 sets no limit.
    #[arg(long, env = "CAMEO_HTTP_RATE", default_value = "0")]
    pub http_rate: u32,
    /// Connections that may be open at a time. When one more comes, the one that has been without a call for longest
    /// is closed. At most as many as the limit of open files allows.
    #[arg(long, env = "CAMEO_MAX_CONNECTIONS", value_parser = units::count, default_value = "10000")]
    pub max_connections: usize,
    /// Calls and streams that may be in flight on one connection. A client that starts more waits without a word, as
    /// HTTP/2 has it: use several channels for many streams.
    #[arg(long, env = "CAMEO_MAX_CALLS_PER_CONNECTION", default_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_calls_per_connection: u32,
    /// Calls and streams that may be in flight on all connections. A further one is refused as `OVERLOADED`.
    #[arg(long, env = "CAMEO_MAX_CALLS", value_parser = units::count, default_value = "50000")]
    pub max_calls: usize,
    /// Memory for requests that are being received. One connection may take an eighth of it, and messages over 64 KiB
    /// three quarters. A request for which there is no room is refused as `OVERLOADED`.
    #[arg(long, env = "CAMEO_RECEIVE_BYTES", value_parser = units::positive_size, default_value = "64MiB")]
    pub receive_bytes: usize,
    /// Memory for responses that wait to be read. One connection may take an eighth of it, pages half of it, and
    /// batches and pages together three quarters. Further calls wait, for as long as `--send-timeout`.
    #[arg(long, env = "CAMEO_SEND_BYTES", value_parser = units::positive_size, default_value = "256MiB")]
    pub send_bytes: usize,
    /// Time from a connection to its first words, and for the head of an HTTP/1.1 request. A connection of HTTP/1.1 that
    /// waits for its next request is closed after the same time.
    #[arg(long, env = "CAMEO_HANDSHAKE_TIMEOUT", value_parser = units::positive_duration, default_value = "10s")]
    pub handshake_timeout: Duration,
    /// Time after which a connection without a call is closed. 0 sets no limit.
    #[arg(long, env = "CAMEO_IDLE_TIMEOUT", value_parser = units::duration, default_value = "10m")]
    pub idle_timeout: Duration,
    /// Time that a message may take to arrive.
    #[arg(long, env = "CAMEO_RECEIVE_TIMEOUT", value_parser = units::positive_duration, default_value = "30s")]
    pub receive_timeout: Duration,
    /// Time that a response may wait for its reader without progress. Streams have `--stall-timeout` instead.
    #[arg(long, env = "CAMEO_SEND_TIMEOUT", value_parser = units::positive_duration, default_value = "30s")]
    pub send_timeout: Duration,
    /// Hosts that requests may name, in addition to loopback names, if the address is a loopback address. Separate
    /// several with commas. On another address all hosts are served unless some are given here.
    #[arg(long, env = "CAMEO_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the services by gRPC-Web, such as `https://app.example.com`. Separate
    /// several with commas. Without any, browsers let no page of another origin call.
    #[arg(long = "cors-origin", env = "CAMEO_CORS_ORIGIN", value_name = "ORIGINS")]
    #[arg(value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
}

/// `*` would let every web page of the world call.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let problem = || "an origin is a scheme and a host, such as https://app.example.com".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| problem())?;
    let is_origin = uri.scheme().is_some() && uri.authority().is_some() && !text.ends_with('/');
    if is_origin { text.parse().map_err(|_| problem()) } else { Err(problem()) }
}
