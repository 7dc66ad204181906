//! Who may ask the listener of operators what. Health is open: those who ask for it have no credential, and learn next to
//! nothing. The metrics name workspaces, and say how much each of them does.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;

use super::edge::{Hosts, credentials};
use super::tls::ClientCertificate;
use crate::auth::{Access, Authenticator, Caller, Role};
use crate::proto::v1::ErrorReason;
use crate::refusal::Refusal;
use crate::telemetry::audit;
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
        let caller = match self.identify(request).await {
            Ok(caller) => caller,
            Err(refusal) => {
                self.tell(&refusal, request, None);
                return Err(refusal);
            }
        };
        // The metrics tell of all workspaces, so who reads them must be an operator of all.
        let checked = Access::Server(Role::Operator).check(&caller).map_err(Refusal::from);
        checked.inspect_err(|refusal| self.tell(refusal, request, Some(&caller)))
    }

    async fn identify<B>(&self, request: &Request<B>) -> Result<Arc<Caller>, Refusal> {
        let token = credentials::token(request.headers(), request.uri())?;
        let certificate = request.extensions().get::<Arc<ClientCertificate>>();
        Ok(self.auth.authenticate(token, certificate.map(|certificate| &*certificate.names)).await?)
    }

    /// Tells the log and the audit log who was refused.
    fn tell<B>(&self, refusal: &Refusal, request: &Request<B>, caller: Option<&Caller>) {
        let code = match refusal.reason {
            ErrorReason::Unauthenticated => "401",
            ErrorReason::PermissionDenied => "403",
            _ => return,
        };
        let Some(unlogged) = self.refused.next() else { return };
        let (peer, problem) = (request.extensions().get::<SocketAddr>(), &*refusal.message);
        tracing::info!(problem, unlogged, "a request for metrics was refused");
        tracing::info!(
            target: audit::TARGET,
            caller = caller.and_then(Caller::name),
            credential = caller.and_then(Caller::credential),
            peer = peer.map(tracing::field::display),
            method = METRICS,
            code,
            reason = refusal.reason_name(),
            problem,
            unlogged = Some(unlogged).filter(|unlogged| *unlogged > 0),
        );
    }
}
