//! Who may call: static tokens, client certificates, and the tokens of an identity provider.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use http::Uri;

use super::units;

/// The most that clocks may differ. A longer leeway would keep tokens alive that have expired.
const MOST_LEEWAY: Duration = Duration::from_secs(600);
/// The shortest time between two regular fetches of the keys.
const LEAST_REFRESH: Duration = Duration::from_secs(10);
/// The longest. For so long, a key that the provider has withdrawn may stay in force.
const MOST_REFRESH: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Who may call.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication")]
pub struct AuthConfig {
    /// File with the callers that have a static token or a client certificate. `cameo token create` writes it. A change
    /// of the file is in force within seconds.
    #[arg(long, env = "CAMEO_CALLERS", value_name = "FILE")]
    pub callers: Option<PathBuf>,
    /// The keys that verify JWTs, as a JWK set: a file, or an https URL. An http URL must be one of this machine.
    /// `--jwt-issuer` and `--jwt-audience` must be set too.
    #[arg(long, env = "CAMEO_JWKS", value_name = "SOURCE", value_parser = jwks)]
    pub jwks: Option<Jwks>,
    /// The issuer of JWTs: their claim `iss`.
    #[arg(long, env = "CAMEO_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The audience of JWTs, which their claim `aud` must contain.
    #[arg(long, env = "CAMEO_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// How far the clock of the issuer may be off, for `exp`, `nbf` and `iat`. At most 10m.
    #[arg(long, env = "CAMEO_JWT_LEEWAY", value_parser = leeway, default_value = "60s")]
    pub jwt_leeway: Duration,
    /// The claim of JWTs that says what the caller may do: an object with `roles`, `workspaces`, `fields` and
    /// `attribute_keys`.
    #[arg(long, env = "CAMEO_JWT_CLAIM", value_name = "CLAIM", default_value = "cameo")]
    pub jwt_claim: String,
    /// How often the keys are fetched from a URL. They are also fetched when a JWT names a key that is not known.
    /// From 10s to 7d.
    #[arg(long, env = "CAMEO_JWKS_REFRESH", value_parser = refresh, default_value = "1h")]
    pub jwks_refresh: Duration,
    /// Serve `/metrics` without a credential, although calls need one.
    #[arg(long, env = "CAMEO_METRICS_OPEN")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub metrics_open: bool,
    /// Serve gRPC reflection, which describes the API to everyone who can connect. `--reflection=false` turns it off.
    #[arg(long, env = "CAMEO_REFLECTION")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    pub reflection: bool,
}

/// Where the keys are that verify JWTs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// Behind a URL, which is fetched from time to time.
    Url(Uri),
}

/// An attacker who changes the keys on their way can sign as any caller. So they are only fetched over TLS.
fn jwks(text: &str) -> Result<Jwks, String> {
    if text.is_empty() {
        return Err("it must be a file or a URL".to_owned());
    }
    if !text.contains("://") {
        return Ok(Jwks::File(text.into()));
    }
    let problem = || "a URL is such as https://idp.example.com/jwks.json".to_owned();
    let url: Uri = text.parse().map_err(|_| problem())?;
    let authority = url.authority().ok_or_else(problem)?;
    if authority.as_str().contains('@') {
        return Err("a URL with a password shows in the list of processes: serve the keys without one".to_owned());
    }
    match url.scheme_str() {
        Some("https") => Ok(Jwks::Url(url)),
        Some("http") if is_loopback(authority.host()) => Ok(Jwks::Url(url)),
        Some("http") => Err("the keys must come over https, or from this machine".to_owned()),
        _ => Err(problem()),
    }
}

/// Other names are not looked up: what they mean may change after the check.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = units::duration(text)?;
    if leeway <= MOST_LEEWAY { Ok(leeway) } else { Err("it must be 10m or less".to_owned()) }
}

fn refresh(text: &str) -> Result<Duration, String> {
    let refresh = units::duration(text)?;
    let is_within = (LEAST_REFRESH..=MOST_REFRESH).contains(&refresh);
    if is_within { Ok(refresh) } else { Err("it must be 10s to 7d".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_a_file_over_https_or_from_this_machine() {
        for file in ["jwks.json", "/etc/cameo/jwks.json", "keys/https"] {
            assert_eq!(jwks(file), Ok(Jwks::File(file.into())));
        }
        for url in [
            "https://idp.example.com/jwks",
            "http://localhost:8080/jwks",
            "http://127.0.0.1/jwks",
            "http://[::1]:80/jwks",
        ] {
            assert_eq!(jwks(url), Ok(Jwks::Url(url.parse().unwrap())), "{url}");
        }
        for bad in [
            "",
            "http://idp.example.com/jwks",
            "http://localhost.example.com/jwks",
            "http://127.0.0.1.example.com/jwks",
            "http://127.0.0.1@idp.example.com/jwks",
            "https://ada:secret@idp.example.com/jwks",
            "ftp://localhost/jwks",
            "file:///etc/cameo/jwks.json",
            "https://",
        ] {
            assert!(jwks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn leeway_and_refresh_have_bounds() {
        assert_eq!(leeway("0s"), Ok(Duration::ZERO));
        assert_eq!(leeway("10m"), Ok(MOST_LEEWAY));
        assert!(leeway("601s").is_err());
        assert_eq!(refresh("10s"), Ok(LEAST_REFRESH));
        assert_eq!(refresh("7d"), Ok(MOST_REFRESH));
        for bad in ["9s", "604801s", "1000000years"] {
            assert!(refresh(bad).is_err(), "{bad}");
        }
    }
}
