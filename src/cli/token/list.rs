//! `cameo token list`.

use std::io::Write;
use std::time::SystemTime;

use clap::Args;

use super::{CallersFile, file};
use crate::auth::callers::{self, Entry};

const HEAD: [&str; 6] = ["ID", "NAME", "ROLES", "WORKSPACES", "EXPIRES", "STATE"];

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    file: CallersFile,
}

pub fn run(list: &List) -> anyhow::Result<()> {
    let (text, now) = (file::read(&list.file.path)?, SystemTime::now());
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(callers::entries(&text)?.iter().map(|entry| row(entry, now)));
    let _ = std::io::stdout().write_all(aligned(&rows).as_bytes()); // It may be closed.
    Ok(())
}

fn row(entry: &Entry, now: SystemTime) -> [String; 6] {
    let id = entry.id.as_ref().or(entry.certificate.as_ref()).cloned().unwrap_or_default();
    let expires = entry.expires.map_or("never".to_owned(), |expires| expires.to_string());
    let state = state(entry, now).to_owned();
    [id, entry.name.clone(), entry.roles.join(","), entry.workspaces.join(","), expires, state]
}

fn state(entry: &Entry, now: SystemTime) -> &'static str {
    let is_expired = entry.expires().ok().flatten().is_some_and(|expires| expires <= now);
    match (entry.revoked, is_expired) {
        (Some(_), _) => "revoked",
        (None, true) => "expired",
        (None, false) => "active",
    }
}

/// Columns that are as wide as their widest cell.
fn aligned(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
