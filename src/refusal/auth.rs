//! Why a caller is not let in, or may not make a call.

use super::{RESTART_RETRY, Refusal};
use crate::auth::{Denied, Unauthenticated};
use crate::proto::v1::ErrorReason;

impl Refusal {
    /// The call has no credential that is accepted.
    #[must_use]
    pub fn unauthenticated(problem: &'static str) -> Self {
        Self::new(ErrorReason::Unauthenticated, problem)
    }
}

impl From<Unauthenticated> for Refusal {
    fn from(problem: Unauthenticated) -> Self {
        let message = problem.to_string(); // It has no part of the credential.
        match problem {
            Unauthenticated::Unavailable | Unauthenticated::Crowded => {
                Self::new(ErrorReason::AuthenticationUnavailable, message).retry_after(RESTART_RETRY)
            }
            _ => Self::new(ErrorReason::Unauthenticated, message),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let refusal = Self::new(ErrorReason::PermissionDenied, denied.to_string());
        match denied {
            Denied::Role(role) => refusal.with("role", role.name()),
            Denied::Workspace | Denied::Server | Denied::Unlisted => refusal,
        }
    }
}
