//! The workspaces and the ends of their logs, as the writer knows them: the state of the last commit, and on top of it
//! the changes of the batch in progress.
//!
//! Readers share the committed names only. They read the ends of the logs from their snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use redb::ReadableTable;

use super::WorkspaceId;
use super::error::StoreError;
use super::rows::{Head, HeadRow, Kind, WorkspaceRow};
use crate::model::Workspace;

/// The names of all workspaces. Readers and the writer share it, and only commits change it.
#[derive(Debug, Default)]
pub(in crate::store) struct Workspaces(RwLock<HashMap<Workspace, WorkspaceId>>);

/// What the writer knows of the logs.
#[derive(Debug)]
pub(in crate::store) struct Logs {
    committed: Arc<Workspaces>,
    /// The committed heads by workspace number. Numbers start at 1 and have no holes.
    heads: Vec<Head>,
    /// Workspaces that the batch in progress creates.
    born: HashMap<Workspace, WorkspaceId>,
    /// Heads that the batch in progress has moved.
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

    /// Up to `most` workspaces: those of `first`, in their order, and then others in the order of their names.
    pub fn some(&self, first: &[Workspace], most: usize) -> Vec<(Workspace, WorkspaceId)> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut some: Vec<_> = first.iter().filter_map(|name| names.get_key_value(name)).take(most).collect();
        let chosen: HashSet<_> = first.iter().collect();
        let mut others: Vec<_> = names.iter().filter(|(name, _)| !chosen.contains(name)).collect();
        let room = most - some.len();
        if room > 0 && room < others.len() {
            others.select_nth_unstable_by_key(room - 1, |(name, _)| name.as_str()); // There may be 100,000.
        }
        others.truncate(room);
        others.sort_unstable_by_key(|(name, _)| name.as_str());
        some.extend(others);
        some.into_iter().map(|(name, id)| (name.clone(), *id)).collect()
    }

    fn extend(&self, born: impl Iterator<Item = (Workspace, WorkspaceId)>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(born);
    }
}

impl Logs {
    /// `heads` are the heads of the workspaces, ordered by number.
    pub fn new(committed: Arc<Workspaces>, heads: Vec<Head>) -> Self {
        Self { committed, heads, born: HashMap::new(), changed: BTreeMap::new() }
    }

    pub fn id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.born.get(workspace).copied().or_else(|| self.committed.id(workspace))
    }

    pub fn count(&self) -> usize {
        self.heads.len() + self.born.len()
    }

    /// Returns the number that the next new workspace will get.
    pub fn next_id(&self) -> WorkspaceId {
        WorkspaceId(u32::try_from(self.count() + 1).expect("max-workspaces is far below"))
    }

    pub fn head(&self, id: WorkspaceId) -> Head {
        let committed = || self.heads.get(id.0 as usize - 1).copied().unwrap_or_default();
        self.changed.get(&id).copied().unwrap_or_else(committed)
    }

    /// Records what a command wrote: the name of the workspace if it is new, and the new head of its log.
    pub fn apply(&mut self, workspace: WorkspaceId, born: Option<&Workspace>, head: Option<Head>) {
        if let Some(name) = born {
            self.born.insert(name.clone(), workspace);
            self.changed.insert(workspace, Head::default());
        }
        if let Some(head) = head {
            self.changed.insert(workspace, head);
        }
    }

    /// Returns the heads that the batch in progress has moved.
    pub fn changed(&self) -> impl Iterator<Item = (WorkspaceId, &Head)> {
        self.changed.iter().map(|(id, head)| (*id, head))
    }

    /// Keeps the changes of the batch, which is now on disk.
    pub fn commit(&mut self) {
        for (id, head) in std::mem::take(&mut self.changed) {
            let at = id.0 as usize - 1;
            if at == self.heads.len() { self.heads.push(head) } else { self.heads[at] = head }
        }
        self.committed.extend(self.born.drain());
    }

    /// Forgets the changes of the batch, which was dropped.
    pub fn discard(&mut self) {
        self.born.clear();
        self.changed.clear();
    }
}

/// Reads the names and the heads of all workspaces.
///
/// # Errors
/// [`StoreError::Corrupt`] unless the numbers run from 1 without holes and each workspace has a head.
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
    fn a_dropped_batch_leaves_no_new_workspace() {
        let (shared, name) = (Arc::<Workspaces>::default(), Workspace::parse("a/b/c").unwrap());
        let mut logs = Logs::new(Arc::clone(&shared), Vec::new());
        let head = Head { place: Place::after(3), ..Head::default() };
        for kept in [false, true] {
            let id = logs.next_id();
            assert_eq!((id, logs.id(&name)), (WorkspaceId(1), None));
            logs.apply(id, Some(&name), Some(head));
            assert_eq!((logs.id(&name), logs.count(), logs.head(id)), (Some(id), 1, head), "the batch itself sees it");
            assert_eq!(shared.id(&name), None, "no reader sees it");
            if kept { logs.commit() } else { logs.discard() }
        }
        assert_eq!((shared.id(&name), logs.count(), logs.changed().count()), (Some(WorkspaceId(1)), 1, 0));
    }

    #[test]
    fn some_workspaces_are_the_wanted_ones_and_then_the_first_by_name() {
        let name = |name: &str| Workspace::parse(&format!("a/b/{name}")).unwrap();
        let all = ["e", "b", "d", "a", "c"].into_iter().zip(1..).map(|(text, id)| (name(text), WorkspaceId(id)));
        let workspaces = Workspaces::new(all.collect());
        let some = |first: &[&str], most| -> Vec<String> {
            let first: Vec<_> = first.iter().map(|first| name(first)).collect();
            let some = workspaces.some(&first, most);
            some.iter().map(|(name, _)| name.as_str().trim_start_matches("a/b/").to_owned()).collect()
        };
        assert_eq!(some(&["d", "unborn", "b"], 4), ["d", "b", "a", "c"]);
        assert_eq!(some(&["d", "b"], 2), ["d", "b"]);
        assert_eq!(some(&["d", "b"], 1), ["d"]);
        assert_eq!(some(&[], 9), ["a", "b", "c", "d", "e"]);
        assert_eq!(some(&["c"], 0), [""; 0]);
        assert_eq!(workspaces.some(&[name("d")], 1)[0].1, WorkspaceId(3));
    }

    /// This is what the writer and the readers keep in memory for each workspace. By default there are at most 100,000
    /// workspaces.
    #[test]
    fn a_workspace_costs_less_than_200_bytes_of_memory() {
        let name = "acme-corporation/main-account/production-web"; // Longer than most.
        // A hash table that has just grown has room for twice its entries, and one more byte for each.
        let entry = 2 * (size_of::<(Workspace, WorkspaceId)>() + 1);
        let shared_name = 2 * size_of::<usize>() + name.len().next_multiple_of(8);
        let head = 2 * size_of::<Head>(); // A vector that has just grown has room for twice its entries.
        let cost = entry + shared_name + head;
        assert!(cost < 200, "{cost} bytes");
    }
}
