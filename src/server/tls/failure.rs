//! Why a handshake failed: counted for the operator, and told in the log.

use std::io;
use std::net::SocketAddr;

use rustls::{CertificateError, Error, InvalidMessage};

use crate::telemetry::lines::Lines;
use crate::telemetry::metrics::{HandshakeFailure, LabelValue, TlsMetrics};

/// Why a handshake failed.
#[derive(Debug)]
pub(in crate::server) struct Failed {
    pub reason: HandshakeFailure,
    /// What rustls or the system says. It names no one: certificates and names are not part of it.
    cause: Option<io::Error>,
}

impl From<HandshakeFailure> for Failed {
    fn from(reason: HandshakeFailure) -> Self {
        Self { reason, cause: None }
    }
}

impl From<io::Error> for Failed {
    fn from(cause: io::Error) -> Self {
        let tls = cause.get_ref().and_then(|inner| inner.downcast_ref());
        let reason = tls.map_or(HandshakeFailure::Closed, reason_of);
        Self { reason, cause: Some(cause) }
    }
}

fn reason_of(error: &Error) -> HandshakeFailure {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            HandshakeFailure::NotTls
        }
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => HandshakeFailure::Incompatible,
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(_) => HandshakeFailure::RefusedByClient,
        _ => HandshakeFailure::Protocol,
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeFailure {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => HandshakeFailure::ExpiredCertificate,
        _ => HandshakeFailure::UntrustedCertificate,
    }
}

/// Counts and logs them.
#[derive(Debug)]
pub(super) struct Failures {
    metrics: TlsMetrics,
    lines: Lines,
}

impl Failures {
    pub fn new(metrics: TlsMetrics) -> Self {
        Self { metrics, lines: Lines::default() }
    }

    pub fn note(&self, peer: SocketAddr, failed: &Failed) {
        self.metrics.failed.count(failed.reason);
        let Some(unlogged) = self.lines.next() else { return };
        let (reason, cause) = (failed.reason.value(), failed.cause.as_ref().map(tracing::field::display));
        if failed.reason == HandshakeFailure::Closed {
            // Load balancers open and close connections to see whether the port is open.
            tracing::debug!(%peer, reason, cause, unlogged, "a TLS handshake failed");
        } else {
            tracing::info!(%peer, reason, cause, unlogged, "a TLS handshake failed");
        }
    }
}
