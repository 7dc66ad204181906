//! The values of settings as people write them: `1GiB`, `10s`, `localhost:50051`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

/// Parses a size, such as `64MiB` or `65536`. A number alone is bytes.
///
/// # Errors
/// What is wrong with the text.
pub fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let problem = || "a size is a number and a unit, such as 64MiB or 1GB; a number alone is bytes".to_owned();
    let size: ByteSize = text.parse().map_err(|_| problem())?;
    let bytes = Some(size.as_u64()).filter(|bytes| *bytes < u64::MAX); // What is larger comes out as the maximum.
    let size = bytes.and_then(|bytes| T::try_from(bytes).ok());
    size.ok_or_else(|| "it is larger than this machine can address".to_owned())
}

/// Writes a size as people do.
#[must_use]
pub fn shown(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Parses a size that is at least 1 byte.
///
/// # Errors
/// What is wrong with the text.
pub fn positive_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes == 0 { Err("0 would refuse everything".to_owned()) } else { Ok(bytes) }
}

/// Parses the size of a budget that connections share: at least 1 MiB, or each would have next to nothing.
///
/// # Errors
/// What is wrong with the text.
pub fn shared_budget(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes < 1 << 20 { Err("it must be 1MiB or more".to_owned()) } else { Ok(bytes) }
}

/// A host and a port, such as `localhost:50051`. The host is a name or an IP address. The server looks a name up when
/// it binds the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or(&*self.0, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The host and the port, as [`std::net::ToSocketAddrs`] reads them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Parses an address.
///
/// # Errors
/// What is wrong with the text.
pub fn address(text: &str) -> Result<Address, String> {
    if text.parse::<SocketAddr>().is_ok() || is_name_and_port(text) {
        return Ok(Address(text.to_owned()));
    }
    Err("an address is a host and a port, such as localhost:50051, 127.0.0.1:50051 or [::1]:50051".to_owned())
}

fn is_name_and_port(text: &str) -> bool {
    let Some((name, port)) = text.rsplit_once(':') else { return false };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !name.is_empty() && name.bytes().all(in_name) && is_port
}

/// Parses a whole number that is at least 1.
///
/// # Errors
/// What is wrong with the text.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it must be a whole number of at least 1".to_owned())
}

/// Parses a duration, such as `10s`, `500ms` or `1h 30m`. A number alone is seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let problem = "a duration is a number and a unit, such as 10s or 5m; a number alone is seconds";
    humantime::parse_duration(text).map_err(|_| problem.to_owned())
}

/// Parses a duration that is not 0.
///
/// # Errors
/// What is wrong with the text.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("it must be longer than 0".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_or_has_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("1KiB", 1_024),
            ("64 MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("1.5KiB", 1_536),
        ] {
            assert_eq!(size::<u64>(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "NaN", "1 banana", "MiB", "0x10", "99999999999GiB"] {
            assert!(size::<u64>(text).is_err(), "{text}");
        }
        assert!(size::<u8>("256").is_err());
        assert!(positive_size("0").is_err());
        assert_eq!(positive_size("1"), Ok(1));
        assert!(shared_budget("1048575").is_err());
        assert_eq!(shared_budget("1MiB"), Ok(1 << 20));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host) in [
            ("localhost:50051", "localhost"),
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:65535", "::1"),
            ("my-host_1.example.org:1", "my-host_1.example.org"),
        ] {
            let parsed = address(text).unwrap();
            assert_eq!((parsed.host(), parsed.as_str()), (host, text));
        }
        for text in [
            "",
            "localhost",
            ":50051",
            "localhost:",
            "localhost:65536",
            "localhost:+1",
            "localhost:http",
            "::1:50051",
            "[::1]",
            "http://localhost:50051",
            "local host:50051",
            "localhost:50051/path",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_seconds_or_has_a_unit() {
        for (text, millis) in [("0", 0), ("10", 10_000), ("10s", 10_000), ("500ms", 500), ("1h 30m", 5_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1s", "10 parsecs", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0s").is_err());
        assert_eq!(positive_duration("1ms"), Ok(Duration::from_millis(1)));
    }
}
