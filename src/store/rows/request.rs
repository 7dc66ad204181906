//! The rows of requests that had an id: the result of each, and an index by age.

use bytes::Bytes;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};
use crate::model::{Micros, Mpid, Place};
use crate::proto::v1::WriteOutcome;

/// The result of a request that had an id. It holds no value of a person: the profile that was returned is read back from
/// its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct RequestRow {
    /// A hash of the request without its id. No request has the hash 0, which stands for one whose profile was erased.
    pub fingerprint: u128,
    /// The command's time.
    pub time: Micros,
    /// The store's uptime at that moment, from which the age of the row is computed.
    pub uptime: Micros,
    /// The profile that was returned or deleted. `None` if there was none.
    pub mpid: Option<Mpid>,
    /// See `Written.place`.
    pub place: Place,
    pub outcome: WriteOutcome,
    /// See `Written.detail`.
    pub detail: Bytes,
}

const KIND: Kind = Kind::Request;
/// Where each field of the body begins, and their length. The detail follows.
const FINGERPRINT: usize = 0;
const TIME: usize = 16;
const UPTIME: usize = 24;
const MPID: usize = 32;
const PLACE: usize = 40;
const OUTCOME: usize = 48;
const BODY: usize = OUTCOME + 1;
/// Bytes of the uptime at the start of an [`AgeKey`].
const AGE: usize = 8;

/// Before and after the name of a caller. No id of a request and no name contains it.
const NAME_END: &[u8] = &[0];

/// The key of a request: the number of its workspace, the name of its caller if it has one, and its id. Each caller has
/// ids of its own, or one could use up those of another.
pub(in crate::store) fn request_key(workspace: WorkspaceId, caller: Option<&str>, id: &str) -> Vec<u8> {
    let workspace = workspace.0.to_be_bytes();
    match caller {
        Some(caller) => [&workspace, NAME_END, caller.as_bytes(), NAME_END, id.as_bytes()].concat(),
        None => [&workspace, id.as_bytes()].concat(),
    }
}

impl RequestRow {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut row = begin(KIND, BODY + self.detail.len());
        row.extend_from_slice(&self.fingerprint.to_le_bytes());
        row.extend_from_slice(&self.time.get().to_le_bytes());
        row.extend_from_slice(&self.uptime.get().to_le_bytes());
        row.extend_from_slice(&self.mpid.map_or(0, Mpid::get).to_le_bytes());
        row.extend_from_slice(&self.place.get().to_le_bytes());
        row.push(self.outcome as u8);
        row.extend_from_slice(&self.detail);
        seal(KIND, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Self, StoreError> {
        let body = unseal(KIND, key, row, BODY)?;
        Ok(Self {
            fingerprint: u128::from_le_bytes(number(body, FINGERPRINT)),
            time: Micros::new(i64::from_le_bytes(number(body, TIME))),
            uptime: Micros::new(i64::from_le_bytes(number(body, UPTIME))),
            mpid: Mpid::new(i64::from_le_bytes(number(body, MPID))),
            place: Place::after(u64::from_le_bytes(number(body, PLACE))),
            outcome: WriteOutcome::try_from(i32::from(body[OUTCOME])).map_err(|_| KIND.corrupt())?,
            detail: Bytes::copy_from_slice(&body[BODY..]),
        })
    }
}

/// A key of the index by age: the store's uptime when the request was applied, and the key of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct AgeKey(Vec<u8>);

/// A row of the index by age. It has a seal and no body.
pub(in crate::store) struct AgeRow;

impl AgeKey {
    pub fn new(uptime: Micros, request: &[u8]) -> Self {
        // Uptimes are never negative, so their bytes sort as the numbers do.
        Self([&uptime.get().to_be_bytes(), request].concat())
    }

    /// Takes a stored key. `None` if it is too short.
    pub fn stored(key: &[u8]) -> Option<Self> {
        (key.len() > AGE).then(|| Self(key.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn uptime(&self) -> Micros {
        Micros::new(i64::from_be_bytes(number(&self.0, 0)))
    }

    pub fn request(&self) -> &[u8] {
        &self.0[AGE..]
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
