//! Every row of every table: it verifies, follows the row before, and belongs to a workspace.

use redb::{Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, Value};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::Kind;
use super::super::tables::guarded;
use super::super::visit::{Visit, visit};
use super::report::Problems;
use super::workspace_in;
use crate::model::Mpid;

/// Bytes of the age before the workspace in a key of the requests by age.
const AGE: usize = 8;

/// What was found in a table.
pub(super) struct Table {
    pub kind: Kind,
    /// As redb counts them.
    pub rows: u64,
    /// Those that do not verify or are not reached.
    pub damaged: u64,
}

/// Verifies all rows. `workspaces` is how many there are; `None` if that is unknown.
pub(super) fn check(
    state: &ReadTransaction,
    workspaces: Option<usize>,
    problems: &mut Problems,
) -> Result<Vec<Table>, StoreError> {
    Kind::ALL.into_iter().map(|kind| check_table(state, kind, workspaces, problems)).collect()
}

fn check_table(
    state: &ReadTransaction,
    kind: Kind,
    workspaces: Option<usize>,
    problems: &mut Problems,
) -> Result<Table, StoreError> {
    let mut table = Table { kind, rows: 0, damaged: 0 };
    let mut reached = 0;
    let walk = Walk { state, table: &mut table, reached: &mut reached, workspaces, problems };
    match guarded(kind, || visit(kind, walk)) {
        Ok(()) | Err(StoreError::Corrupt { .. }) => {}
        Err(other) => return Err(other),
    }
    let hidden = table.rows.saturating_sub(reached);
    if hidden > 0 {
        table.damaged += hidden;
        problems.add_many("rows that a damaged page hides", hidden, || format!("table {}", kind.name()));
    }
    Ok(table)
}

/// Walks over a table.
struct Walk<'w> {
    state: &'w ReadTransaction,
    table: &'w mut Table,
    /// Rows that were read so far, also if the walk ends at a damaged page.
    reached: &'w mut u64,
    workspaces: Option<usize>,
    problems: &'w mut Problems,
}

impl Visit for Walk<'_> {
    type Result = Result<(), StoreError>;

    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        is_sound: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result {
        let Self { state, table: found, reached, workspaces, problems } = self;
        let (kind, table) = (found.kind, state.open_table(table)?);
        found.rows = table.len()?;
        let mut last: Option<Vec<u8>> = None;
        for row in table.iter()? {
            let (key, value) = row?;
            *reached += 1;
            let bytes = K::as_bytes(&key.value()).as_ref().to_vec();
            let follows = last.as_ref().is_none_or(|last| K::compare(last, &bytes).is_lt());
            if !follows || !is_sound(key.value(), value.value()) {
                found.damaged += 1;
                let place = format!("table {}{}", kind.name(), shown(kind, &bytes, problems));
                problems.add("rows that do not verify", || place);
            } else if let (Some(id), Some(count)) = (workspace_of(kind, &bytes), workspaces)
                && !(1..=count).contains(&(id.0 as usize))
            {
                problems.add("rows of a workspace that does not exist", || format!("table {}", kind.name()));
            }
            last = Some(bytes);
        }
        Ok(())
    }
}

/// The workspace in a key. `None` in tables whose keys have none, or are checked elsewhere.
fn workspace_of(kind: Kind, key: &[u8]) -> Option<WorkspaceId> {
    match kind {
        Kind::Meta | Kind::Workspace | Kind::Head => None,
        Kind::Profile | Kind::Event => numbered(key).map(|(id, _)| id),
        Kind::RequestAge => key.get(AGE..).map(workspace_in),
        Kind::Identity
        | Kind::Request
        | Kind::Subscription
        | Kind::Progress
        | Kind::Skipped
        | Kind::Audience
        | Kind::Member
        | Kind::Expiry
        | Kind::Merge
        | Kind::Absorbed
        | Kind::IdentitySettings
        | Kind::Remembered => Some(workspace_in(key)),
    }
}

/// The workspace and the number in a key of profiles or events, as redb encodes a pair.
fn numbered(key: &[u8]) -> Option<(WorkspaceId, u64)> {
    let (id, number) = key.split_first_chunk()?;
    Some((WorkspaceId(u32::from_le_bytes(*id)), u64::from_le_bytes(number.try_into().ok()?)))
}

/// Where a row is, beside its table: keys of other tables may tell of a person.
fn shown(kind: Kind, key: &[u8], problems: &Problems) -> String {
    match (kind, numbered(key)) {
        (Kind::Profile, Some((id, mpid))) => {
            let mpid = Mpid::new(mpid.cast_signed()).map_or_else(|| "0".to_owned(), |mpid| mpid.to_string());
            format!(", {} mpid {mpid}", problems.shown(id))
        }
        (Kind::Event, Some((id, sequence))) => format!(", {} sequence {sequence}", problems.shown(id)),
        _ => workspace_of(kind, key).map_or_else(String::new, |id| format!(", {}", problems.shown(id))),
    }
}
