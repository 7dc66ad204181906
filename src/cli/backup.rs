//! `cameo backup`: of an open store through its server, and of a closed one by itself.
//!
//! The file has another name until it is whole, verified and on disk. So a file with the name that was asked for is a
//! backup.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use ring::digest;
use tonic::{Code, Status};

use super::connect::Connect;
use super::print;
use super::progress::{Progress, percent};
use crate::config::StoreConfig;
use crate::config::units::{self, Address};
use crate::proto::v1::BackupRequest;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::server::{BackupProgress, BackupSummary, backup_offline, verify_backup};

/// Memory for pages of the store. Each is read once.
const CACHE_BYTES: usize = 64 << 20;
/// A backup holds personal data, so only the user that makes it has access.
const FILE_MODE: u32 = 0o600;
/// The bytes after which the file is synced. If the store is on the same disk, its commits wait for such a sync: a few
/// milliseconds, where that of a whole file would take half a second.
const SYNC_BYTES: u64 = 4 << 20;
/// What a file is called besides its name until it is a whole backup.
const UNFINISHED: &str = ".partial";

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File to write, which must not exist. It is called `FILE.partial` until it is whole.
    #[arg(long, env = "CAMEO_TO", value_name = "FILE")]
    to: PathBuf,
    /// Directory of the store, which no server may have open. It is not used with `--server`.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value = "cameo-data")]
    data_dir: PathBuf,
    /// Address of the server that has the store open, such as `127.0.0.1:50051`. It serves reads and writes meanwhile.
    #[arg(long, env = "CAMEO_SERVER", value_name = "ADDR", value_parser = units::address)]
    server: Option<Address>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) fn run(backup: &Backup) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut file = Unfinished::create(&backup.to)?;
    match &backup.server {
        Some(addr) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(online(addr, &backup.connect, &mut file))?;
        }
        None => offline(&backup.data_dir, &mut file)?,
    }
    let (bytes, summary) = file.finish()?;
    let of = backup.server.as_ref().map_or_else(|| backup.data_dir.display().to_string(), ToString::to_string);
    summarize(&of, &backup.to, bytes, &summary, begun);
    Ok(())
}

fn offline(directory: &Path, file: &mut Unfinished) -> anyhow::Result<()> {
    let config = StoreConfig { data_dir: directory.to_owned(), cache_bytes: CACHE_BYTES, ..StoreConfig::default() };
    let mut progress = Progress::new();
    backup_offline(&config, file, |BackupProgress { rows, rows_expected }| {
        progress.show(|| format!("{} % of {rows_expected} rows", percent(rows, rows_expected)));
    })?;
    Ok(())
}

async fn online(addr: &Address, connect: &Connect, file: &mut Unfinished) -> anyhow::Result<()> {
    let mut client = AdminServiceClient::new(connect.connect(addr, "--server").await?);
    let refused = |status: Status| refusal(addr, &status);
    let mut pieces = client.backup(BackupRequest {}).await.map_err(refused)?.into_inner();
    let mut progress = Progress::new();
    while let Some(piece) = pieces.message().await.map_err(refused)? {
        file.write_all(&piece.data).context("the backup cannot be written")?;
        let done = percent(piece.rows, piece.rows_expected);
        progress.show(|| format!("{done} % of {} rows, {}", piece.rows_expected, units::shown(file.bytes)));
    }
    Ok(())
}

fn summarize(of: &str, to: &Path, (bytes, sha256): (u64, digest::Digest), summary: &BackupSummary, begun: Instant) {
    let (bytes, seconds) = (units::shown(bytes), begun.elapsed().as_secs_f64());
    let BackupSummary { rows, time, .. } = summary;
    print::line(format_args!("Backed up the store of {of} to {} in {seconds:.1} s.", to.display()));
    print::line(format_args!("It holds {rows} rows in {bytes}, as of {}.", time.to_timestamp()));
    print::line(format_args!("SHA-256: {}", shown(sha256)));
}

/// As `sha256sum` writes it.
fn shown(sha256: digest::Digest) -> String {
    sha256.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // A string takes everything.
        text
    })
}

fn refusal(addr: &Address, status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow!("{addr} does not serve backups: it is not cameo, or an older version"),
        code => anyhow!("{addr} did not back its store up: {}: {}", code.description(), status.message()),
    }
}

/// A backup that is being written. Its file is removed unless it becomes whole.
struct Unfinished {
    /// The name that it gets.
    place: PathBuf,
    path: PathBuf,
    writer: BufWriter<File>,
    bytes: u64,
    /// How many of them are on disk.
    synced: u64,
    sha256: digest::Context,
    is_placed: bool,
}

impl Unfinished {
    fn create(place: &Path) -> anyhow::Result<Self> {
        check_absent(place)?;
        let mut path = place.to_owned().into_os_string();
        path.push(UNFINISHED);
        let path = PathBuf::from(path);
        remove_stale(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        file.try_lock().map_err(|_| in_use(&path))?;
        let (place, writer) = (place.to_owned(), BufWriter::new(file));
        let sha256 = digest::Context::new(&digest::SHA256);
        Ok(Self { place, path, writer, bytes: 0, synced: 0, sha256, is_placed: false })
    }

    /// Reads the file back, verifies that it is a whole backup, and gives it its name. Returns its size and checksum.
    fn finish(mut self) -> anyhow::Result<((u64, digest::Digest), BackupSummary)> {
        let of_file = || format!("cannot write {}", self.path.display());
        self.writer.flush().and_then(|()| self.writer.get_ref().sync_all()).with_context(of_file)?;
        let written = File::open(&self.path).with_context(of_file)?;
        let summary = verify_backup(BufReader::new(written)).context("the backup that was written cannot be used")?;
        check_absent(&self.place)?;
        fs::rename(&self.path, &self.place).with_context(of_file)?;
        self.is_placed = true;
        let directory = self.place.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())?;
        Ok(((self.bytes, self.sha256.clone().finish()), summary))
    }
}

/// Removes what a backup left that was interrupted. Others may be able to write to the directory, so the file is not used
/// again, and a link is not followed.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    if !found.is_file() {
        let what = if found.is_symlink() { "a symbolic link" } else { "not a regular file" };
        bail!("{} is {what}, so no backup has left it: remove it, or choose another --to", path.display());
    }
    let stale = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    stale.try_lock().map_err(|_| in_use(path))?;
    // Until the lock was taken, another command may have put its own file there.
    let [locked, there] = [stale.metadata()?, fs::symlink_metadata(path)?];
    if (locked.dev(), locked.ino()) != (there.dev(), there.ino()) {
        return Err(in_use(path));
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn in_use(path: &Path) -> anyhow::Error {
    anyhow!("another command is writing {}", path.display())
}

fn check_absent(file: &Path) -> anyhow::Result<()> {
    if file.try_exists()? {
        bail!("{} exists: choose another --to, or move it away", file.display());
    }
    Ok(())
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.writer.flush()?;
            self.writer.get_ref().sync_data()?;
            self.synced = self.bytes;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.path); // What stays is replaced by the next backup.
        }
    }
}
