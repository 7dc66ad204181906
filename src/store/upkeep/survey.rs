//! Finds what there was to do when the store was opened: the next end of a membership in each workspace, and the
//! audiences with work to do. What comes later, the writer tells.
//!
//! Few rows are read at a time, on the read pool. A workspace that cannot be read is passed over, and reported.

use std::sync::Arc;

use super::super::error::StoreError;
use super::super::failures::Failures;
use super::super::read::{PageSize, ReadClass, Snapshot};
use super::super::{Store, WorkspaceId};
use super::{Due, REST};
use crate::model::workspace_page::WorkspacePage;
use crate::model::{AudienceId, Workspace};

/// The most workspaces of one read: it takes a few milliseconds.
const WORKSPACES: usize = 1_000;
/// The most audiences of each workspace in that read. The others are read apart.
const FEW: usize = 50;
/// The most audiences of another read.
const MANY: usize = 10_000;

/// Audiences that were not read yet: those of a workspace after this one.
#[derive(Debug, Clone)]
struct Rest {
    workspace: Workspace,
    id: WorkspaceId,
    after: AudienceId,
}

/// What a read has found.
#[derive(Debug, Default)]
struct Found {
    /// The last workspace that was read. `None` after the last of all.
    last: Option<Workspace>,
    rests: Vec<Rest>,
    damage: Option<StoreError>,
}

/// Reads until all is found, or the store ends.
pub(super) async fn run(store: Arc<Store>) {
    let mut failures = Failures::of("audiences and memberships that end were not all found");
    let mut page = WorkspacePage { prefix: String::new(), after: None };
    loop {
        let of = page.clone();
        let found = read(&store, &mut failures, move |store| read_page(store, &of)).await;
        let Some(Found { last, rests, .. }) = found else { return };
        for rest in rests {
            if read_rest(&store, &mut failures, rest).await.is_none() {
                return;
            }
        }
        if last.is_none() {
            return;
        }
        page.after = last;
    }
}

/// Reads all of the rest.
async fn read_rest(store: &Arc<Store>, failures: &mut Failures, rest: Rest) -> Option<()> {
    let mut next = Some(rest);
    while let Some(Rest { workspace, id, after }) = next {
        let look = move |store: &Store| {
            let mut found = Found::default();
            let works = look_for_works(store, &store.snapshot()?, (&workspace, id), Some(after), MANY);
            match works {
                Ok(rest) => found.rests.extend(rest),
                Err(error) => found.damage = Some(error),
            }
            Ok(found)
        };
        next = read(store, failures, look).await?.rests.pop();
    }
    Some(())
}

/// Runs a read, and again after a while if it fails. `None` if the store has ended.
async fn read(
    store: &Arc<Store>,
    failures: &mut Failures,
    read: impl Fn(&Store) -> Result<Found, StoreError> + Clone + Send + 'static,
) -> Option<Found> {
    loop {
        match store.on_read_pool(ReadClass::Status, None, read.clone()).await {
            Ok(found) => {
                found.damage.iter().for_each(|error| failures.add(error));
                return Some(found);
            }
            Err(StoreError::Closed | StoreError::Failed) => return None,
            Err(error) => failures.add(&error),
        }
        tokio::time::sleep(REST).await;
    }
}

/// Reads a page of workspaces.
fn read_page(store: &Store, page: &WorkspacePage) -> Result<Found, StoreError> {
    let snapshot = store.snapshot()?;
    let (mut found, size) = (Found::default(), PageSize { items: WORKSPACES, bytes: usize::MAX });
    let mut workspaces = Vec::new();
    found.last = snapshot.workspaces(page, size, |workspace, _| {
        workspaces.push(workspace.clone());
        1
    })?;
    for workspace in workspaces {
        let Some(id) = store.workspace_id(&workspace) else { continue }; // The writer tells of it.
        match look(store, &snapshot, (&workspace, id)) {
            Ok(rest) => found.rests.extend(rest),
            Err(error) => found.damage = Some(error),
        }
    }
    Ok(found)
}

/// Looks at a workspace. Returns what is left to read of it.
fn look(store: &Store, snapshot: &Snapshot, of: (&Workspace, WorkspaceId)) -> Result<Option<Rest>, StoreError> {
    let next_end = snapshot.next_end(of.1);
    if let Ok(Some(end)) = next_end {
        let (workspace, id) = (of.0.clone(), of.1);
        store.shared.agenda.add(Due { workspace, id, next_end: Some(end), works: Vec::new() });
    }
    let rest = look_for_works(store, snapshot, of, None, FEW);
    next_end.and(rest)
}

fn look_for_works(
    store: &Store,
    snapshot: &Snapshot,
    (workspace, id): (&Workspace, WorkspaceId),
    after: Option<AudienceId>,
    most: usize,
) -> Result<Option<Rest>, StoreError> {
    let (works, last) = snapshot.works(id, after, most)?;
    store.shared.agenda.add(Due { workspace: workspace.clone(), id, next_end: None, works });
    Ok(last.map(|after| Rest { workspace: workspace.clone(), id, after }))
}
