//! Why a cursor cannot be used.

use std::borrow::Cow;

use super::{Detail, Refusal};
use crate::model::invalid::CursorError;
use crate::proto::v1::ErrorReason;

impl From<CursorError> for Refusal {
    fn from(error: CursorError) -> Self {
        let message = error.to_string();
        let foreign =
            |subject, problem| Detail::Precondition { kind: "CURSOR", subject: Cow::Borrowed(subject), problem };
        match error {
            CursorError::Malformed { field } => {
                Self::field(ErrorReason::CursorMalformed, message, field, "not a cursor of this service")
            }
            CursorError::ForeignLog { .. } => Self::new(ErrorReason::CursorForeign, message)
                .detail(foreign("log", "the cursor belongs to another log".into())),
            CursorError::Lost { through, .. } => Self::new(ErrorReason::CursorForeign, message)
                .detail(foreign("log", "the log was restored from a backup, which does not reach the cursor".into()))
                .with("restored_sequence", &through),
            CursorError::ForeignWorkspace { .. } => Self::new(ErrorReason::CursorForeign, message)
                .detail(foreign("workspace", "the cursor belongs to another workspace".into())),
            CursorError::InFuture { head, .. } => {
                Self::new(ErrorReason::CursorInFuture, message).with("head_sequence", &head)
            }
        }
    }
}
