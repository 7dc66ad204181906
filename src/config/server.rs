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
    /// Listen on an address that other machines can reach, although encryption or authentication is missing.
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
    /// existing workspace, or one that their caller may not use, share one rate of the same size. 0 sets no limit.
    #[arg(long, env = "CAMEO_HTTP_RATE", default_value = "0")]
    pub http_rate: u32,
    /// Connections that may be open at a time. When one more comes, the one that has been without a call for longest
    /// is closed. At most as many as the limit of open files allows.
    #[arg(long, env = "CAMEO_MAX_CONNECTIONS", value_parser = units::count, default_value = "10000")]
    pub max_connections: usize,
    /// Calls and streams that may be in flight on one connection. HTTP/2 has no error for one more: the client's call
    /// waits until another ends. Use several channels for many streams.
    #[arg(long, env = "CAMEO_MAX_CALLS_PER_CONNECTION", default_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_calls_per_connection: u32,
    /// Calls and streams that may be in flight on all connections. A further one is refused as `OVERLOADED`. Calls that
    /// wait for the keys of their tokens are counted apart: there may be a quarter as many, and no more than a quarter of
    /// the connections. So are health watches, reflection, and health checks beyond 256.
    #[arg(long, env = "CAMEO_MAX_CALLS", value_parser = units::count, default_value = "50000")]
    pub max_calls: usize,
    /// Memory for requests that are being received. One connection may take an eighth of it, and messages over 64 KiB
    /// three quarters. A request for which there is no room is refused as `OVERLOADED`.
    #[arg(long, env = "CAMEO_RECEIVE_BYTES", value_parser = units::shared_budget, default_value = "64MiB")]
    pub receive_bytes: usize,
    /// Memory for responses that wait to be read. One connection may take an eighth of it, pages half of it, and
    /// batches and pages together three quarters. Further calls wait, for as long as `--send-timeout`.
    #[arg(long, env = "CAMEO_SEND_BYTES", value_parser = units::shared_budget, default_value = "256MiB")]
    pub send_bytes: usize,
    /// How long a client may take to show which protocol it speaks, and to send the head of an HTTP/1.1 request. An
    /// HTTP/1.1 connection is also closed when it has been idle for this long.
    #[arg(long, env = "CAMEO_HANDSHAKE_TIMEOUT", value_parser = units::positive_duration, default_value = "10s")]
    pub handshake_timeout: Duration,
    /// Time after which a connection without a call is closed. 0 sets no limit.
    #[arg(long, env = "CAMEO_IDLE_TIMEOUT", value_parser = units::duration, default_value = "10m")]
    pub idle_timeout: Duration,
    /// Time that a message may take to arrive.
    #[arg(long, env = "CAMEO_RECEIVE_TIMEOUT", value_parser = units::positive_duration, default_value = "30s")]
    pub receive_timeout: Duration,
    /// Time that a response may wait for its reader without progress. A stream has `--stall-timeout` in addition.
    #[arg(long, env = "CAMEO_SEND_TIMEOUT", value_parser = units::positive_duration, default_value = "30s")]
    pub send_timeout: Duration,
    /// Host names, without ports, that requests may name in addition to loopback names. A server on another address
    /// serves all hosts unless some are given here. Separate several with commas.
    #[arg(long, env = "CAMEO_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',', value_parser = host)]
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the services by gRPC-Web, such as `https://app.example.com`. Separate
    /// several with commas. Without any, browsers let no page of another origin call.
    #[arg(long = "cors-origin", env = "CAMEO_CORS_ORIGIN", value_name = "ORIGINS")]
    #[arg(value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
}

/// A name that a request may have as its host. What can never match is refused, or it would look like a setting.
fn host(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_host = name.parse().is_ok_and(|authority: http::uri::Authority| authority.host() == name);
    if is_host {
        Ok(name.to_owned())
    } else {
        Err("a host is a name without a port, such as app.example.com".to_owned())
    }
}

/// `*` would let every web page of the world call.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let problem = || "an origin is a scheme and a host, such as https://app.example.com".to_owned();
    let text = text.trim();
    let uri: http::Uri = text.parse().map_err(|_| problem())?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(problem()) };
    if text == format!("{scheme}://{authority}") { text.parse().map_err(|_| problem()) } else { Err(problem()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_port() {
        for (text, name) in [("a.example", "a.example"), (" b ", "b"), ("[2001:db8::1]", "[2001:db8::1]")] {
            assert_eq!(host(text).as_deref(), Ok(name));
        }
        for text in ["", "a.example:443", "https://a.example", "a.example/x", "a b", "user@a.example"] {
            assert!(host(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for text in ["https://a.example", "http://localhost:3000", " https://b.example "] {
            assert_eq!(origin(text).unwrap(), text.trim());
        }
        for text in ["*", "", "a.example", "https://a.example/", "https://a.example/x", "https://a.example?x", "null"] {
            assert!(origin(text).is_err(), "{text:?}");
        }
    }
}
