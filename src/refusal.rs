//! Why a call did not succeed: a reason, a message for the caller, and details for machines.
//!
//! Every error of `model`, `store` and `feed` becomes a [`Refusal`] here, by exhaustive matches. `grpc::status` renders
//! it as a status and `http::problem` as a problem document; a refusal itself knows no transport.
//! `docs/architecture.md` says where a new reason goes.
//!
//! Invariant: a message, a detail and a log line hold no identity value and no attribute value.

mod auth;
mod backup;
mod compact;
mod cursor;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use crate::feed::FeedError;
use crate::model::invalid::{number_over_limit, over_limit};
use crate::model::{AudienceId, Cursor, Invalid, Micros, Place, SubscriptionName};
use crate::proto::v1::ErrorReason;
use crate::store::{Problem, StoreError};

/// A full queue empties fast.
const QUEUE_RETRY: Duration = Duration::from_millis(100);
/// A client that asks for too much comes back for some calls at once, rather than for each by itself.
const CLIENT_RETRY: Duration = Duration::from_millis(200);
/// A restart takes longer.
const RESTART_RETRY: Duration = Duration::from_secs(1);
/// Another server, or this one, takes the stream at once.
const REOPEN_RETRY: Duration = Duration::from_millis(200);

/// Why a call did not succeed.
#[derive(Debug)]
pub struct Refusal {
    /// The reason, which clients act on.
    pub reason: ErrorReason,
    /// The message for the caller.
    pub message: Cow<'static, str>,
    /// Facts that go with the reason, by the names that `error_reason.proto` documents.
    pub metadata: BTreeMap<&'static str, String>,
    /// The parts of the request or of the state that the refusal is about.
    pub details: Vec<Detail>,
    /// The cause of a failure of the server. It goes to the log; the caller does not see it.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// A field of the request that is wrong. An empty path names the request as a whole.
    Field {
        /// The path of the field, such as `patch.set_user_attributes["plan"]`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A condition that does not hold.
    Precondition {
        /// The kind of condition.
        kind: &'static str,
        /// What it is a condition of.
        subject: Cow<'static, str>,
        /// Why it does not hold.
        problem: Cow<'static, str>,
    },
    /// A quantity that is over its limit.
    Quota {
        /// What is counted.
        subject: &'static str,
        /// How many there are, and how many there may be.
        problem: String,
    },
    /// The profile in question, such as `profiles/42`. Empty if the caller named it by an identity.
    Profile(String),
    /// The subscription in question, such as `subscriptions/crm`.
    Subscription(String),
    /// The audience in question, such as `audiences/7`.
    Audience(String),
    /// How long to wait before the next attempt.
    RetryAfter(Duration),
}

impl Refusal {
    fn new(reason: ErrorReason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into(), metadata: BTreeMap::new(), details: Vec::new(), cause: None }
    }

    fn detail(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }

    fn retry_after(self, wait: Duration) -> Self {
        self.detail(Detail::RetryAfter(wait))
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.metadata.insert(name, value.to_string());
        self
    }

    /// Whether it is about a field of the request, and not about a quantity of the server's.
    #[must_use]
    pub fn names_a_field(&self) -> bool {
        self.details.iter().any(|detail| matches!(detail, Detail::Field { .. }))
    }

    /// Whether the failure is ours, so that the operator should hear of it.
    #[must_use]
    pub fn is_our_failure(&self) -> bool {
        use ErrorReason::{Internal, RecordCorrupt, StorageFailed};
        matches!(self.reason, Internal | RecordCorrupt | StorageFailed)
    }

    /// See [`reason_name`].
    #[must_use]
    pub fn reason_name(&self) -> &'static str {
        reason_name(self.reason)
    }

    /// A field of the request is wrong.
    fn field(reason: ErrorReason, message: String, path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::new(reason, message).detail(Detail::Field { path: path.into(), problem: problem.into() })
    }

    /// A quantity is over its limit.
    fn over_quota(message: String, subject: &'static str, limit: usize, found: usize) -> Self {
        Self::limit(message, subject, limit)
            .with("found", &found)
            .detail(Detail::Quota { subject, problem: over_limit(subject, found, limit) })
    }

    fn limit(message: String, subject: &'static str, limit: usize) -> Self {
        Self::new(ErrorReason::LimitExceeded, message).with("subject", &subject).with("limit", &limit)
    }

    /// The bytes are not an encoded message of the request's type.
    #[must_use]
    pub fn undecodable() -> Self {
        let problem = "is not an encoded message of the request's type";
        Self::field(ErrorReason::FieldInvalid, format!("the request {problem}"), "", problem)
    }

    /// The request is larger than its limit.
    #[must_use]
    pub fn request_too_large(limit: usize, found: usize) -> Self {
        let subject = "request bytes";
        Self::over_quota(over_limit(subject, found, limit), subject, limit, found)
    }

    /// The body of a request is larger than its limit. Its size is unknown: it was not read to its end.
    #[must_use]
    pub fn body_too_large(limit: usize) -> Self {
        let subject = "request bytes";
        Self::limit(format!("the request takes more than the limit of {limit} bytes"), subject, limit)
            .detail(Detail::Quota { subject, problem: format!("over the limit of {limit}") })
    }

    /// A profile no longer fits into a response that holds several.
    #[must_use]
    pub fn response_full(limit: usize, found: usize) -> Self {
        let subject = "response bytes";
        let message = format!("with this profile, {}", over_limit(subject, found, limit));
        Self::over_quota(message, subject, limit, found)
    }

    /// A unary call has more than one message.
    #[must_use]
    pub fn more_than_one_message() -> Self {
        let problem = "a unary call has one message, and this one has more";
        Self::field(ErrorReason::FieldInvalid, problem.to_owned(), "", problem)
    }

    /// The request names no host, or several.
    #[must_use]
    pub fn host_invalid(problem: &'static str) -> Self {
        Self::field(ErrorReason::FieldInvalid, problem.to_owned(), "host", problem)
    }

    /// The request names a host that is not served.
    #[must_use]
    pub fn host_not_served() -> Self {
        let message = "this server listens on a loopback address and does not serve the host that the request names; \
                       --allowed-hosts adds hosts";
        Self::new(ErrorReason::PermissionDenied, message)
    }

    /// The content type is not one of gRPC's.
    #[must_use]
    pub fn content_type_unsupported() -> Self {
        let message = "a gRPC method takes application/grpc, or application/grpc-web and application/grpc-web-text";
        Self::new(ErrorReason::EncodingUnsupported, message)
    }

    /// gRPC over HTTP/1.1.
    #[must_use]
    pub fn version_unsupported() -> Self {
        let message = "application/grpc needs HTTP/2; over HTTP/1.1 use application/grpc-web";
        Self::new(ErrorReason::EncodingUnsupported, message)
    }

    /// The body of a request is compressed in a way that is not known here.
    #[must_use]
    pub fn content_encoding_unsupported() -> Self {
        Self::new(ErrorReason::EncodingUnsupported, "the body may be plain, or compressed with gzip or zstd")
    }

    /// A message of gRPC is compressed in a way that is not known here.
    #[must_use]
    pub fn compression_unsupported() -> Self {
        Self::new(ErrorReason::EncodingUnsupported, "messages may be plain, or compressed with gzip or zstd")
    }

    fn overloaded(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorReason::Overloaded, message).retry_after(RESTART_RETRY)
    }

    /// As many calls are in flight as may be.
    #[must_use]
    pub fn too_many_calls(limit: usize) -> Self {
        Self::overloaded(format!("{limit} calls are in flight, which is the limit"))
    }

    /// As many connections are open as may be, and each has a call in flight.
    #[must_use]
    pub fn too_many_connections(limit: usize) -> Self {
        Self::overloaded(format!("{limit} connections are open, which is the limit"))
    }

    /// Requests that are being received take all the memory that they may take.
    #[must_use]
    pub fn too_much_received() -> Self {
        Self::overloaded("requests that are being received take all of their memory, or this connection's share of it")
    }

    /// Responses that are not read take all the memory that they may take.
    #[must_use]
    pub fn responses_unread() -> Self {
        Self::overloaded("responses that wait to be read take all of their memory, or this connection's share of it")
    }

    /// The method or the resource does not exist.
    #[must_use]
    pub fn method_unknown(message: &'static str) -> Self {
        Self::new(ErrorReason::MethodUnknown, message)
    }

    /// The caller's time is up.
    #[must_use]
    pub fn deadline_exceeded(message: &'static str) -> Self {
        Self::new(ErrorReason::DeadlineExceeded, message)
    }

    /// A workspace sends requests too often.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        Self::new(ErrorReason::RateLimited, "too many requests for this workspace").retry_after(wait)
    }

    /// A client begins calls too often, and could make the next after `wait`. It is told to wait somewhat longer: then it
    /// has a few at once, and those that share its name do not all come back at the same moment.
    #[must_use]
    pub fn client_rate_limited(wait: Duration) -> Self {
        Self::new(ErrorReason::RateLimited, "too many calls by this client").retry_after(wait + jittered(CLIENT_RETRY))
    }

    /// A client has as many writes in flight as it may have.
    #[must_use]
    pub fn too_many_writes(limit: usize) -> Self {
        let message = format!("this client already has {limit} writes in flight");
        Self::new(ErrorReason::RateLimited, message).retry_after(jittered(CLIENT_RETRY))
    }

    /// Requests that name no workspace of the store, or one of others, come too often.
    #[must_use]
    pub fn unknown_rate_limited(wait: Duration) -> Self {
        let message = "too many requests that name no workspace which exists and which the caller may use";
        Self::new(ErrorReason::RateLimited, message).retry_after(wait)
    }

    /// As many imports are open, or taking records, as may be.
    #[must_use]
    pub fn too_many_imports(limit: usize) -> Self {
        Self::new(ErrorReason::Overloaded, format!("{limit} imports are already running")).retry_after(RESTART_RETRY)
    }

    /// The server is shutting down.
    #[must_use]
    pub fn draining() -> Self {
        Self::new(ErrorReason::ServerDraining, "the server is shutting down").retry_after(RESTART_RETRY)
    }

    /// A stored record is damaged. `table` names its kind.
    fn record_corrupt(table: &'static str) -> Self {
        let message = "a stored record is corrupt and is not served";
        let cause = format!("a record of the table {table} is corrupt").into();
        Self { cause: Some(cause), ..Self::new(ErrorReason::RecordCorrupt, message) }
    }

    /// The next event of the log is damaged. `past` leads over the damage.
    #[must_use]
    pub fn log_damaged(past: Cursor) -> Self {
        Self::record_corrupt("event").with("cursor", &past)
    }

    /// The next row of a list is damaged. The token leads over the damage.
    #[must_use]
    pub fn list_damaged(table: &'static str, next_page_token: &str) -> Self {
        Self::record_corrupt(table).with("next_page_token", next_page_token)
    }

    fn storage_failed(message: &'static str) -> Self {
        Self::new(ErrorReason::StorageFailed, message).retry_after(RESTART_RETRY)
    }

    fn preconditions(reason: ErrorReason, message: String, kind: &'static str, problems: Vec<Problem>) -> Self {
        problems.into_iter().fold(Self::new(reason, message), |refusal, Problem { subject, why }| {
            refusal.detail(Detail::Precondition { kind, subject: subject.into(), problem: why.into() })
        })
    }

    /// The log no longer holds the events after a cursor.
    fn cursor_expired(message: String, floor: Place, head: Place, oldest_time: Option<Micros>) -> Self {
        let oldest = floor.checked_next().map_or(floor, Place::from);
        let refusal = Self::new(ErrorReason::CursorExpired, message)
            .with("oldest_sequence", &oldest)
            .with("head_sequence", &head);
        match oldest_time {
            Some(time) => refusal.with("oldest_time", &time.to_timestamp()),
            None => refusal,
        }
    }
}

fn subscription(name: &SubscriptionName) -> Detail {
    Detail::Subscription(format!("subscriptions/{name}"))
}

fn audience(id: AudienceId) -> Detail {
    Detail::Audience(format!("audiences/{id}"))
}

/// Half of a time to one and a half: many streams end at once, and must not all come back at once.
fn jittered(time: Duration) -> Duration {
    let jittered = time.mul_f64(rand::random_range(0.5..1.5));
    Duration::from_millis(u64::try_from(jittered.as_millis()).unwrap_or(u64::MAX))
}

/// The name of a reason, as callers see it: without the prefix that protobuf asks for.
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

impl From<Invalid> for Refusal {
    fn from(error: Invalid) -> Self {
        let message = error.to_string();
        match error {
            Invalid::Field { field, problem } => Self::field(ErrorReason::FieldInvalid, message, field, problem),
            Invalid::Mask { field, problem } => Self::field(ErrorReason::MaskInvalid, message, field, problem),
            Invalid::Filter { field, problem } => Self::field(ErrorReason::FilterInvalid, message, field, problem),
            Invalid::Hidden { field, problem } => Self::field(ErrorReason::PermissionDenied, message, field, problem),
            Invalid::Limit { field, subject, limit, found } => {
                let problem = over_limit(subject, found, limit);
                Self::limit(message, subject, limit)
                    .with("found", &found)
                    .detail(Detail::Field { path: field, problem })
            }
            Invalid::TooLarge { field, subject, limit, found } => {
                let problem = number_over_limit(found, limit);
                Self::limit(message, subject, limit)
                    .with("found", &found)
                    .detail(Detail::Field { path: field.to_owned(), problem })
            }
            Invalid::ProfileTooLarge { limit, found } => Self::over_quota(message, "profile bytes", limit, found),
            Invalid::Cursor(error) => error.into(),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let profile = |mpid| Detail::Profile(format!("profiles/{mpid}"));
        match error {
            StoreError::Invalid(invalid) => invalid.into(),
            StoreError::ProfileNotFound { mpid } => Self::new(ErrorReason::ProfileNotFound, message)
                .detail(mpid.map_or(Detail::Profile(String::new()), profile)),
            StoreError::ProfileExists { mpid } => Self::new(ErrorReason::ProfileExists, message).detail(profile(mpid)),
            StoreError::IdentityTaken { kind, owner } => Self::new(ErrorReason::IdentityTaken, message)
                .with("owner_mpid", &owner)
                .with("identity_type", &kind)
                .detail(profile(owner)),
            StoreError::EtagMismatch => Self::new(ErrorReason::EtagMismatch, message),
            StoreError::RequestIdReused => {
                let problem = message.clone().into();
                Self::new(ErrorReason::RequestIdReused, message).detail(Detail::Precondition {
                    kind: "REQUEST_ID",
                    subject: "request_id".into(),
                    problem,
                })
            }
            StoreError::Expired { floor, head, oldest_time } => Self::cursor_expired(message, floor, head, oldest_time),
            StoreError::TooManyWorkspaces { limit } => Self::new(ErrorReason::QuotaExceeded, message)
                .with("subject", "workspaces")
                .with("limit", &limit)
                .detail(Detail::Quota { subject: "workspaces", problem: format!("{limit}, which is the limit") }),
            StoreError::SubscriptionNotFound { name } => {
                Self::new(ErrorReason::SubscriptionNotFound, message).detail(subscription(&name))
            }
            StoreError::SubscriptionExists { name } => {
                Self::new(ErrorReason::SubscriptionExists, message).detail(subscription(&name))
            }
            StoreError::TakenOver => Self::new(ErrorReason::SubscriptionTakenOver, message),
            StoreError::TooManySubscriptions { limit } => Self::new(ErrorReason::QuotaExceeded, message)
                .with("subject", "subscriptions")
                .with("limit", &limit)
                .detail(Detail::Quota { subject: "subscriptions", problem: format!("{limit}, which is the limit") }),
            StoreError::EventNotFound { floor, head } => Self::new(ErrorReason::EventNotFound, message)
                .with("oldest_sequence", &floor.checked_next().map_or(floor, Place::from))
                .with("head_sequence", &head),
            StoreError::AudienceNotFound { id } => {
                Self::new(ErrorReason::AudienceNotFound, message).detail(audience(id))
            }
            StoreError::AudienceExists { id } => Self::new(ErrorReason::AudienceExists, message).detail(audience(id)),
            StoreError::AudienceDeleting { id } => {
                Self::new(ErrorReason::AudienceDeleting, message).detail(Detail::Precondition {
                    kind: "AUDIENCE",
                    subject: format!("audiences/{id}").into(),
                    problem: "is being deleted".into(),
                })
            }
            StoreError::IdentityConflict { problems } => {
                Self::preconditions(ErrorReason::IdentityConflict, message, "IDENTITY", problems)
            }
            StoreError::MergeSelf => {
                Self::field(ErrorReason::MergeSelf, message, "from", "is the same profile as into")
            }
            StoreError::MergeCycle { absorbed, into } => {
                let (subject, why) = (format!("profiles/{absorbed}"), format!("was merged into profiles/{into}"));
                Self::preconditions(ErrorReason::MergeCycle, message, "MERGE", vec![Problem { subject, why }])
            }
            StoreError::MergeNotFound { mpid } => Self::new(ErrorReason::MergeNotFound, message).detail(profile(mpid)),
            StoreError::MergeNotReversible { problems } => {
                Self::preconditions(ErrorReason::MergeNotReversible, message, "MERGE", problems)
            }
            StoreError::Overloaded => Self::new(ErrorReason::Overloaded, message).retry_after(QUEUE_RETRY),
            StoreError::DiskFull { free, required } => Self::new(ErrorReason::StorageFull, message)
                .with("free_bytes", &free)
                .with("required_free_bytes", &required),
            StoreError::Corrupt { table, .. } => Self::record_corrupt(table),
            StoreError::Panicked | StoreError::TooManyEvents => Self::new(ErrorReason::Internal, message),
            StoreError::Closed => Self::draining(),
            StoreError::Failed => Self::storage_failed("the store has failed; whether the write was kept is unknown"),
            StoreError::Storage(cause) => {
                Self { cause: Some(cause), ..Self::storage_failed("the store cannot be read") }
            }
        }
    }
}

impl From<FeedError> for Refusal {
    fn from(error: FeedError) -> Self {
        let message = error.to_string();
        match error {
            FeedError::Invalid(error) => error.into(),
            FeedError::Store(error) => error.into(),
            FeedError::Damaged { past } => Self::log_damaged(past),
            FeedError::Draining { cursor } => Self::new(ErrorReason::ServerDraining, message)
                .retry_after(jittered(RESTART_RETRY))
                .with("cursor", &cursor),
            FeedError::Unauthenticated { cursor } => {
                Self::new(ErrorReason::Unauthenticated, message).with("cursor", &cursor)
            }
            FeedError::TooOld { cursor } => Self::new(ErrorReason::StreamTooOld, message)
                .retry_after(jittered(REOPEN_RETRY))
                .with("cursor", &cursor),
            FeedError::TakenOver { cursor } => {
                Self::new(ErrorReason::SubscriptionTakenOver, message).with("cursor", &cursor)
            }
            FeedError::Deleted { name } => {
                Self::new(ErrorReason::SubscriptionNotFound, message).detail(subscription(&name))
            }
            FeedError::TooManyStreams { limit } => Self::new(ErrorReason::QuotaExceeded, message)
                .with("subject", "streams")
                .with("limit", &limit)
                .detail(Detail::Quota { subject: "streams", problem: format!("{limit}, which is the limit") })
                .retry_after(jittered(RESTART_RETRY)),
            FeedError::Stalled { cursor } => Self::new(ErrorReason::SubscriberStalled, message).with("cursor", &cursor),
        }
    }
}

#[cfg(test)]
mod tests;
