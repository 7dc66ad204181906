//! What the upkeep has to do.
//!
//! - Of each workspace in which a membership ends, the agenda has a time that is not after the next end. The time may be
//!   too early: a profile may have left since.
//! - It has every audience with work to do.
//! - This holds once the survey is over. What a commit adds, the writer adds after readers can see the commit. So what
//!   is taken from the agenda can be read, or is added again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::WorkspaceId;
use crate::model::{AudienceId, Micros, Workspace};

/// See the module. About 150 bytes for each workspace in which a membership ends.
#[derive(Debug, Default)]
pub(in crate::store) struct Agenda(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    ends: HashMap<WorkspaceId, (Micros, Workspace)>,
    /// The same in the order of the times.
    by_time: BTreeSet<(Micros, WorkspaceId)>,
    works: BTreeMap<WorkspaceId, (Workspace, BTreeSet<AudienceId>)>,
    /// The workspace whose audience was taken last.
    turn: Option<WorkspaceId>,
}

/// What a commit leaves to do in a workspace.
#[derive(Debug)]
pub(in crate::store) struct Due {
    pub workspace: Workspace,
    pub id: WorkspaceId,
    pub next_end: Option<Micros>,
    pub works: Vec<AudienceId>,
}

impl Agenda {
    pub fn add(&self, due: Due) {
        let Due { workspace, id, next_end, works } = due;
        let mut entries = self.entries();
        if let Some(end) = next_end {
            entries.add_end(&workspace, id, end);
        }
        if !works.is_empty() {
            let (_, of) = entries.works.entry(id).or_insert_with(|| (workspace, BTreeSet::new()));
            of.extend(works);
        }
    }

    /// Takes up to so many workspaces in which a membership may have ended, those first that have waited longest.
    pub fn take_ended(&self, now: Micros, most: usize) -> Vec<(WorkspaceId, Workspace)> {
        let mut entries = self.entries();
        let ended: Vec<_> = entries.by_time.iter().take_while(|(end, _)| *end <= now).take(most).copied().collect();
        let take = |due: (Micros, WorkspaceId)| {
            entries.by_time.remove(&due);
            entries.ends.remove(&due.1).map(|(_, workspace)| (due.1, workspace))
        };
        ended.into_iter().filter_map(take).collect()
    }

    /// Takes up to so many audiences with work to do, of workspaces in turn.
    pub fn take_works(&self, most: usize) -> Vec<(WorkspaceId, Workspace, AudienceId)> {
        let mut entries = self.entries();
        (0..most).map_while(|_| entries.take_work()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn add_end(&mut self, workspace: &Workspace, id: WorkspaceId, end: Micros) {
        if let Some((known, _)) = self.ends.get(&id) {
            if *known <= end {
                return;
            }
            self.by_time.remove(&(*known, id));
        }
        self.ends.insert(id, (end, workspace.clone()));
        self.by_time.insert((end, id));
    }

    fn take_work(&mut self) -> Option<(WorkspaceId, Workspace, AudienceId)> {
        let next = |id: &WorkspaceId| self.turn.is_none_or(|turn| *id > turn);
        let id = self.works.keys().find(|id| next(id)).or_else(|| self.works.keys().next()).copied()?;
        let (workspace, works) = self.works.get_mut(&id)?;
        let (workspace, audience) = (workspace.clone(), works.pop_first()?);
        if works.is_empty() {
            self.works.remove(&id);
        }
        self.turn = Some(id);
        Some((id, workspace, audience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(id: u32, next_end: Option<i64>, works: &[i64]) -> Due {
        let works = works.iter().map(|id| AudienceId::new(*id).unwrap()).collect();
        let workspace = Workspace::parse(&format!("a/b/{id}")).unwrap();
        Due { workspace, id: WorkspaceId(id), next_end: next_end.map(Micros::new), works }
    }

    fn ended(agenda: &Agenda, now: i64, most: usize) -> Vec<u32> {
        agenda.take_ended(Micros::new(now), most).into_iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn a_workspace_is_taken_once_at_its_earliest_end() {
        let agenda = Agenda::default();
        for (id, end) in [(1, 50), (1, 30), (1, 40), (2, 20), (3, 60)] {
            agenda.add(due(id, Some(end), &[]));
        }
        assert_eq!(ended(&agenda, 19, 9), [0; 0]);
        assert_eq!(ended(&agenda, 30, 9), [2, 1], "in the order of the ends, and at the very microsecond");
        assert_eq!(ended(&agenda, 59, 9), [0; 0]);
        agenda.add(due(1, Some(55), &[]));
        assert_eq!(ended(&agenda, 99, 1), [1], "no more than were asked for");
        assert_eq!(ended(&agenda, 99, 9), [3]);
        assert!(agenda.entries().ends.is_empty() && agenda.entries().by_time.is_empty());
    }

    #[test]
    fn the_audiences_of_workspaces_are_taken_in_turn() {
        let agenda = Agenda::default();
        agenda.add(due(1, None, &[7, 5, 6]));
        agenda.add(due(2, None, &[5, 5]));
        let take = |most| -> Vec<_> {
            agenda.take_works(most).into_iter().map(|(id, _, audience)| (id.0, audience.get())).collect()
        };
        assert_eq!(take(3), [(1, 5), (2, 5), (1, 6)]);
        agenda.add(due(2, None, &[5]));
        assert_eq!(take(9), [(2, 5), (1, 7)], "the other workspace comes first");
        assert!(agenda.entries().works.is_empty());
    }
}
