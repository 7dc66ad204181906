//! Why a store was not compacted.

use std::time::Duration;

use super::Refusal;
use crate::proto::v1::ErrorReason;
use crate::store::CompactError;

/// A compaction takes seconds to minutes, and so does a burst of writes.
const COMPACT_RETRY: Duration = Duration::from_secs(10);

impl From<CompactError> for Refusal {
    fn from(error: CompactError) -> Self {
        let message = error.to_string();
        match error {
            CompactError::Running | CompactError::BackingUp | CompactError::Overtaken => {
                Self::new(ErrorReason::Overloaded, message).retry_after(COMPACT_RETRY)
            }
            CompactError::DiskFull { free, required } => Self::new(ErrorReason::StorageFull, message)
                .with("free_bytes", &free)
                .with("required_free_bytes", &required),
            CompactError::Damaged { table } => {
                let cause = format!("a record of the table {table} is damaged").into();
                let refusal = Self::new(ErrorReason::RecordCorrupt, message).with("table", &table);
                Self { cause: Some(cause), ..refusal }
            }
            CompactError::Closed => Self::draining(),
            error @ (CompactError::Absent { .. }
            | CompactError::Locked { .. }
            | CompactError::Open(_)
            | CompactError::Write(_)
            | CompactError::Panicked) => {
                // The message may name a path of the server.
                let message = "the store was not compacted, and nothing has changed: see the server's log";
                Self { cause: Some(Box::new(error)), ..Self::new(ErrorReason::Internal, message) }
            }
        }
    }
}
