//! The callers file as it is changed: under a lock, checked as the server checks it, and replaced as a whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use crate::auth::callers::{Callers, FILE_BYTES};

/// Only its owner may read a new file.
const MODE: u32 = 0o600;

/// What the file says. An error names the file and the line, and nothing of what it says.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Callers::parse(&text).with_context(|| path.display().to_string())?;
    Ok(text)
}

/// Changes the file. One that does not exist is empty.
pub fn change(path: &Path, change: impl FnOnce(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let path = target(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    folder.lock().context("cannot lock the folder of the file")?; // The file itself is replaced.
    let before = if path.exists() { read(&path)? } else { String::new() };
    let after = change(&before)?;
    Callers::parse(&after).with_context(|| format!("{} would not be valid", path.display()))?;
    if after.len() as u64 > FILE_BYTES {
        bail!("{} would be larger than {} MiB: remove entries that were revoked", path.display(), FILE_BYTES >> 20);
    }
    replace(&path, &after).with_context(|| format!("cannot write {}", path.display()))?;
    folder.sync_all().context("cannot sync the folder of the file")
}

/// The file that a link leads to, so that the link stays.
fn target(path: &Path) -> anyhow::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        found => found.with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A reader sees the file before or after, and so does a machine that loses its power.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let name = path.file_name().ok_or_else(|| anyhow!("it names no file"))?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    let _ = std::fs::remove_file(&new); // Of a command that was killed: this one has the lock.
    let written = write(&new, path, text).and_then(|()| Ok(std::fs::rename(&new, path)?));
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
    })
}

/// The new file has the mode and the owner of the old one, or the server could no longer read it.
fn write(new: &Path, old: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(new)?;
    if let Ok(old) = std::fs::metadata(old) {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid())).context("run the command as the owner of the file")?;
        }
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str =
        "[[caller]]\nname = \"c\"\nroles = [\"reader\"]\nworkspaces = [\"*/*/*\"]\ncertificate = \"dns:c\"\n";

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callers.toml");
        change(&path, |before| Ok(format!("{before}# ours\n"))).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        change(&path, |before| Ok(format!("{before}{CALLER}"))).unwrap();
        assert_eq!((mode(&path), read(&path).unwrap()), (0o640, format!("# ours\n{CALLER}")));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, path) = (folder.path().join("link"), folder.path().join("callers.toml"));
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        change(&link, |_| Ok(CALLER.to_owned())).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), CALLER);
    }

    #[test]
    fn what_is_not_valid_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callers.toml");
        change(&path, |_| Ok(CALLER.to_owned())).unwrap();
        assert!(change(&path, |before| Ok(format!("{before}{CALLER}"))).is_err(), "the certificate stands twice");
        assert_eq!(read(&path).unwrap(), CALLER);
        std::fs::write(&path, "[[caller]]\nname = 'hunter2'").unwrap();
        let refused = format!("{:#}", change(&path, |_| Ok(String::new())).unwrap_err());
        assert!(refused.contains("callers.toml: line 1") && !refused.contains("hunter2"), "{refused}");
    }

    /// Each change sees the one before it.
    #[test]
    fn changes_at_the_same_time_do_not_lose_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callers.toml");
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| change(&path, |before| Ok(format!("{before}# one more\n"))).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().lines().count(), 16);
    }
}
