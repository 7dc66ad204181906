//! The row of a workspace: the number that stands for it in the other tables. The key is its name.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};

/// The encoding of a workspace's number.
pub(in crate::store) struct WorkspaceRow;

const KIND: Kind = Kind::Workspace;
/// Bytes of the number.
const BODY: usize = 4;

impl WorkspaceRow {
    pub fn encode(name: &[u8], id: WorkspaceId) -> Vec<u8> {
        let mut row = begin(KIND, BODY);
        row.extend_from_slice(&id.0.to_le_bytes());
        seal(KIND, name, row)
    }

    pub fn read(name: &[u8], row: &[u8]) -> Result<WorkspaceId, StoreError> {
        let body = unseal(KIND, name, row, BODY)?;
        Ok(WorkspaceId(u32::from_le_bytes(number(body, 0))))
    }
}
