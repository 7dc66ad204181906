//! What a check has found.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::WorkspaceId;
use crate::model::{Mpid, Workspace};

/// How many of the rows that have a problem are named.
const FIRST: usize = 5;

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The rows of each table, by the table's name, as in [`BackupSummary`](super::super::BackupSummary).
    pub rows: Vec<(&'static str, u64)>,
    /// What is wrong. Empty if all is well.
    pub findings: Vec<Finding>,
}

/// A problem, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The problem, such as "identities whose profile is not in the index".
    pub what: String,
    /// How often it was found.
    pub count: u64,
    /// The first places: workspaces, mpids and sequences, but no value of a person.
    pub first: Vec<String>,
}

/// Collects problems, by what they are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: BTreeMap<Cow<'static, str>, (u64, Vec<String>)>,
    /// The names of the workspaces, by number from 1.
    names: Vec<Workspace>,
}

impl Problems {
    pub fn name(&mut self, names: Vec<Workspace>) {
        self.names = names;
    }

    /// Adds a problem of a place that is no profile or event.
    pub fn add(&mut self, what: impl Into<Cow<'static, str>>, place: impl FnOnce() -> String) {
        self.add_many(what, 1, place);
    }

    /// Adds a problem that several rows have, of which the place is the first.
    pub fn add_many(&mut self, what: impl Into<Cow<'static, str>>, count: u64, place: impl FnOnce() -> String) {
        let (found, first) = self.found.entry(what.into()).or_default();
        *found += count;
        if first.len() < FIRST {
            first.push(place());
        }
    }

    /// Adds a problem of a workspace.
    pub fn add_in(&mut self, what: &'static str, workspace: WorkspaceId) {
        let place = self.shown(workspace);
        self.add(what, || place);
    }

    /// Adds a problem of a profile.
    pub fn add_profile(&mut self, what: &'static str, workspace: WorkspaceId, mpid: Mpid) {
        let place = format!("{} mpid {mpid}", self.shown(workspace));
        self.add(what, || place);
    }

    /// Adds a problem of so many events, of which the sequence is the first.
    pub fn add_events(&mut self, what: &'static str, workspace: WorkspaceId, sequence: u64, count: u64) {
        let place = format!("{} sequence {sequence}", self.shown(workspace));
        self.add_many(what, count, || place);
    }

    /// The name of a workspace, or its number if it has none.
    pub fn shown(&self, workspace: WorkspaceId) -> String {
        let name = (workspace.0 as usize).checked_sub(1).and_then(|at| self.names.get(at));
        name.map_or_else(|| format!("workspace number {}", workspace.0), |name| name.as_str().to_owned())
    }

    pub fn findings(self) -> Vec<Finding> {
        let found = self.found.into_iter();
        found.map(|(what, (count, first))| Finding { what: what.into_owned(), count, first }).collect()
    }
}
