//! What the writer has committed, as rows of a backup, in the order in which it wrote them.

use redb::Value;

use super::super::WorkspaceId;
use super::super::compact::Batch;
use super::super::effects::{Effects, RequestWrite, RowTable};
use super::super::rows::{AgeRow, HeadRow, Kind, OwnerRow, WorkspaceRow};
use super::STEP_BYTES;
use crate::proto::storage::{BackupRow, BackupRows};

/// Collects rows, in frames of one table each.
#[derive(Default)]
struct Rows {
    frames: Vec<BackupRows>,
    /// Bytes of the last frame.
    bytes: usize,
}

/// The rows of these batches.
pub(super) fn of(batches: &[Batch]) -> Vec<BackupRows> {
    let mut rows = Rows::default();
    for Batch { effects, heads } in batches {
        for effects in effects {
            rows.put_effects(effects);
        }
        for (workspace, head) in heads {
            rows.put(Kind::Head, &u32::as_bytes(&workspace.0), Some(&HeadRow::encode(head, *workspace)));
        }
    }
    rows.frames
}

impl Rows {
    fn put(&mut self, kind: Kind, key: &[u8], value: Option<&[u8]>) {
        let table = u32::from(kind as u8);
        if self.bytes >= STEP_BYTES || self.frames.last().is_none_or(|last| last.table != table) {
            self.frames.push(BackupRows { table, rows: Vec::new() });
            self.bytes = 0;
        }
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        let last = self.frames.last_mut().expect("one was just pushed");
        last.rows.push(BackupRow { key: key.to_vec(), value: value.map(<[u8]>::to_vec) });
    }

    /// What `Tables::write` writes. Destructuring names every field, so the compiler asks for a new one here.
    fn put_effects(&mut self, effects: &Effects) {
        let Effects {
            workspace,
            born,
            profiles,
            owners,
            events,
            trimmed,
            head: _, // The batch has the heads.
            rewritten,
            rows,
            request,
            forgotten,
            damaged_ages,
            next_end: _,
            works: _,
            ended: _,
        } = effects;
        let Some(workspace) = *workspace else { return };
        if let Some(name) = born {
            let name = name.as_str().as_bytes();
            self.put(Kind::Workspace, name, Some(&WorkspaceRow::encode(name, workspace)));
        }
        for write in owners {
            let key = OwnerRow::key(workspace, write.identity);
            let row = write.owner.map(|owner| OwnerRow::encode(&key, owner));
            self.put(Kind::Identity, &key, row.as_ref().map(<[u8; OwnerRow::LENGTH]>::as_slice));
        }
        for write in profiles {
            self.put(Kind::Profile, &profile_key(workspace, write.mpid.get()), Some(&write.row));
        }
        for write in events {
            self.put(Kind::Event, &event_key(workspace, write.sequence.get()), Some(&write.row));
        }
        for (sequence, row) in rewritten {
            self.put(Kind::Event, &event_key(workspace, sequence.get()), Some(row));
        }
        for write in rows {
            self.put(kind_of(write.table), &write.key, write.row.as_deref());
        }
        for sequence in trimmed {
            self.put(Kind::Event, &event_key(workspace, sequence.get()), None);
        }
        for age in forgotten {
            self.put(Kind::Request, age.request(), None);
            self.put(Kind::RequestAge, age.as_bytes(), None);
        }
        for key in damaged_ages {
            self.put(Kind::RequestAge, key, None);
        }
        if let Some(request) = request {
            self.put_request(request);
        }
    }

    fn put_request(&mut self, request: &RequestWrite) {
        let RequestWrite { key, row, age, replaces } = request;
        if let Some(age) = replaces {
            self.put(Kind::RequestAge, age.as_bytes(), None);
        }
        self.put(Kind::Request, key, Some(row));
        self.put(Kind::RequestAge, age.as_bytes(), Some(&AgeRow::encode(age)));
    }
}

fn profile_key(workspace: WorkspaceId, mpid: i64) -> Vec<u8> {
    <(u32, i64)>::as_bytes(&(workspace.0, mpid))
}

fn event_key(workspace: WorkspaceId, sequence: u64) -> Vec<u8> {
    <(u32, u64)>::as_bytes(&(workspace.0, sequence))
}

fn kind_of(table: RowTable) -> Kind {
    match table {
        RowTable::Settings => Kind::Subscription,
        RowTable::Progress => Kind::Progress,
        RowTable::Skipped => Kind::Skipped,
        RowTable::Audience => Kind::Audience,
        RowTable::Member => Kind::Member,
        RowTable::Expiry => Kind::Expiry,
        RowTable::Merge => Kind::Merge,
        RowTable::Absorbed => Kind::Absorbed,
        RowTable::IdentitySettings => Kind::IdentitySettings,
        RowTable::Remembered => Kind::Remembered,
        RowTable::Request => Kind::Request,
    }
}
