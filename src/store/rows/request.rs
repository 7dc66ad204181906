//! The rows of request ids: what was answered, and the same by age.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};
use crate::model::{Micros, Mpid, Place};
use crate::proto::v1::WriteOutcome;

/// What was answered to a request that had an id. It holds no personal data: the profile that was answered is found by
/// the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct RequestRow {
    /// Of the request, without its id.
    pub fingerprint: u128,
    /// When it was answered.
    pub time: Micros,
    /// The same by the store's uptime: what its age is counted by.
    pub uptime: Micros,
    /// Of the profile that was answered.
    pub mpid: Option<Mpid>,
    /// See `Written.place`.
    pub place: Place,
    pub outcome: WriteOutcome,
}

const KIND: Kind = Kind::Request;
const BODY: usize = 16 + 8 + 8 + 8 + 8 + 1;

/// The key of a request: its workspace and its id.
pub(in crate::store) fn request_key(workspace: WorkspaceId, id: &str) -> Vec<u8> {
    [&workspace.0.to_be_bytes(), id.as_bytes()].concat()
}

impl RequestRow {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut row = begin(KIND, BODY);
        row.extend_from_slice(&self.fingerprint.to_le_bytes());
        row.extend_from_slice(&self.time.get().to_le_bytes());
        row.extend_from_slice(&self.uptime.get().to_le_bytes());
        row.extend_from_slice(&self.mpid.map_or(0, Mpid::get).to_le_bytes());
        row.extend_from_slice(&self.place.get().to_le_bytes());
        row.push(self.outcome as u8);
        seal(KIND, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Self, StoreError> {
        let body = unseal(KIND, key, row, BODY)?;
        Ok(Self {
            fingerprint: u128::from_le_bytes(number(body, 0)),
            time: Micros::new(i64::from_le_bytes(number(body, 16))),
            uptime: Micros::new(i64::from_le_bytes(number(body, 24))),
            mpid: Mpid::new(i64::from_le_bytes(number(body, 32))),
            place: Place::after(u64::from_le_bytes(number(body, 40))),
            outcome: WriteOutcome::try_from(i32::from(body[48])).map_err(|_| KIND.corrupt())?,
        })
    }
}

/// The key of a request by age: the store's uptime when it was answered, and the key of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct AgeKey(Vec<u8>);

/// A row of the requests by age: a seal and nothing else.
pub(in crate::store) struct AgeRow;

impl AgeKey {
    pub fn new(uptime: Micros, request: &[u8]) -> Self {
        // The order of bytes is that of the numbers, which are never negative.
        Self([&uptime.get().to_be_bytes(), request].concat())
    }

    /// From a stored key; `None` if it is none.
    pub fn stored(key: &[u8]) -> Option<Self> {
        (key.len() > 8).then(|| Self(key.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn uptime(&self) -> Micros {
        Micros::new(i64::from_be_bytes(number(&self.0, 0)))
    }

    pub fn request(&self) -> &[u8] {
        &self.0[8..]
    }
}

impl AgeRow {
    pub fn encode(key: &AgeKey) -> Vec<u8> {
        seal(Kind::RequestAge, key.as_bytes(), begin(Kind::RequestAge, 0))
    }

    pub fn check(key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        unseal(Kind::RequestAge, key, row, 0).map(|_| ())
    }
}
