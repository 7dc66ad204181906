//! Who may ask the listener of operators what. Health is open: those who ask for it have no credential, and learn next to
//! nothing. The metrics name workspaces, and say how much each of them does.

use std::sync::Arc;

use http::Request;

use super::edge::{Hosts, credentials};
use super::tls::ClientCertificate;
use crate::auth::{Access, Authenticator, Role};
use crate::proto::v1::ErrorReason;
use crate::refusal::Refusal;
use crate::telemetry::lines::Lines;

/// What needs a credential.
const METRICS: &str = "/metrics";

/// Checks requests before the listener answers them.
pub(super) struct Guard {
    hosts: Hosts,
    auth: Arc<Authenticator>,
    /// Whether the metrics need no credential.
    is_open: bool,
    refused: Lines,
}

impl Guard {
    pub fn new(hosts: Hosts, auth: Arc<Authenticator>, is_open: bool) -> Self {
        Self { hosts, auth, is_open, refused: Lines::default() }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        self.hosts.check(request)?;
        if self.is_open || request.uri().path() != METRICS {
            return Ok(());
        }
        self.identify(request).await.inspect_err(|refusal| self.log(refusal))
    }

    /// The metrics tell of all workspaces, so who reads them must be an operator of all.
    async fn identify<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let token = credentials::token(request.headers(), request.uri())?;
        let certificate = request.extensions().get::<Arc<ClientCertificate>>();
        let caller = self.auth.authenticate(token, certificate.map(|certificate| &*certificate.names)).await?;
        Ok(Access::Server(Role::Operator).check(&caller)?)
    }

    fn log(&self, refusal: &Refusal) {
        if refusal.reason == ErrorReason::Unauthenticated
            && let Some(unlogged) = self.refused.next()
        {
            tracing::info!(problem = &*refusal.message, unlogged, "a login for metrics was refused");
        }
    }
}
