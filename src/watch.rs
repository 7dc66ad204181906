//! Files that the server reads again when they change: certificates, callers, keys.
//!
//! Their contents are read and compared, not their times: a content tells a change reliably, also behind the symbolic
//! links by which Kubernetes replaces secrets. What is returned is what was compared, so nothing is read twice.

use std::hash::Hasher;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

/// How often the files are read.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// The largest of several files that are read together.
const LARGEST: u64 = 16 << 20;

/// What the files hold, in the order of their paths.
pub type Contents = Vec<Vec<u8>>;

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {cause}", path = path.display())]
pub struct Unreadable {
    /// Its path.
    pub path: PathBuf,
    cause: io::Error,
}

/// Files that belong together, such as a certificate and its key.
#[derive(Debug)]
pub struct Files {
    paths: Arc<[PathBuf]>,
    /// A hash of what was last returned.
    seen: u64,
}

impl Files {
    /// The files, and what they hold now.
    ///
    /// # Errors
    /// [`Unreadable`] for the first file that cannot be read.
    pub async fn read(paths: Vec<PathBuf>) -> Result<(Self, Contents), Unreadable> {
        let paths = Arc::from(paths);
        let contents = read_all(Arc::clone(&paths)).await;
        Ok((Self { seen: hash_of(&contents), paths }, contents?))
    }

    /// Waits until the files hold something else than what was last returned, and returns it. An error is also returned
    /// only once, until it is another one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Unreadable`] if a file cannot be read.
    pub async fn changed(&mut self) -> Result<Contents, Unreadable> {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let contents = read_all(Arc::clone(&self.paths)).await;
            let hash = hash_of(&contents);
            if hash != self.seen {
                self.seen = hash;
                return contents;
            }
        }
    }
}

/// Reads the files outside the runtime's workers: a disk may hang.
async fn read_all(paths: Arc<[PathBuf]>) -> Result<Contents, Unreadable> {
    let all = Arc::clone(&paths);
    let read = tokio::task::spawn_blocking(move || all.iter().map(|path| read(path, LARGEST)).collect());
    read.await.unwrap_or_else(|ended| {
        let path = paths.first().cloned().unwrap_or_default();
        Err(Unreadable { path, cause: io::Error::other(ended) }) // The runtime is shutting down.
    })
}

/// Reads a file that has at most so many bytes. A pipe or a device is refused: to read it may take forever.
///
/// # Errors
/// [`Unreadable`].
pub fn read(path: &Path, largest: u64) -> Result<Vec<u8>, Unreadable> {
    let unreadable = |cause| Unreadable { path: path.to_owned(), cause };
    let other = |problem: &str| unreadable(io::Error::other(problem));
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(other("it is not a file"));
    }
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(largest + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > largest {
        return Err(other(&format!("it is larger than {} MiB", largest >> 20)));
    }
    Ok(content)
}

/// A hash that tells contents apart, and errors too. The lengths tell where a file ends.
#[must_use]
pub fn hash_of(contents: &Result<Contents, Unreadable>) -> u64 {
    let mut hasher = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    };
    match contents {
        Ok(contents) => contents.iter().for_each(|content| add(content)),
        Err(unreadable) => add(unreadable.to_string().as_bytes()),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    async fn two_files() -> (TempDir, [PathBuf; 2], Files) {
        let dir = TempDir::new().unwrap();
        let paths = ["one", "two"].map(|name| dir.path().join(name));
        fs::write(&paths[0], "1").unwrap();
        fs::write(&paths[1], "2").unwrap();
        let (files, contents) = Files::read(paths.to_vec()).await.unwrap();
        assert_eq!(contents, [b"1", b"2"]);
        (dir, paths, files)
    }

    async fn assert_unchanged(files: &mut Files) {
        assert!(timeout(10 * INTERVAL, files.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_any_file_is_returned_once() {
        let (_dir, paths, mut files) = two_files().await;
        assert_unchanged(&mut files).await;
        fs::write(&paths[1], "3").unwrap();
        assert_eq!(files.changed().await.unwrap(), [b"1", b"3"]);
        assert_unchanged(&mut files).await;
        fs::write(&paths[1], "3").unwrap(); // A newer file with the same content.
        assert_unchanged(&mut files).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_that_moves_from_one_file_to_the_other_is_a_change() {
        let (_dir, paths, mut files) = two_files().await;
        fs::write(&paths[0], "12").unwrap();
        fs::write(&paths[1], "").unwrap();
        assert_eq!(files.changed().await.unwrap(), [&b"12"[..], b""]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_is_told_once_and_so_is_its_return() {
        let (_dir, paths, mut files) = two_files().await;
        fs::remove_file(&paths[0]).unwrap();
        assert_eq!(files.changed().await.unwrap_err().path, paths[0]);
        assert_unchanged(&mut files).await;
        fs::write(&paths[0], "1").unwrap();
        assert_eq!(files.changed().await.unwrap(), [b"1", b"2"]);
    }

    #[test]
    fn only_a_file_is_read() {
        let dir = TempDir::new().unwrap();
        assert!(read(dir.path(), 3).unwrap_err().to_string().contains("it is not a file"));
        assert!(read(Path::new("/dev/null"), 3).unwrap_err().to_string().contains("it is not a file"));
        let path = dir.path().join("file");
        fs::write(&path, "123").unwrap();
        assert!(read(&path, 3).is_ok() && read(&path, 2).is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_not_read() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("large");
        fs::File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        let refused = Files::read(vec![path]).await.unwrap_err();
        assert!(refused.to_string().contains("larger than 16 MiB"), "{refused}");
    }
}
