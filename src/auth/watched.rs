//! A file that is read again when it changes. What it said before stays in force until it says something valid.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::watch::{self, Unreadable};

/// Why a file cannot be used. It holds nothing of what the file says.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It does not exist, or may not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is not UTF-8, or not what it should be.
    #[error("{path}: {problem}")]
    Content { path: PathBuf, problem: String },
}

/// A file, and what it says.
pub struct Watched<T> {
    path: PathBuf,
    most_bytes: u64,
    parse: fn(&[u8]) -> Result<T, String>,
    /// What becomes of the old content, given the new.
    succeed: fn(&mut T, &T),
    /// Of the content, or of the error, that was seen last.
    seen: Mutex<u64>,
    current: ArcSwap<T>,
}

impl<T> Watched<T> {
    /// Reads a file. `succeed` prepares new content to replace the old.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be read, or is larger than `most_bytes`, or `parse` refuses it.
    pub fn open(
        path: &Path,
        most_bytes: u64,
        parse: fn(&[u8]) -> Result<T, String>,
        succeed: fn(&mut T, &T),
    ) -> Result<Self, FileError> {
        let contents = watch::read(path, most_bytes).map(|content| vec![content]);
        let seen = Mutex::new(watch::hash_of(&contents));
        let current = parse(&contents?[0]).map_err(|problem| FileError::Content { path: path.to_owned(), problem })?;
        Ok(Self { path: path.to_owned(), most_bytes, parse, succeed, seen, current: ArcSwap::from_pointee(current) })
    }

    /// What the file said when it was valid last.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Reads the file again. `None` if it is as it was, also if it is as wrong as it was. Its content tells a change
    /// more reliably than its time does.
    ///
    /// # Errors
    /// [`FileError`] as when it was opened. Then what it said before stays in force.
    pub fn reload(&self) -> Option<Result<(), FileError>> {
        let contents = watch::read(&self.path, self.most_bytes).map(|content| vec![content]);
        let hash = watch::hash_of(&contents);
        if std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), hash) == hash {
            return None;
        }
        Some(contents.map_err(FileError::from).and_then(|contents| self.replace(&contents[0])))
    }

    fn replace(&self, content: &[u8]) -> Result<(), FileError> {
        let problem = |problem| FileError::Content { path: self.path.clone(), problem };
        let mut new = (self.parse)(content).map_err(problem)?;
        (self.succeed)(&mut new, &self.current());
        self.current.store(Arc::new(new));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(content: &[u8]) -> Result<u32, String> {
        str::from_utf8(content).ok().and_then(|text| text.parse().ok()).ok_or_else(|| "no number".to_owned())
    }

    #[test]
    fn a_change_is_seen_once_and_what_is_wrong_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "1").unwrap();
        let watched = Watched::open(file.path(), 3, number, |_, _| ()).unwrap();
        assert!(watched.reload().is_none());
        std::fs::write(&file, "2").unwrap();
        assert!(watched.reload().unwrap().is_ok() && watched.reload().is_none());
        for wrong in ["x", "1000"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(watched.reload().unwrap().is_err() && watched.reload().is_none(), "{wrong}");
            assert_eq!(*watched.current(), 2);
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(watched.reload(), Some(Err(FileError::Unreadable(_)))) && watched.reload().is_none());
        assert_eq!(*watched.current(), 2);
        std::fs::write(&file, "2").unwrap();
        assert!(watched.reload().unwrap().is_ok(), "it is back");
    }

    #[test]
    fn a_file_must_exist_and_be_small_and_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        assert!(Watched::open(&path, 3, number, |_, _| ()).is_err());
        assert!(Watched::open(folder.path(), 3, number, |_, _| ()).is_err());
        for (content, is_good) in [("123", true), ("0001", false), ("x", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Watched::open(&path, 3, number, |_, _| ()).is_ok(), is_good, "{content}");
        }
    }
}
