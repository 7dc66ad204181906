//! The row of a workspace: the number by which the other tables know it.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};

/// See the module. The key is the name.
pub(in crate::store) struct WorkspaceRow;

const KIND: Kind = Kind::Workspace;

impl WorkspaceRow {
    pub fn encode(name: &[u8], id: WorkspaceId) -> Vec<u8> {
        let mut row = begin(KIND, 4);
        row.extend_from_slice(&id.0.to_le_bytes());
        seal(KIND, name, row)
    }

    pub fn read(name: &[u8], row: &[u8]) -> Result<WorkspaceId, StoreError> {
        let body = unseal(KIND, name, row, 4)?;
        Ok(WorkspaceId(u32::from_le_bytes(number(body, 0))))
    }
}
