//! Files and keys that are read again while the server runs.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::tally::{LabelValue, Labels, label};

label! {
    /// What is read again.
    "what" Reloaded {
        /// The file of `--callers`.
        Callers = "callers",
        /// The file or the URL of `--jwks`.
        Jwks = "jwks",
        /// The files of `--tls-cert`, `--tls-key` and `--tls-client-ca`.
        Tls = "tls",
    }
}

/// Whether what is in force is what the sources say. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReloadMetrics(Family<Labels<1>, Gauge>);

impl Default for ReloadMetrics {
    fn default() -> Self {
        let metrics = Self(Family::default());
        for what in Reloaded::ALL {
            metrics.note(*what, true);
        }
        metrics
    }
}

impl ReloadMetrics {
    /// It was read again, and is in force if that `succeeded`.
    pub fn note(&self, what: Reloaded, succeeded: bool) {
        self.0.get_or_create(&[(Reloaded::LABEL, what.value())]).set(i64::from(!succeeded));
    }

    /// Whether the last reload failed.
    #[cfg(test)]
    #[must_use]
    pub fn failed(&self, what: Reloaded) -> bool {
        self.0.get_or_create(&[(Reloaded::LABEL, what.value())]).get() == 1
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "1 if the last reload failed, and something older is in force, or nothing yet";
        registry.register("cameo_reload_failed", help, self.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, Reading};
    use super::*;

    #[test]
    fn a_failure_shows_until_a_reload_succeeds() {
        let metrics = Metrics::default();
        let shows = |line: &str| metrics.expose(Format::Prometheus, Reading::default()).lines().any(|is| is == line);
        for what in ["callers", "jwks", "tls"] {
            assert!(shows(&format!("cameo_reload_failed{{what=\"{what}\"}} 0")), "{what}");
        }
        metrics.reloads.note(Reloaded::Jwks, false);
        assert!(shows("cameo_reload_failed{what=\"jwks\"} 1") && shows("cameo_reload_failed{what=\"tls\"} 0"));
        metrics.reloads.note(Reloaded::Jwks, true);
        assert!(shows("cameo_reload_failed{what=\"jwks\"} 0"));
    }
}
