//! What the writer is asked to do, and what it answers.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::model::limits::REQUEST_ID_CHARS;
use crate::model::{Invalid, Micros, Mpid, NewProfile, Patch, ProfileKey, Sequence, Workspace};
use crate::proto::v1::WriteOutcome;

/// One write. It carries its own time and ids, so that the writer asks neither a clock nor a die: whoever applies
/// the same commands in the same order ends in the same state.
#[derive(Debug, Clone)]
pub struct Command {
    /// Where.
    pub workspace: Workspace,
    /// When it was asked for.
    pub time: Micros,
    /// The id of its event. Where it has several, they count up from here.
    pub event_id: Uuid,
    /// Who asks. Empty without authentication.
    pub actor: String,
    /// Makes a retry safe; `None` if the caller did not ask for that.
    pub request: Option<RequestId>,
    /// Marks its events: see `Event.silent`.
    pub silent: bool,
    /// Decide, but do not write.
    pub validate_only: bool,
    /// What.
    pub change: Change,
    /// Encoded bytes of the request, for the bound on the queue.
    pub request_bytes: usize,
}

/// The id of a request, and what was asked under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// As given.
    pub id: String,
    /// Of everything else in the request.
    pub fingerprint: u128,
}

/// What a command changes.
#[allow(missing_docs)] // The fields are those of the requests.
#[derive(Debug, Clone)]
pub enum Change {
    /// Create a profile; a `drawn` mpid gives way if it is in use.
    Create { profile: Box<NewProfile>, mpid: Mpid, drawn: bool },
    /// Apply a patch.
    Update {
        key: ProfileKey,
        patch: Box<Patch>,
        /// Empty for any.
        etag: String,
        /// The drawn mpid of a profile that is created if it does not exist and `key` is an identity; `None` if it is
        /// not to be created.
        allow_missing: Option<Mpid>,
    },
    /// Delete a profile.
    Delete {
        key: ProfileKey,
        /// Empty for any.
        etag: String,
        allow_missing: bool,
    },
}

impl Command {
    /// What it takes of the queue, in bytes: parsed, a request is a few times its encoded size.
    pub(super) fn weight(&self) -> usize {
        1_024 + 4 * self.request_bytes
    }
}

impl RequestId {
    /// Parses the `request_id` of a request; `None` for an empty one.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is malformed.
    pub fn parse(id: String) -> Result<Option<String>, Invalid> {
        if id.len() > REQUEST_ID_CHARS || !id.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(Invalid::field("request_id", "must be at most 64 printable ASCII characters"));
        }
        Ok((!id.is_empty()).then_some(id))
    }

    /// Of a request of `method`, from which the id was taken out.
    #[must_use]
    pub fn new(id: String, method: &str, request: &impl Message) -> Self {
        let mut bytes = method.as_bytes().to_vec();
        bytes.push(0);
        request.encode(&mut bytes).expect("a Vec takes any length");
        Self { id, fingerprint: xxh3_128(&bytes) }
    }
}

/// The answer to a command.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it did.
    pub outcome: WriteOutcome,
    /// Of its own event; where nothing changed, of the profile's latest, or of the log's latest if there is no profile.
    /// 0 if nothing was to be written.
    pub sequence: Sequence,
    /// Encoded `Profile` after it; `None` where there is none.
    pub profile: Option<Bytes>,
}
