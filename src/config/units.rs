//! The values of settings as people write them: `1GiB`, `10s`.

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

/// Parses a size that is at least 1 byte.
///
/// # Errors
/// What is wrong with the text.
pub fn positive_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes == 0 { Err("0 would refuse everything".to_owned()) } else { Ok(bytes) }
}

/// Parses an address.
///
/// # Errors
/// What is wrong with the text.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is an IP address and a port, such as 127.0.0.1:50051".to_owned())
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
