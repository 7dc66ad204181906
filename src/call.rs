//! One call while it is served: what a log line says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::model::Workspace;
use crate::refusal::Refusal;
use crate::store::Store;

/// A call, from when its request was parsed.
#[derive(Debug)]
pub struct Call {
    method: &'static str,
    workspace: Option<Workspace>,
    start: Instant,
    /// Whether a failure of this call is in the log. A batch or an import can meet thousands.
    is_logged: AtomicBool,
}

impl Call {
    /// A call of `method`, such as `ProfileService/GetProfile`, in a workspace if it names one.
    #[must_use]
    pub fn begin<'a>(method: &'static str, workspace: impl Into<Option<&'a Workspace>>) -> Self {
        let workspace = workspace.into().cloned();
        Self { method, workspace, start: Instant::now(), is_logged: AtomicBool::new(false) }
    }

    /// What the caller is told of an error. If the failure is ours, and the first of this call, it is logged.
    pub fn refuse(&self, error: impl Into<Refusal>) -> Refusal {
        let refusal = error.into();
        if refusal.is_our_failure() && !self.is_logged.swap(true, Ordering::Relaxed) {
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

    /// Runs a read on the store's read pool. A failure is logged there, even if the caller no longer waits.
    ///
    /// # Errors
    /// The refusal of what `read` returns, or of a panic.
    pub async fn read<T, E>(
        self,
        store: &Arc<Store>,
        read: impl FnOnce(&Store, &Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        E: Into<Refusal>,
    {
        let call = Arc::new(self);
        let in_pool = Arc::clone(&call);
        let result =
            store.on_read_pool(move |store| read(store, &in_pool).map_err(|error| in_pool.refuse(error))).await;
        result.map_err(|refusal| call.refuse(refusal))
    }
}
