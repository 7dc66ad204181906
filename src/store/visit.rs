//! Every table with its types, for code that treats all tables alike: copies and checks.

use redb::{Key, TableDefinition, Value};

use super::WorkspaceId;
use super::rows::{
    AbsorbedRow, AgeRow, AudienceRow, EventRow, ExpiryRow, HeadRow, IdentitySettingsRow, Kind, MemberRow, MergeRow,
    OwnerRow, ProfileRow, ProgressRow, RememberedRow, RequestRow, SettingsRow, SkippedRow, WorkspaceRow, fact_is_sound,
    stored_mpid,
};
use super::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, IDENTITY_SETTINGS, MEMBERS, MERGES, META, PROFILES,
    PROGRESS, REMEMBERED, REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS, WORKSPACES,
};
use crate::model::Sequence;

/// Does something with a table, whatever the types of its keys and values are. A trait, because a closure cannot be
/// generic.
pub(super) trait Visit {
    type Result;

    /// `is_sound` says whether a row verifies.
    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        is_sound: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result;
}

/// Visits a table.
pub(super) fn visit<T: Visit>(kind: Kind, visit: T) -> T::Result {
    match kind {
        Kind::Meta => visit.table(META, fact_is_sound),
        Kind::Workspace => visit.table(WORKSPACES, |name, row| WorkspaceRow::read(name, row).is_ok()),
        Kind::Head => visit.table(HEADS, |id, row| HeadRow::read(WorkspaceId(id), row).is_ok()),
        Kind::Profile => visit.table(PROFILES, |(workspace, mpid), row| {
            let read = |mpid| ProfileRow::read(WorkspaceId(workspace), mpid, row).is_ok();
            stored_mpid(mpid, Kind::Profile).is_ok_and(read)
        }),
        Kind::Identity => visit.table(IDENTITIES, |key, row| OwnerRow::read(key, row).is_ok()),
        Kind::Event => visit.table(EVENTS, |(workspace, sequence), row| {
            let read = |sequence| EventRow::read(WorkspaceId(workspace), sequence, row).is_ok();
            Sequence::new(sequence).is_some_and(read)
        }),
        Kind::Request => visit.table(REQUESTS, |key, row| RequestRow::read(key, row).is_ok()),
        Kind::RequestAge => visit.table(REQUEST_AGES, |key, row| AgeRow::check(key, row).is_ok()),
        Kind::Subscription => visit.table(SUBSCRIPTIONS, |key, row| SettingsRow::read(key, row).is_ok()),
        Kind::Progress => visit.table(PROGRESS, |key, row| ProgressRow::read(key, row).is_ok()),
        Kind::Skipped => visit.table(SKIPPED, |key, row| SkippedRow::read(key, row).is_ok()),
        Kind::Audience => visit.table(AUDIENCES, |key, row| AudienceRow::read(key, row).is_ok()),
        Kind::Member => visit.table(MEMBERS, |key, row| MemberRow::read(key, row).is_ok()),
        Kind::Expiry => visit.table(EXPIRIES, |key, row| ExpiryRow::read(key, row).is_ok()),
        Kind::Merge => visit.table(MERGES, |key, row| MergeRow::read(key, row).is_ok()),
        Kind::Absorbed => visit.table(ABSORBED, |key, row| AbsorbedRow::read(key, row).is_ok()),
        Kind::IdentitySettings => {
            visit.table(IDENTITY_SETTINGS, |key, row| IdentitySettingsRow::read(key, row).is_ok())
        }
        Kind::Remembered => visit.table(REMEMBERED, |key, row| RememberedRow::read(key, row).is_ok()),
    }
}
