//! One call while it is served: what its line in the access log says.
//!
//! The line is written when the last holder of the call is gone: the response has been sent, and no read that it
//! started is still running. It never holds an identity value or an attribute value.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::Extensions;

use crate::auth::{Access, Caller, Denied, Role, authorize};
use crate::model::{Grant, Workspace};
use crate::proto::v1::ErrorReason;
use crate::refusal::{Refusal, reason_name};
use crate::store::{ReadClass, Store};
use crate::telemetry::metrics::{Calls, Method, OpenCall};

/// How often a state that lasts is logged: a full disk, a full queue.
const LASTING: Duration = Duration::from_secs(60);

/// A call, from when its head arrived.
#[derive(Debug)]
pub struct Call {
    method: Method,
    is_write: bool,
    /// Where the call comes from.
    peer: SocketAddr,
    /// Who makes it. Unset until the edge knows.
    caller: OnceLock<Arc<Caller>>,
    start: Instant,
    sent: AtomicU64,
    noted: Mutex<Noted>,
}

/// What becomes known of a call while it is served.
#[derive(Debug, Default)]
struct Noted {
    workspace: Option<Workspace>,
    /// The reason of the first refusal; of a failure of the server if there is one. A batch can meet thousands.
    reason: Option<ErrorReason>,
    cause: Option<Box<dyn Error + Send + Sync>>,
    /// Counts the call. `None` once it has ended.
    open: Option<OpenCall>,
    code: Option<&'static str>,
}

impl Call {
    /// A call of `method`, which `calls` counts.
    #[must_use]
    pub fn begin(calls: &Calls, method: Method, is_write: bool, peer: SocketAddr) -> Arc<Self> {
        let start = Instant::now();
        let noted = Mutex::new(Noted { open: Some(calls.begin(method, start)), ..Noted::default() });
        Arc::new(Self { method, is_write, peer, caller: OnceLock::new(), start, sent: AtomicU64::new(0), noted })
    }

    /// The call that a request belongs to.
    ///
    /// # Panics
    /// If the request did not come through the edge of the server, which adds it.
    #[must_use]
    pub fn of(request: &Extensions) -> Arc<Self> {
        Arc::clone(request.get::<Arc<Self>>().expect("the edge of the server adds it to every request"))
    }

    /// Where it comes from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Notes who makes the call, once, and checks that the caller may make it in any workspace.
    ///
    /// # Errors
    /// The refusal of a caller that lacks the role.
    pub fn made_by(&self, caller: Arc<Caller>) -> Result<(), Refusal> {
        let access = Access::of(self.method.name());
        let checked = access.map_or(Ok(()), |access| access.check(&caller)); // A method that does not exist says so itself.
        let _ = self.caller.set(caller); // It is called once.
        checked.map_err(Refusal::from)
    }

    /// Who makes it. `None` before the edge knows.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.get()
    }

    /// What the caller may see of profiles. `None` for everything.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.caller()?.grant()
    }

    /// The name of the caller, for the events that it makes. `None` on a server without authentication.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.caller()?.name()
    }

    /// Notes the workspace of the call, and checks that the caller may make the call in it. Every call that names a
    /// workspace comes through here before it reads or writes.
    ///
    /// # Errors
    /// The refusal of a caller that may not. It is the same whether the workspace exists or not.
    pub fn within(&self, workspace: &Workspace) -> Result<(), Refusal> {
        self.noted().workspace = Some(workspace.clone());
        let caller = self.caller().ok_or(Denied::Unlisted)?;
        Ok(authorize(caller, Access::of(self.method.name()), workspace)?)
    }

    /// Checks that the caller has a role besides the one that the call needs.
    ///
    /// # Errors
    /// The refusal of a caller that lacks it.
    pub fn needs(&self, role: Role) -> Result<(), Refusal> {
        match self.caller() {
            Some(caller) if caller.has(role) => Ok(()),
            _ => Err(Denied::Role(role).into()),
        }
    }

    /// What the caller is told of an error.
    pub fn refuse(&self, error: impl Into<Refusal>) -> Refusal {
        let mut refusal = error.into();
        let mut noted = self.noted();
        if noted.reason.is_none() || refusal.is_our_failure() && noted.cause.is_none() {
            noted.reason = Some(refusal.reason);
            noted.cause = refusal.cause.take();
        }
        drop(noted);
        refusal
    }

    /// Notes the reason of a refusal that was made elsewhere.
    pub fn refused(&self, reason: ErrorReason) {
        self.noted().reason.get_or_insert(reason);
    }

    /// Counts the call with the code that its caller is about to get. It counts as cancelled if there is none.
    pub fn end(&self, code: &'static str) {
        let mut noted = self.noted();
        let reason = noted.reason.filter(|_| !matches!(code, "OK" | "200")).map_or("", reason_name);
        noted.code = Some(code);
        if let Some(open) = noted.open.take() {
            open.end(code, reason);
        }
    }

    /// Counts bytes of the response.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Runs a read of this class on the store's read pool, in the turn of the call's workspace.
    ///
    /// # Errors
    /// The refusal of what `read` returns, or of a panic.
    pub async fn read<T, E>(
        self: &Arc<Self>,
        store: &Arc<Store>,
        class: ReadClass,
        read: impl FnOnce(&Store, &Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        E: Into<Refusal>,
    {
        let call = Arc::clone(self);
        let workspace = self.noted().workspace.clone();
        let read = move |store: &Store| read(store, &call).map_err(|error| call.refuse(error));
        let result = store.on_read_pool(class, workspace.as_ref(), read).await;
        result.map_err(|refusal| self.refuse(refusal))
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the operator should see it: a failure of the server, or a write that was refused.
    fn log(&self, noted: &Noted) {
        let workspace = noted.workspace.as_ref().map(Workspace::as_str);
        let reason = noted.reason.map(reason_name);
        #[allow(clippy::cast_precision_loss)] // It is a duration for people.
        let duration_ms = || self.start.elapsed().as_micros() as f64 / 1e3;
        let peer = tracing::field::display(self.peer);
        let (method, code, bytes) = (self.method.name(), noted.code, self.sent.load(Ordering::Relaxed));
        match noted.reason {
            Some(ErrorReason::Internal | ErrorReason::RecordCorrupt | ErrorReason::StorageFailed) => {
                let error = noted.cause.as_deref().map(|cause| cause as &dyn Error);
                tracing::error!(
                    method,
                    workspace,
                    peer,
                    code,
                    reason,
                    duration_ms = duration_ms(),
                    bytes,
                    error,
                    "a call failed"
                );
            }
            Some(ErrorReason::Overloaded) => lasting(&OVERLOADED, reason, method, workspace),
            Some(ErrorReason::StorageFull) => lasting(&STORAGE_FULL, reason, method, workspace),
            Some(_) if self.is_write => {
                tracing::info!(
                    method,
                    workspace,
                    peer,
                    code,
                    reason,
                    duration_ms = duration_ms(),
                    bytes,
                    "a write was refused"
                );
            }
            _ => tracing::debug!(
                method,
                workspace,
                peer,
                code,
                reason,
                duration_ms = duration_ms(),
                bytes,
                "a call ended"
            ),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let noted = std::mem::take(self.noted.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.log(&noted);
    }
}

/// A state in which many calls are refused. It is logged once a minute while it lasts.
#[derive(Debug)]
struct Lasting(Mutex<Option<Since>>);

#[derive(Debug)]
struct Since {
    logged: Instant,
    refused: u64,
}

static OVERLOADED: Lasting = Lasting(Mutex::new(None));
static STORAGE_FULL: Lasting = Lasting(Mutex::new(None));

impl Lasting {
    /// Counts a refusal. Returns how many there were since the last line, if it is time for a line.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = since.as_ref().map_or(1, |since| since.refused + 1);
        let due = since.as_ref().is_none_or(|since| now.duration_since(since.logged) >= LASTING);
        let logged = if due { now } else { since.as_ref().map_or(now, |since| since.logged) };
        *since = Some(Since { logged, refused: if due { 0 } else { refused } });
        due.then_some(refused)
    }
}

fn lasting(state: &Lasting, reason: Option<&str>, method: &str, workspace: Option<&str>) {
    if let Some(refused) = state.count(Instant::now()) {
        tracing::warn!(reason, refused, "calls are refused; logged once a minute while this lasts");
    }
    tracing::debug!(method, workspace, reason, "a call was refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_lasts_is_logged_once_a_minute() {
        let (state, start) = (Lasting(Mutex::new(None)), Instant::now());
        assert_eq!(state.count(start), Some(1));
        assert_eq!(state.count(start + Duration::from_secs(1)), None);
        assert_eq!(state.count(start + Duration::from_secs(59)), None);
        assert_eq!(state.count(start + Duration::from_secs(60)), Some(3));
        assert_eq!(state.count(start + Duration::from_secs(61)), None);
    }
}
