//! `cameo token revoke`.

use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use toml_edit::DocumentMut;

use super::create::time;
use super::{CallersFile, file};
use crate::auth::callers::{self, Entry};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["id", "name"])))]
pub struct Revoke {
    #[command(flatten)]
    file: CallersFile,
    /// Id of the token, which is also the part of the token between its underscores. For a certificate, its name.
    #[arg(long)]
    id: Option<String>,
    /// Name of the caller: all of its tokens and certificates are revoked.
    #[arg(long)]
    name: Option<String>,
}

pub fn run(revoke: &Revoke) -> anyhow::Result<()> {
    let mut revoked = 0;
    file::change(&revoke.file.path, |before| {
        let after = revoke.applied(before, SystemTime::now())?;
        revoked = after.1;
        Ok(after.0)
    })?;
    match revoked {
        0 => eprintln!("It was revoked before. Nothing has changed."),
        1 => eprintln!("Revoked 1 credential. A running server refuses it within seconds."),
        _ => eprintln!("Revoked {revoked} credentials. A running server refuses them within seconds."),
    }
    Ok(())
}

impl Revoke {
    /// The file with the entries marked, and how many they are.
    fn applied(&self, before: &str, now: SystemTime) -> anyhow::Result<(String, usize)> {
        let entries = callers::entries(before)?;
        let of_caller: Vec<_> = entries.iter().enumerate().filter(|(_, entry)| self.names(entry)).collect();
        if of_caller.is_empty() {
            bail!("no caller of the file has this id or name: `cameo token list` lists them");
        }
        let valid: Vec<_> = of_caller.iter().filter(|(_, entry)| entry.revoked.is_none()).map(|(at, _)| *at).collect();
        let mut document: DocumentMut = before.parse()?;
        for at in &valid {
            let tables = document.get_mut("caller").and_then(|callers| callers.as_array_of_tables_mut());
            let entry = tables.and_then(|tables| tables.get_mut(*at)).context("write callers as [[caller]] tables")?;
            entry["revoked"] = time(now)?;
        }
        Ok((document.to_string(), valid.len()))
    }

    fn names(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, has: Option<&String>| wanted.is_some() && wanted.as_ref() == has;
        is(&self.id, entry.id.as_ref()) || is(&self.id, entry.certificate.as_ref()) || is(&self.name, Some(&entry.name))
    }
}
