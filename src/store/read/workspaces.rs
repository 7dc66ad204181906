//! The list of workspaces.

use std::ops::Bound;

use super::super::error::StoreError;
use super::super::rows::{Kind, WorkspaceRow};
use super::super::tables::{self, guarded};
use super::page::{Budget, PageSize};
use super::{LogBounds, Snapshot};
use crate::model::Workspace;
use crate::model::workspace_page::WorkspacePage;

impl Snapshot {
    /// Calls `take` with the workspaces of a page, by name, and with the ends of their logs. `take` returns how many
    /// bytes it delivers. Returns the last workspace if there are more.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the row of a workspace or the ends of its log are damaged. The server does not start
    /// on such a store, so there is no way to continue past it.
    pub fn workspaces(
        &self,
        page: &WorkspacePage,
        size: PageSize,
        mut take: impl FnMut(&Workspace, LogBounds) -> usize,
    ) -> Result<Option<Workspace>, StoreError> {
        guarded(Kind::Workspace, || {
            let mut budget = Budget::new(size);
            let mut last = None;
            let start = match &page.after {
                Some(after) => Bound::Excluded(after.as_str().as_bytes()),
                None => Bound::Included(page.prefix.as_bytes()),
            };
            for row in self.0.workspaces.range::<&[u8]>((start, Bound::Unbounded))? {
                let (name, row) = row?;
                if !name.value().starts_with(page.prefix.as_bytes()) {
                    return Ok(None);
                }
                if !budget.take_row() {
                    return Ok(last);
                }
                let id = WorkspaceRow::read(name.value(), row.value())?;
                let workspace = std::str::from_utf8(name.value()).ok().and_then(|name| Workspace::parse(name).ok());
                let workspace = workspace.ok_or(Kind::Workspace.corrupt())?;
                let bounds = tables::head(&self.0.heads, id)?.into();
                budget.deliver(Some(take(&workspace, bounds)));
                last = Some(workspace);
            }
            Ok(None)
        })
    }
}
