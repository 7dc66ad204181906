//! Connections, and the memory that requests and responses take while they are on their way. The transport counts them.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::tally::{Tally, label};

label! {
    /// Why a connection was refused.
    "reason" RefusedConnection {
        /// As many connections are open as may be.
        TooMany = "too_many",
        /// The system could not accept it, for example because file descriptors ran out.
        AcceptFailed = "accept_failed",
    }
}

label! {
    /// Why a connection was closed.
    "reason" Closed {
        /// The client closed it.
        Client = "client",
        /// It did not say in time which protocol it speaks.
        Handshake = "handshake_timeout",
        /// It had no call for too long.
        Idle = "idle_timeout",
        /// It did not respond to a ping, or did not finish a head of HTTP/1.1.
        Silent = "silent",
        /// It read a response of HTTP/1.1 too slowly.
        Sending = "send_timeout",
        /// It had no call, and made room for a new connection.
        MadeRoom = "made_room",
        /// It held memory that others waited for, and made no progress.
        Reclaimed = "reclaimed",
        /// It broke the rules of HTTP.
        Protocol = "protocol_error",
        /// Its TLS handshake failed, for a reason of [`HandshakeFailure`].
        Tls = "tls_failed",
        /// It spoke TLS to a port without TLS.
        SpokeTls = "spoke_tls",
        /// The server shut down.
        Drained = "drained",
    }
}

label! {
    /// Why a TLS handshake failed.
    "reason" HandshakeFailure {
        /// It took too long.
        Timeout = "timeout",
        /// It had its time, and made room for another one.
        MadeRoom = "made_room",
        /// The client closed the connection.
        Closed = "closed",
        /// The client speaks something else than TLS.
        NotTls = "not_tls",
        /// There is no version, cipher or protocol that both sides speak.
        Incompatible = "incompatible",
        /// The client presented no certificate, and one is required.
        NoCertificate = "no_certificate",
        /// The client's certificate has expired, or is not valid yet.
        ExpiredCertificate = "expired_certificate",
        /// The client's certificate is from no CA that is trusted, or is bad in another way.
        UntrustedCertificate = "untrusted_certificate",
        /// The client ended the handshake with an alert. Mostly it does not trust the server's certificate.
        RefusedByClient = "refused_by_client",
        /// The client broke the rules of TLS.
        Protocol = "protocol_error",
    }
}

/// Counts TLS handshakes that failed, and shows the server's certificate. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TlsMetrics {
    /// Handshakes that failed, with the API and with the listener of operators.
    pub failed: Tally<HandshakeFailure>,
    expiry: Gauge,
}

impl TlsMetrics {
    /// A certificate is in force that expires at this time, in seconds since 1970.
    pub fn certificate(&self, expires: i64) {
        self.expiry.set(expires);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.failed.register(registry, "cameo_tls_handshakes_failed", "TLS handshakes that failed");
        let help = "When the server's certificate expires, in seconds since 1970; 0 without TLS";
        registry.register("cameo_tls_certificate_expiry_timestamp_seconds", help, self.expiry.clone());
    }
}

/// Counts connections to the API. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    open: Gauge,
    accepted: Counter,
    /// Connections that were refused.
    pub refused: Tally<RefusedConnection>,
    closed: Tally<Closed>,
}

/// An open connection. Dropped without [`OpenConnection::close`], it was closed by the client.
#[derive(Debug)]
#[must_use]
pub struct OpenConnection {
    connections: Connections,
    closed: Closed,
}

impl Connections {
    /// A connection was accepted.
    pub fn open(&self) -> OpenConnection {
        self.open.inc();
        self.accepted.inc();
        OpenConnection { connections: self.clone(), closed: Closed::Client }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("cameo_connections", "Open connections to the API", self.open.clone());
        registry.register("cameo_connections_accepted", "Connections that were accepted", self.accepted.clone());
        self.refused.register(registry, "cameo_connections_refused", "Connections that were refused");
        self.closed.register(registry, "cameo_connections_closed", "Connections that were closed");
    }
}

impl OpenConnection {
    /// The server closed it.
    pub fn close(&mut self, closed: Closed) {
        self.closed = closed;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.open.dec();
        self.connections.closed.count(self.closed);
    }
}

/// Memory that all connections share. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Budgets {
    /// Bytes of requests that are being received.
    pub requests: Budget,
    /// Bytes of responses that wait for their readers.
    pub responses: Budget,
}

/// How much of a budget is in use. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<(Gauge, Gauge)>);

impl Budget {
    /// Sets the limit.
    pub fn limit(&self, bytes: usize) {
        self.0.1.set(wide(bytes));
    }

    /// The bytes that are taken now.
    #[must_use]
    pub fn held(&self) -> usize {
        usize::try_from(self.0.0.get()).unwrap_or_default()
    }

    /// Bytes were taken.
    pub fn take(&self, bytes: usize) {
        self.0.0.inc_by(wide(bytes));
    }

    /// Bytes were given back.
    pub fn give_back(&self, bytes: usize) {
        self.0.0.dec_by(wide(bytes));
    }

    fn register(&self, registry: &mut Registry, name: &str, what: &str) {
        let (used, limit) = &*self.0;
        registry.register(format!("cameo_{name}_budget_bytes"), format!("Memory of {what}"), used.clone());
        let help = format!("Memory that {what} may take");
        registry.register(format!("cameo_{name}_budget_limit_bytes"), help, limit.clone());
    }
}

impl Budgets {
    pub(super) fn register(&self, registry: &mut Registry) {
        self.requests.register(registry, "request", "requests that are being received");
        self.responses.register(registry, "response", "responses that wait for their readers");
    }
}

fn wide(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, Reading};
    use super::*;

    #[track_caller]
    fn assert_exposed(metrics: &Metrics, line: &str) {
        let exposed = metrics.expose(Format::Prometheus, Reading::default());
        assert!(exposed.lines().any(|exposed| exposed == line), "no {line} in {exposed}");
    }

    #[test]
    fn a_connection_is_open_until_it_is_closed_for_a_reason() {
        let metrics = Metrics::default();
        let (mut idle, left) = (metrics.connections.open(), metrics.connections.open());
        metrics.connections.refused.count(RefusedConnection::TooMany);
        assert_exposed(&metrics, "cameo_connections 2");
        idle.close(Closed::Idle);
        drop((idle, left));
        assert_exposed(&metrics, "cameo_connections 0");
        assert_exposed(&metrics, "cameo_connections_accepted_total 2");
        assert_exposed(&metrics, "cameo_connections_refused_total{reason=\"too_many\"} 1");
        assert_exposed(&metrics, "cameo_connections_closed_total{reason=\"idle_timeout\"} 1");
        assert_exposed(&metrics, "cameo_connections_closed_total{reason=\"client\"} 1");
        assert_exposed(&metrics, "cameo_connections_closed_total{reason=\"drained\"} 0");
    }

    #[test]
    fn handshakes_that_failed_are_counted_by_their_reason() {
        let metrics = Metrics::default();
        metrics.tls.failed.count(HandshakeFailure::NotTls);
        assert_exposed(&metrics, "cameo_tls_handshakes_failed_total{reason=\"not_tls\"} 1");
        assert_exposed(&metrics, "cameo_tls_handshakes_failed_total{reason=\"timeout\"} 0");
        assert_exposed(&metrics, "cameo_tls_certificate_expiry_timestamp_seconds 0");
        metrics.tls.certificate(1_700_000_000);
        assert_exposed(&metrics, "cameo_tls_certificate_expiry_timestamp_seconds 1700000000");
    }

    #[test]
    fn a_budget_shows_what_is_taken_and_its_limit() {
        let metrics = Metrics::default();
        metrics.budgets.requests.limit(1_000);
        metrics.budgets.requests.take(300);
        metrics.budgets.requests.give_back(100);
        metrics.budgets.responses.take(7);
        assert_exposed(&metrics, "cameo_request_budget_bytes 200");
        assert_exposed(&metrics, "cameo_request_budget_limit_bytes 1000");
        assert_exposed(&metrics, "cameo_response_budget_bytes 7");
        assert_exposed(&metrics, "cameo_response_budget_limit_bytes 0");
    }
}
