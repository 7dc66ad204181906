//! What fails in the background: it is logged, but no more than once a minute.

use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;

/// The least time between two warnings.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// Failures of one kind since the last warning.
#[derive(Debug)]
pub(super) struct Failures {
    /// What could not be done.
    what: &'static str,
    count: u64,
    warned: Option<Instant>,
}

impl Failures {
    pub fn of(what: &'static str) -> Self {
        Self { what, count: 0, warned: None }
    }

    pub fn add(&mut self, error: &StoreError) {
        self.add_many(1, error);
    }

    pub fn add_many(&mut self, failed: u64, error: &StoreError) {
        self.count += failed;
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_PERIOD) {
            let (what, failed, error) = (self.what, self.count, error as &dyn std::error::Error);
            tracing::warn!(failed, error, "{what}; logged once a minute while this lasts");
            (self.count, self.warned) = (0, Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_a_minute() {
        let mut failures = Failures::of("nothing could be done");
        failures.add(&StoreError::Overloaded);
        assert_eq!(failures.count, 0, "the first is logged");
        failures.add(&StoreError::Overloaded);
        tokio::time::advance(Duration::from_millis(59_999)).await;
        failures.add(&StoreError::Overloaded);
        assert_eq!(failures.count, 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        failures.add(&StoreError::Overloaded);
        assert_eq!(failures.count, 0);
    }
}
