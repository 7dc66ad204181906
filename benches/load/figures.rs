//! Latencies and medians, and how figures are written.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The significant digits of a latency: two are exact to 1 %.
const DIGITS: u8 = 2;

/// Latencies in microseconds.
pub type Latency = Histogram<u64>;

/// No latencies yet.
pub fn latency() -> Latency {
    Histogram::new(DIGITS).expect("a histogram allows up to five digits")
}

/// The middle value, or the mean of the two middle values. It is 0 if there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (odd, middle) if odd % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[allow(clippy::cast_precision_loss)] // What a program counts in minutes stays far below 2^53.
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A rounded number with thousands separators.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A number of microseconds, in the unit that fits.
pub fn micros(value: f64) -> String {
    match value {
        ..1_000.0 => format!("{value:.0} µs"),
        ..100_000.0 => format!("{:.2} ms", value / 1_000.0),
        _ => format!("{} ms", count(value / 1_000.0)),
    }
}

pub fn micros_of(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The median of a quantile over the rounds, as text.
pub fn quantile<'a>(rounds: impl IntoIterator<Item = &'a Latency>, quantile: f64) -> String {
    micros(median(rounds.into_iter().map(|latency| float(latency.value_at_quantile(quantile)))))
}
