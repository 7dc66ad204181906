//! One call while it is served: what a log line says of it.

use std::time::Instant;

use crate::model::Workspace;
use crate::refusal::Refusal;

/// A call, from when its request was parsed.
#[derive(Debug, Clone)]
pub struct Call {
    method: &'static str,
    workspace: Option<Workspace>,
    start: Instant,
}

impl Call {
    /// A call of `method`, such as `ProfileService/GetProfile`, in a workspace if it names one.
    #[must_use]
    pub fn begin<'a>(method: &'static str, workspace: impl Into<Option<&'a Workspace>>) -> Self {
        Self { method, workspace: workspace.into().cloned(), start: Instant::now() }
    }

    /// What the caller is told of an error. A failure of ours is logged: here, and nowhere else.
    pub fn refuse(&self, error: impl Into<Refusal>) -> Refusal {
        let refusal = error.into();
        if refusal.is_our_failure() {
            tracing::error!(
                method = self.method,
                workspace = self.workspace.as_ref().map(Workspace::as_str),
                reason = refusal.reason_name(),
                duration_ms = self.start.elapsed().as_secs_f64() * 1e3,
                error = refusal.cause.as_deref().map(|cause| cause as &dyn std::error::Error),
                "a call failed"
            );
        }
        refusal
    }
}
