//! Why a store was not backed up.

use std::time::Duration;

use super::Refusal;
use crate::proto::v1::ErrorReason;
use crate::store::BackupError;

/// A backup takes seconds to minutes, and so do a compaction and a burst of writes.
const BACKUP_RETRY: Duration = Duration::from_secs(10);

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        let message = error.to_string();
        match error {
            BackupError::Running | BackupError::Compacting | BackupError::Overtaken => {
                Self::new(ErrorReason::Overloaded, message).retry_after(BACKUP_RETRY)
            }
            BackupError::Damaged { table } => {
                let cause = format!("a record of the table {table} is damaged").into();
                let refusal = Self::new(ErrorReason::RecordCorrupt, message).with("table", &table);
                Self { cause: Some(cause), ..refusal }
            }
            BackupError::Closed => Self::draining(),
            BackupError::Store(error) => error.into(),
            error @ (BackupError::Absent { .. }
            | BackupError::Locked { .. }
            | BackupError::Open(_)
            | BackupError::Write(_)) => {
                // The message may name a path of the server.
                let message = "the store was not backed up: see the server's log";
                Self { cause: Some(Box::new(error)), ..Self::new(ErrorReason::Internal, message) }
            }
        }
    }
}

impl Refusal {
    /// The caller of a backup took nothing for too long.
    #[must_use]
    pub fn backup_stalled() -> Self {
        let message = "the caller took nothing of the backup for too long: --stall-timeout says how long it may";
        Self::new(ErrorReason::SubscriberStalled, message)
    }

    /// A backup ended without a reason, because our code panicked.
    #[must_use]
    pub fn backup_broken() -> Self {
        Self::from(BackupError::Store(crate::store::StoreError::Panicked))
    }
}
