//! One call while it is served: what its line in the access log says.
//!
//! The line is written when the last holder of the call is gone: the response has been sent, and no read that it
//! started is still running. It never holds an identity value or an attribute value.

use std::borrow::Cow;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::Extensions;

use crate::auth::{Access, Caller, Denied, Role, authorize};
use crate::model::{Client, Grant, Place, Sequence, Workspace};
use crate::proto::v1::ErrorReason;
use crate::quota::{Quotas, WritePlace};
use crate::refusal::{Refusal, reason_name};
use crate::store::{ReadClass, Store};
use crate::telemetry::audit;
use crate::telemetry::code::CANCELLED;
use crate::telemetry::lines::Lines;
use crate::telemetry::metrics::{Calls, Method, OpenCall};
use crate::telemetry::traces::{CallEnd, CallSpan};

/// How often a state that lasts is logged: a full disk, a full queue.
const LASTING: Duration = Duration::from_secs(60);
/// Calls that write nothing, but that take data out of the server, or rewrite its file.
const EXPORTS: [&str; 3] = ["ProfileService/ExportSubject", "AdminService/Backup", "AdminService/Compact"];

/// The lines of calls that were refused before it was known who made them, or because their client calls too often.
static OF_MANY: LazyLock<Lines> = LazyLock::new(Lines::default);

fn tell_unlogged(unlogged: u64) {
    tracing::info!(unlogged, "more calls were refused than are logged");
    tracing::info!(target: audit::TARGET, unlogged);
}

/// A call, from when its head arrived.
#[derive(Debug)]
pub struct Call {
    method: Method,
    is_write: bool,
    /// Where the call comes from.
    peer: SocketAddr,
    /// Who makes it. Unset until the edge knows.
    made: OnceLock<Made>,
    start: Instant,
    sent: AtomicU64,
    /// `None` if the call is not recorded in a trace.
    span: Option<Arc<CallSpan>>,
    noted: Mutex<Noted>,
}

/// Who makes a call, and whose quotas it counts for.
#[derive(Debug)]
struct Made {
    caller: Arc<Caller>,
    client: Client,
    quotas: Arc<Quotas>,
}

/// What becomes known of a call while it is served.
#[derive(Debug, Default)]
struct Noted {
    workspace: Option<Workspace>,
    /// The reason of the first refusal; of a failure of the server if there is one. A batch can meet thousands.
    reason: Option<ErrorReason>,
    cause: Option<Box<dyn Error + Send + Sync>>,
    /// The place of a write among those of its client. `None` once it has ended. The commands that it has queued keep it
    /// too.
    write: Option<Arc<WritePlace>>,
    /// Counts the call. `None` once it has ended.
    open: Option<OpenCall>,
    code: Option<&'static str>,
    /// Why the caller could not be told.
    login: Option<Cow<'static, str>>,
    /// The sequence of the last event that the call made.
    sequence: Option<u64>,
}

impl Call {
    /// A call of `method`, which `calls` counts.
    #[must_use]
    pub fn begin(
        calls: &Calls,
        method: Method,
        is_write: bool,
        peer: SocketAddr,
        span: Option<Arc<CallSpan>>,
    ) -> Arc<Self> {
        let start = Instant::now();
        let noted = Mutex::new(Noted { open: Some(calls.begin(method, start)), ..Noted::default() });
        Arc::new(Self { method, is_write, peer, made: OnceLock::new(), start, sent: AtomicU64::new(0), span, noted })
    }

    /// Its span. `None` if it is not recorded in a trace.
    #[must_use]
    pub fn span(&self) -> Option<Arc<CallSpan>> {
        self.span.clone()
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

    /// Notes who makes the call, once, and checks that the caller may make one more call, and this one in any workspace.
    ///
    /// # Errors
    /// The refusal of a caller that lacks the role, or has used up its quota.
    pub fn made_by(&self, caller: Arc<Caller>, quotas: &Arc<Quotas>) -> Result<(), Refusal> {
        let client = caller.shared_name().map_or_else(|| self.peer.ip().into(), Client::Caller);
        let access = Access::of(self.method.name());
        let checked = access.map_or(Ok(()), |access| access.check(&caller)); // A method that does not exist says so itself.
        let admitted = quotas.call(&client).and_then(|()| {
            checked?;
            if self.is_write { quotas.write(&client) } else { Ok(None) }
        });
        let _ = self.made.set(Made { caller, client, quotas: Arc::clone(quotas) }); // It is called once.
        self.noted().write = admitted?.map(Arc::new);
        Ok(())
    }

    /// The place of a write among those of its client, if its client has so many and no more.
    #[must_use]
    pub fn write_place(&self) -> Option<Arc<WritePlace>> {
        if self.is_write { self.noted().write.clone() } else { None }
    }

    /// Who makes it. `None` before the edge knows.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.made.get().map(|made| &made.caller)
    }

    /// Whose quotas it counts for.
    #[must_use]
    pub fn client(&self) -> Client {
        self.made.get().map_or_else(|| self.peer.ip().into(), |made| made.client.clone())
    }

    /// Takes this many bytes of what the client may import now, if there are as many.
    #[must_use]
    pub fn may_import(&self, bytes: usize) -> bool {
        self.made.get().is_none_or(|Made { quotas, client, .. }| quotas.may_import(client, bytes))
    }

    /// Waits until the client may import this many bytes more.
    pub async fn import(&self, bytes: usize) {
        if let Some(Made { quotas, client, .. }) = self.made.get() {
            quotas.import(client, bytes).await;
        }
    }

    /// Counts a message of the call in the quota of its client. A large one counts as further calls.
    pub fn counts(&self, bytes: usize) {
        if let Some(Made { quotas, client, .. }) = self.made.get() {
            quotas.message(client, bytes);
        }
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

    /// Checks that the credential is still valid, in a call that lasts.
    ///
    /// # Errors
    /// The refusal of a caller whose credential has expired or was revoked since the call began.
    pub fn still_authenticated(&self) -> Result<(), Refusal> {
        match self.caller() {
            Some(caller) if caller.is_over(SystemTime::now()) => {
                Err(Refusal::unauthenticated("the credential has expired or was revoked while the call ran"))
            }
            _ => Ok(()),
        }
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

    /// Notes the place after the last event that the call made.
    pub fn wrote(&self, place: Option<Place>) {
        self.noted().sequence = place.and_then(Place::last).map(Sequence::get);
    }

    /// What the caller is told of an error.
    pub fn refuse(&self, error: impl Into<Refusal>) -> Refusal {
        let mut refusal = error.into();
        let mut noted = self.noted();
        if noted.reason.is_none() || refusal.is_our_failure() && noted.cause.is_none() {
            noted.reason = Some(refusal.reason);
            noted.cause = refusal.cause.take();
        }
        if refusal.reason == ErrorReason::Unauthenticated {
            noted.login = Some(refusal.message.clone()); // It has no part of the credential.
        }
        drop(noted);
        refusal
    }

    /// Notes the reason of a refusal that was made elsewhere.
    pub fn refused(&self, reason: ErrorReason) {
        self.noted().reason.get_or_insert(reason);
    }

    /// Counts the call with the code that its caller is about to get. It counts as cancelled if there is none. A write
    /// leaves its place, so that its caller has it again with the response.
    pub fn end(&self, code: &'static str) {
        let mut noted = self.noted();
        noted.write = None;
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

    fn end_span(&self, noted: &Noted) {
        let Some(span) = &self.span else { return };
        span.end(&CallEnd {
            code: noted.code,
            workspace: noted.workspace.as_ref().map(Workspace::as_str),
            caller: self.actor(),
            is_of_stranger: self.caller().is_none(),
            reason: noted.reason.map(reason_name),
        });
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the audit log of a write, of a call that takes data out of the server, and of one that its caller may not make.
    fn audit(&self, noted: &Noted) {
        let is_refused = matches!(noted.reason, Some(ErrorReason::PermissionDenied | ErrorReason::Unauthenticated));
        let is_audited = self.is_write || EXPORTS.contains(&self.method.name());
        if !(is_refused || is_audited && self.caller().is_some()) {
            return;
        }
        tracing::info!(
            target: audit::TARGET,
            caller = self.actor(),
            credential = self.caller().and_then(|caller| caller.credential()),
            peer = tracing::field::display(self.peer),
            method = self.method.name(),
            workspace = noted.workspace.as_ref().map(Workspace::as_str),
            code = noted.code.unwrap_or(CANCELLED),
            reason = noted.reason.map(reason_name),
            problem = noted.login.as_deref(),
            sequence = noted.sequence,
        );
    }

    /// Whether the operator should see it: a failure of the server, or a write that was refused.
    fn log(&self, noted: &Noted) {
        let workspace = noted.workspace.as_ref().map(Workspace::as_str);
        let reason = noted.reason.map(reason_name);
        #[allow(clippy::cast_precision_loss)] // It is a duration for people.
        let duration_ms = || self.start.elapsed().as_micros() as f64 / 1e3;
        let peer = tracing::field::display(self.peer);
        let (method, bytes) = (self.method.name(), self.sent.load(Ordering::Relaxed));
        let code = noted.code.unwrap_or(CANCELLED);
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
            Some(ErrorReason::Unauthenticated) => {
                tracing::info!(method, peer, problem = noted.login.as_deref(), "a login was refused");
            }
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
        self.end_span(&noted);
        // Anybody can make calls that are refused before it is known who makes them, and no rate bounds those that are
        // refused for their rate.
        let is_of_stranger = noted.reason.is_some() && self.caller().is_none();
        let is_of_many = is_of_stranger || noted.reason == Some(ErrorReason::RateLimited);
        match is_of_many.then(|| OF_MANY.next()) {
            Some(None) => return,
            Some(Some(unlogged @ 1..)) => tell_unlogged(unlogged),
            Some(Some(0)) | None => {}
        }
        self.log(&noted);
        self.audit(&noted);
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
