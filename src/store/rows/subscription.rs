//! The rows of durable subscriptions: the settings of each, how far it has got, and the events that it skipped.
//!
//! The settings are apart from the progress, so that an acknowledgement writes a small row.

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};
use crate::model::{Micros, Mpid, Place, Position, Sequence, SubscriptionName};
use crate::proto::v1::Subscription;

/// The settings of a subscription: a `Subscription` without what is output only, except when it was created.
pub(in crate::store) struct SettingsRow;

/// How far a subscription has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ProgressRow {
    pub acknowledged: Position,
    /// The number of the latest stream.
    pub stream: u64,
    /// How many events are listed as skipped.
    pub skipped: u64,
}

/// An event that a subscription skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct SkippedRow {
    pub time: Micros,
    pub reason: String,
}

/// Where each field of the body of a [`ProgressRow`] begins, and its length.
const PLACE: usize = 0;
const IN_SNAPSHOT: usize = 8;
const AFTER: usize = 9;
const STREAM: usize = 17;
const SKIPPED: usize = 25;
const PROGRESS: usize = SKIPPED + 8;
/// Bytes of a time.
const TIME: usize = 8;

/// The key of a subscription: the number of its workspace, and its name.
pub(in crate::store) fn subscription_key(workspace: WorkspaceId, name: &SubscriptionName) -> Vec<u8> {
    [&workspace.0.to_be_bytes(), name.as_str().as_bytes()].concat()
}

/// The name in the key of a subscription.
pub(in crate::store) fn name_in(key: &[u8]) -> Result<SubscriptionName, StoreError> {
    let name = key.get(size_of::<u32>()..).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.and_then(|name| SubscriptionName::parse("name", name).ok());
    name.ok_or(Kind::Subscription.corrupt())
}

/// The key of a skipped event: that of the subscription, a zero, and the sequence.
pub(in crate::store) fn skipped_key(subscription: &[u8], sequence: u64) -> Vec<u8> {
    [&skipped_prefix(subscription)[..], &sequence.to_be_bytes()].concat()
}

/// How the keys of all skipped events of a subscription begin.
pub(in crate::store) fn skipped_prefix(subscription: &[u8]) -> Vec<u8> {
    [subscription, &[0]].concat()
}

/// The sequence in the key of a skipped event.
pub(in crate::store) fn sequence_in(key: &[u8]) -> Result<Sequence, StoreError> {
    let sequence = key.last_chunk().and_then(|sequence| Sequence::new(u64::from_be_bytes(*sequence)));
    sequence.ok_or(Kind::Skipped.corrupt())
}

impl SettingsRow {
    pub fn encode(key: &[u8], settings: &Subscription) -> Vec<u8> {
        let mut row = begin(Kind::Subscription, settings.encoded_len());
        settings.encode(&mut row).expect("a Vec takes any length");
        seal(Kind::Subscription, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Subscription, StoreError> {
        let body = unseal(Kind::Subscription, key, row, 0)?;
        Subscription::decode(body).map_err(|_| Kind::Subscription.corrupt())
    }
}

impl ProgressRow {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let (in_snapshot, after) = match self.acknowledged {
            Position::Log(_) => (0, 0),
            Position::Snapshot { after, .. } => (1, after.map_or(0, Mpid::get)),
        };
        let mut row = begin(Kind::Progress, PROGRESS);
        row.extend_from_slice(&self.acknowledged.place().get().to_le_bytes());
        row.push(in_snapshot);
        row.extend_from_slice(&after.to_le_bytes());
        row.extend_from_slice(&self.stream.to_le_bytes());
        row.extend_from_slice(&self.skipped.to_le_bytes());
        seal(Kind::Progress, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Self, StoreError> {
        let body = unseal(Kind::Progress, key, row, PROGRESS)?;
        let of = Place::after(u64::from_le_bytes(number(body, PLACE)));
        let after = Mpid::new(i64::from_le_bytes(number(body, AFTER)));
        let acknowledged = match body[IN_SNAPSHOT] {
            0 => Position::Log(of),
            _ => Position::Snapshot { of, after },
        };
        let at = |at| u64::from_le_bytes(number(body, at));
        Ok(Self { acknowledged, stream: at(STREAM), skipped: at(SKIPPED) })
    }
}

impl SkippedRow {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut row = begin(Kind::Skipped, TIME + self.reason.len());
        row.extend_from_slice(&self.time.get().to_le_bytes());
        row.extend_from_slice(self.reason.as_bytes());
        seal(Kind::Skipped, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Self, StoreError> {
        let body = unseal(Kind::Skipped, key, row, TIME)?;
        let reason = String::from_utf8(body[TIME..].to_vec()).map_err(|_| Kind::Skipped.corrupt())?;
        Ok(Self { time: Micros::new(i64::from_le_bytes(number(body, 0))), reason })
    }
}
