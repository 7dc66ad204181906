//! The workspaces and the ends of their logs: those of the last commit, and over them what the batch in progress adds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use redb::ReadableTable;

use super::WorkspaceId;
use super::error::StoreError;
use super::rows::{Head, HeadRow, Kind, WorkspaceRow};
use crate::model::Workspace;

/// The names of all workspaces. Readers and the writer share it; only commits change it.
#[derive(Debug, Default)]
pub(in crate::store) struct Workspaces(RwLock<HashMap<Workspace, WorkspaceId>>);

/// What the writer knows of the logs.
#[derive(Debug)]
pub(in crate::store) struct Logs {
    committed: Arc<Workspaces>,
    /// By number, from 1: numbers have no holes.
    heads: Vec<Head>,
    /// Of the batch in progress.
    born: HashMap<Workspace, WorkspaceId>,
    changed: BTreeMap<WorkspaceId, Head>,
}

impl Workspaces {
    pub fn new(names: HashMap<Workspace, WorkspaceId>) -> Self {
        Self(RwLock::new(names))
    }

    pub fn id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(workspace).copied()
    }

    pub fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn extend(&self, born: impl Iterator<Item = (Workspace, WorkspaceId)>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(born);
    }
}

impl Logs {
    /// `heads` are those of the workspaces by number.
    pub fn new(committed: Arc<Workspaces>, heads: Vec<Head>) -> Self {
        Self { committed, heads, born: HashMap::new(), changed: BTreeMap::new() }
    }

    pub fn id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.born.get(workspace).copied().or_else(|| self.committed.id(workspace))
    }

    pub fn count(&self) -> usize {
        self.heads.len() + self.born.len()
    }

    /// The number of the next workspace that comes into being.
    pub fn next_id(&self) -> WorkspaceId {
        WorkspaceId(u32::try_from(self.count() + 1).expect("max-workspaces is far below"))
    }

    pub fn head(&self, id: WorkspaceId) -> Head {
        let committed = || self.heads.get(id.0 as usize - 1).copied().unwrap_or_default();
        self.changed.get(&id).copied().unwrap_or_else(committed)
    }

    /// Takes in what was written of a command: the name of a workspace that came into being, and the end of its log.
    pub fn apply(&mut self, workspace: WorkspaceId, born: Option<&Workspace>, head: Option<Head>) {
        if let Some(name) = born {
            self.born.insert(name.clone(), workspace);
            self.changed.insert(workspace, Head::default());
        }
        if let Some(head) = head {
            self.changed.insert(workspace, head);
        }
    }

    /// The ends that the batch has moved.
    pub fn changed(&self) -> impl Iterator<Item = (WorkspaceId, &Head)> {
        self.changed.iter().map(|(id, head)| (*id, head))
    }

    /// The batch is on disk.
    pub fn commit(&mut self) {
        for (id, head) in std::mem::take(&mut self.changed) {
            let at = id.0 as usize - 1;
            if at == self.heads.len() { self.heads.push(head) } else { self.heads[at] = head }
        }
        self.committed.extend(self.born.drain());
    }

    /// The batch was dropped.
    pub fn discard(&mut self) {
        self.born.clear();
        self.changed.clear();
    }
}

/// Every workspace has a number of its own, from 1 without holes, and the ends of its log.
pub(super) fn read(
    workspaces: &impl ReadableTable<&'static [u8], &'static [u8]>,
    all_heads: &impl ReadableTable<u32, &'static [u8]>,
) -> Result<(HashMap<Workspace, WorkspaceId>, Vec<Head>), StoreError> {
    let mut names = HashMap::new();
    let mut seen = Vec::new();
    for row in workspaces.iter()? {
        let (name, row) = row?;
        let id = WorkspaceRow::read(name.value(), row.value())?;
        let name = std::str::from_utf8(name.value()).ok().and_then(|name| Workspace::parse(name).ok());
        names.insert(name.ok_or(Kind::Workspace.corrupt())?, id);
        seen.push(id.0);
    }
    seen.sort_unstable();
    if !seen.iter().copied().eq(1..=u32::try_from(seen.len()).unwrap_or(u32::MAX)) {
        return Err(Kind::Workspace.corrupt());
    }
    let mut heads = Vec::with_capacity(seen.len());
    for (row, expected) in all_heads.iter()?.zip(1..) {
        let (id, row) = row?;
        let head = HeadRow::read(WorkspaceId(id.value()), row.value())?;
        if id.value() != expected || head.floor > head.place {
            return Err(Kind::Head.corrupt());
        }
        heads.push(head);
    }
    if heads.len() == seen.len() { Ok((names, heads)) } else { Err(Kind::Head.corrupt()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Place;

    #[test]
    fn what_a_dropped_batch_brought_into_being_is_not_there() {
        let (shared, name) = (Arc::<Workspaces>::default(), Workspace::parse("a/b/c").unwrap());
        let mut logs = Logs::new(Arc::clone(&shared), Vec::new());
        let head = Head { place: Place::after(3), ..Head::default() };
        for kept in [false, true] {
            let id = logs.next_id();
            assert_eq!((id, logs.id(&name)), (WorkspaceId(1), None));
            logs.apply(id, Some(&name), Some(head));
            assert_eq!((logs.id(&name), logs.count(), logs.head(id)), (Some(id), 1, head), "the batch itself sees it");
            assert_eq!(shared.id(&name), None, "and no reader does");
            if kept { logs.commit() } else { logs.discard() }
        }
        assert_eq!((shared.id(&name), logs.count(), logs.changed().count()), (Some(WorkspaceId(1)), 1, 0));
    }

    /// What the writer and the readers keep in memory for each workspace: at most 100,000 of them, by default.
    #[test]
    fn a_workspace_costs_less_than_200_bytes_of_memory() {
        let name = "acme-corporation/main-account/production-web"; // Longer than most.
        // Of a hash table that has just grown: twice the entries that it holds, and a byte for each.
        let entry = 2 * (size_of::<(Workspace, WorkspaceId)>() + 1);
        let shared_name = 2 * size_of::<usize>() + name.len().next_multiple_of(8);
        let head = 2 * size_of::<Head>(); // Of a vector that has just grown.
        let cost = entry + shared_name + head;
        assert!(cost < 200, "{cost} bytes");
    }
}
