//! Backups, end to end: `cameo backup` beside writers, `cameo restore` and `cameo check`.
//!
//! - [`after_restore`]: what subscribers see of a restore.

mod after_restore;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cameo::proto::v1::*;
use proptest::prelude::*;
use tempfile::TempDir;
use tonic::{Code, Status, Streaming};

use crate::harness::*;
use after_restore::{Lost, a_restored_store, events_of, messages_from};

/// Paths of a test: the store's directory, the backup, and the directory that it is restored into.
struct Paths {
    _dir: TempDir,
    data: PathBuf,
    file: PathBuf,
    restored: PathBuf,
}

impl Paths {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let [data, file, restored] = ["data", "backup", "restored"].map(|name| dir.path().join(name));
        Self { _dir: dir, data, file, restored }
    }
}

/// Runs `cameo` with these arguments.
async fn cameo<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Output {
    output(binary().args(args)).await
}

/// Runs `cameo` with these arguments, which succeeds. Returns what it prints.
async fn succeed<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> String {
    let output = cameo(args).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit status, and what was printed.
fn told(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn back_up(process: &TestProcess, to: &Path) -> String {
    succeed(["backup", "--server", &process.addr.to_string(), "--to", shown(to)]).await
}

async fn restore(from: &Path, directory: &Path) -> String {
    succeed(["restore", "--from", shown(from), "--data-dir", shown(directory)]).await
}

async fn check(directory: &Path) -> Output {
    cameo(["check", "--data-dir", shown(directory)]).await
}

async fn check_backup(file: &Path) -> Output {
    cameo(["check", "--backup", shown(file)]).await
}

/// The profiles that the events up to one make.
fn folded(log: &[Event], through: u64) -> Vec<Profile> {
    let mut profiles = BTreeMap::new();
    for event in log.iter().filter(|event| event.sequence <= through) {
        match &event.profile {
            Some(profile) => profiles.insert(event.mpid, profile.clone()),
            None => profiles.remove(&event.mpid),
        };
    }
    profiles.into_values().collect()
}

/// Reads a backup until it fails.
async fn failure_of(pieces: &mut Streaming<BackupResponse>) -> Status {
    within(async {
        loop {
            match pieces.message().await {
                Ok(piece) => assert!(piece.is_some(), "it ended with OK"),
                Err(status) => return status,
            }
        }
    })
    .await
}

async fn head(client: &Client) -> u64 {
    client.status(WORKSPACE).await.unwrap().log.unwrap().head_sequence
}

/// Eight writers create, change and delete profiles until `is_over`.
async fn keep_writing(client: &Client, is_over: &AtomicBool, written: &AtomicU64) {
    let write = async |first: i64| {
        let mut round = 0;
        while !is_over.load(Ordering::Relaxed) {
            round += 1;
            let mpid = first + round % 50;
            if round % 7 == 0 {
                drop(client.delete(mpid).await); // It may be deleted already.
            } else {
                client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
            }
            written.fetch_add(1, Ordering::Relaxed);
        }
    };
    futures_util::future::join_all((0..8).map(|writer| write(1 + 50 * writer))).await;
}

/// A backup amid writes is what a subscriber's fold of the log makes at one place: no write before that is missing, and
/// none after it is there. A subscriber that has seen less goes on after the restore, and one that has seen more is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_amid_writes_is_the_store_at_one_place_of_its_log() {
    let paths = Paths::new();
    let process = TestProcess::start(&paths.data, &[]).await;
    let client = process.client().await;
    let imports = (1..=400).map(|mpid| record(by_mpid(mpid), set([("pad", text(&"p".repeat(5_000)))])));
    client.import(imports.collect()).await.unwrap();
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let ((seen, before, after), ()) = tokio::join!(
        async {
            until(|| written.load(Ordering::Relaxed) >= 100).await;
            let seen = events_of(&messages_from(&client, earliest()).await.unwrap()).pop().unwrap();
            let before = head(&client).await;
            let told = back_up(&process, &paths.file).await;
            assert!(told.contains("SHA-256: ") && told.contains(" rows in "), "{told}");
            let after = head(&client).await;
            let more = written.load(Ordering::Relaxed) + 100;
            until(|| written.load(Ordering::Relaxed) >= more).await;
            is_over.store(true, Ordering::Relaxed);
            (seen, before, after)
        },
        keep_writing(&client, &is_over, &written),
    );
    let log = client.log().await;
    let (later, _) = events_of(&messages_from(&client, earliest()).await.unwrap()).pop().unwrap();

    restore(&paths.file, &paths.restored).await;

    for checked in [check(&paths.restored).await, check_backup(&paths.file).await] {
        let (status, text) = told(&checked);
        assert!(status == 0 && text.contains("Nothing is wrong."), "{text}");
    }
    let restored = TestProcess::start(&paths.restored, &[]).await;
    let reader = restored.client().await;
    let place = head(&reader).await;
    assert!((before..=after).contains(&place) && place < log.len() as u64, "{before} {place} {after} {}", log.len());
    assert!(place > before, "others wrote during the backup");
    assert!(reader.all_profiles(100).await == folded(&log, place));
    assert!(reader.log().await[..] == log[..usize::try_from(place).unwrap()]);
    let (cursor, last) = seen;
    let rest = messages_from(&reader, crate::harness::after(&cursor)).await.unwrap();
    let rest: Vec<_> = events_of(&rest).into_iter().map(|(_, event)| event).collect();
    assert!(rest[..] == log[usize::try_from(last.sequence).unwrap()..usize::try_from(place).unwrap()]);
    let lost = messages_from(&reader, crate::harness::after(&later)).await;
    assert_refused(lost, Code::FailedPrecondition, "CURSOR_FOREIGN", "");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(
        [mode(&paths.file), mode(&paths.restored), mode(&paths.restored.join(STORE_FILE))],
        [0o600, 0o700, 0o600]
    );
}

/// As with `cameo check | head -1`: a script looks at the status.
#[tokio::test]
async fn a_check_whose_output_nobody_reads_has_its_status() {
    let paths = Paths::new();
    let mut server = TestProcess::start(&paths.data, &[]).await;
    server.terminate();
    assert!(server.ended().await.success());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = binary();
    command.args(["check", "--data-dir", shown(&paths.data)]).stdout(writer);
    assert!(within(command.status()).await.unwrap().success());
}

/// A restore adds a row, which remembers the former log.
#[tokio::test]
async fn a_backup_a_restore_and_a_check_count_the_same_rows() {
    let paths = Paths::new();
    let mut process = TestProcess::start(&paths.data, &[]).await;
    process.client().await.create(owner_of(email("ada"), ADA)).await.unwrap();
    process.kill().await;
    let rows_after = |text: &str, words: &str| -> u64 {
        let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("{text}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let backup = ["backup", "--data-dir", shown(&paths.data), "--to", shown(&paths.file)];
    let rows = rows_after(&succeed(backup).await, "It holds ");
    assert_eq!(rows, 5, "a workspace, its head, a profile, an identity and an event");
    assert_eq!(rows_after(&restore(&paths.file, &paths.restored).await, "Restored "), rows);
    for checked in [check(&paths.data).await, check(&paths.restored).await, check_backup(&paths.file).await] {
        assert_eq!(rows_after(&told(&checked).1, "Rows: "), rows);
    }
}

/// Others may be able to write to the directory of the backup.
#[tokio::test]
async fn what_others_put_in_the_place_of_an_unfinished_backup_is_not_written_to() {
    let paths = Paths::new();
    TestProcess::start(&paths.data, &[]).await.kill().await;
    let offline = ["backup", "--data-dir", shown(&paths.data), "--to", shown(&paths.file)];
    let partial = paths.file.with_extension("partial");
    let victim = paths.file.with_file_name("victim");
    fs::write(&victim, "precious").unwrap();

    std::os::unix::fs::symlink(&victim, &partial).unwrap();
    let (status, text) = told(&cameo(offline).await);
    assert!(status == 1 && text.contains("is a symbolic link") && text.contains("remove it"), "{text}");
    fs::remove_file(&partial).unwrap();
    fs::create_dir(&partial).unwrap();
    let (status, text) = told(&cameo(offline).await);
    assert!(status == 1 && text.contains("is not a regular file"), "{text}");
    fs::remove_dir(&partial).unwrap();
    fs::hard_link(&victim, &partial).unwrap();
    succeed(offline).await;

    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!partial.exists() && fs::metadata(&paths.file).unwrap().nlink() == 1);
}

#[tokio::test]
async fn an_empty_directory_that_a_store_is_restored_into_is_closed_to_others() {
    let paths = Paths::new();
    TestProcess::start(&paths.data, &[]).await.kill().await;
    succeed(["backup", "--data-dir", shown(&paths.data), "--to", shown(&paths.file)]).await;
    fs::create_dir(&paths.restored).unwrap();
    fs::set_permissions(&paths.restored, fs::Permissions::from_mode(0o755)).unwrap();
    restore(&paths.file, &paths.restored).await;
    assert_eq!(fs::metadata(&paths.restored).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_stopped_store_is_backed_up_from_its_directory() {
    let paths = Paths::new();
    let offline = ["backup", "--data-dir", shown(&paths.data), "--to", shown(&paths.file)];
    let (status, text) = told(&cameo(offline).await);
    assert!(status == 1 && text.contains("there is no store in"), "{text}");
    let mut process = TestProcess::start(&paths.data, &[]).await;
    process.client().await.create(with_mpid(ADA)).await.unwrap();
    let (status, text) = told(&cameo(offline).await);
    assert!(status == 1 && text.contains("back it up with --server"), "{text}");
    process.kill().await;
    let partial = paths.file.with_extension("partial");
    fs::write(&partial, "what an interrupted backup left").unwrap();

    let text = succeed(offline).await;

    assert!(text.starts_with("Backed up the store of "), "{text}");
    assert!(!partial.exists());
    assert_eq!(fs::metadata(&paths.file).unwrap().mode() & 0o777, 0o600);
    let sum =
        String::from_utf8(output(tokio::process::Command::new("sha256sum").arg(&paths.file)).await.stdout).unwrap();
    assert!(text.contains(&format!("SHA-256: {}\n", sum.split(' ').next().unwrap())), "{text} {sum}");
    let before = fs::read(&paths.file).unwrap();
    let (status, text) = told(&cameo(offline).await);
    assert!(status == 1 && text.contains("exists"), "{text}");
    assert!(fs::read(&paths.file).unwrap() == before, "a backup is never overwritten");
    restore(&paths.file, &paths.restored).await;
    let restored = TestProcess::start(&paths.restored, &[]).await;
    restored.client().await.get(ADA).await.unwrap();
}

#[tokio::test]
async fn a_backup_is_restored_only_into_an_empty_directory() {
    let Lost { paths, mut server, .. } = a_restored_store().await;
    let refused =
        async || told(&cameo(["restore", "--from", shown(&paths.file), "--data-dir", shown(&paths.restored)]).await);
    let (status, text) = refused().await;
    assert!(status == 1 && text.contains("is not empty"), "{text}");
    server.client().await.get(1).await.unwrap();
    server.kill().await;
    let before = fs::read(paths.restored.join(STORE_FILE)).unwrap();
    assert_eq!(refused().await.0, 1);
    assert!(fs::read(paths.restored.join(STORE_FILE)).unwrap() == before);
}

/// The restore is killed in the middle: it reads from a pipe that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_leaves_no_store_and_the_next_one_makes_it() {
    let Lost { paths, .. } = a_restored_store().await;
    let pipe = paths.file.with_extension("pipe");
    assert!(output(tokio::process::Command::new("mkfifo").arg(&pipe)).await.status.success());
    let directory = paths.restored.with_extension("again");
    let mut command = binary();
    command.args(["restore", "--from", shown(&pipe), "--data-dir", shown(&directory)]);
    let mut restoring = command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let backup = fs::read(&paths.file).unwrap();
    let half = backup[..backup.len() / 2].to_vec();
    let held = tokio::task::spawn_blocking(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
        pipe.write_all(&half).unwrap();
        pipe
    });
    let held = within(held).await.unwrap();
    let unfinished = directory.join("cameo.redb.restore");
    until(|| unfinished.exists()).await;

    within(restoring.kill()).await.unwrap();

    drop(held);
    assert!(!directory.join("cameo.redb").exists());
    let refused = cameo(["serve", "--addr", "127.0.0.1:0", "--data-dir", shown(&directory)]).await;
    let (status, text) = told(&refused);
    assert!(status == 1 && text.contains("run cameo restore again"), "{text}");
    restore(&paths.file, &directory).await;
    assert!(!unfinished.exists());
    assert_eq!(told(&check(&directory).await).0, 0);
}

/// A client that takes nothing of its backup costs others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_read_holds_up_no_write_and_no_later_backup() {
    let server = TestServer::start_with(|config| config.feed.stall_timeout = Duration::from_secs(2)).await;
    let client = server.client().await;
    for mpid in 1..=60 {
        client.create(large(mpid)).await.unwrap();
    }
    let slow = server.client().await; // A connection of its own.
    let mut unread = slow.admin.clone().backup(BackupRequest {}).await.unwrap().into_inner();
    within(unread.message()).await.unwrap().unwrap();
    let second = client.admin.clone().backup(BackupRequest {}).await;
    assert_refused(second.map(|_| ()), Code::ResourceExhausted, "OVERLOADED", "");
    let compaction = client.admin.clone().compact(CompactRequest {}).await;
    assert_refused(compaction, Code::ResourceExhausted, "OVERLOADED", "");
    for _ in 0..100 {
        client.update(1, increment("visits")).await.unwrap();
    }
    let mut admin = client.admin.clone();
    let mut third = within(async {
        loop {
            match admin.backup(BackupRequest {}).await {
                Ok(third) => return third.into_inner(),
                Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
            }
        }
    })
    .await;
    assert_eq!(reason(&failure_of(&mut unread).await), "SUBSCRIBER_STALLED");
    let mut rows = 0;
    while let Some(piece) = within(third.message()).await.unwrap() {
        assert!(piece.data.len() <= 256 << 10 && piece.rows >= rows);
        rows = piece.rows;
    }
    assert!(rows >= 60, "the next backup is whole");
}

#[tokio::test]
async fn a_backup_that_its_client_gives_up_makes_room_for_the_next() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=60 {
        client.create(large(mpid)).await.unwrap();
    }
    let gone = server.client().await;
    let mut unread = gone.admin.clone().backup(BackupRequest {}).await.unwrap().into_inner();
    within(unread.message()).await.unwrap().unwrap();
    drop((unread, gone));
    let mut admin = client.admin.clone();
    within(async { while admin.backup(BackupRequest {}).await.is_err() {} }).await;
}

/// A server that is stopped ends the backup, and does not wait for it.
#[tokio::test]
async fn a_backup_ends_when_the_server_drains() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=60 {
        client.create(large(mpid)).await.unwrap();
    }
    let mut unread = client.admin.clone().backup(BackupRequest {}).await.unwrap().into_inner();
    within(unread.message()).await.unwrap().unwrap();
    let stopped = tokio::spawn(server.stop());
    assert_eq!(reason(&failure_of(&mut unread).await), "SERVER_DRAINING");
    drop(unread);
    within(stopped).await.unwrap();
}

/// The exit status says whether something is wrong (1) or nothing could be checked (2), and the report says where.
#[tokio::test]
async fn a_check_reports_what_is_wrong_and_where() {
    let (status, text) = told(&check(Path::new("/nonexistent")).await);
    assert!(status == 2 && text.contains("there is no store in"), "{text}");
    let server = TestServer::start().await;
    server.client().await.create(owner_of(email("ada"), ADA)).await.unwrap();
    server.client().await.create(with_mpid(GRACE)).await.unwrap();
    let dir = server.stop().await;
    let data = data_dir(dir.path());
    let (status, text) = told(&check(&data).await);
    assert!(status == 0 && text.contains("profile 2"), "{text}");

    edit(&dir, |transaction| damage_profile(transaction, GRACE));

    let (status, text) = told(&check(&data).await);
    assert_eq!(status, 1);
    let line = format!("- rows that do not verify: 1. First: table profile, {WORKSPACE} mpid {GRACE}\n");
    assert!(text.contains(&line), "{text}");
    assert!(!text.contains("ada"), "no value of a person");
    let file = dir.path().join("backup");
    let (status, text) = told(&cameo(["backup", "--data-dir", shown(&data), "--to", shown(&file)]).await);
    assert!(status == 1 && text.contains("a record of the table profile is damaged"), "{text}");
    assert_eq!(
        fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file())
            .count(),
        0
    );
    let server = TestServer::reopen(dir).await;
    let mut pieces = server.client().await.admin.clone().backup(BackupRequest {}).await.unwrap().into_inner();
    let failure = failure_of(&mut pieces).await;
    assert_eq!((reason(&failure), metadata(&failure, "table")), ("RECORD_CORRUPT".into(), "profile".into()));
}

/// A small backup, made once.
async fn small_backup() -> Vec<u8> {
    let paths = Paths::new();
    let process = TestProcess::start(&paths.data, &[]).await;
    process.client().await.create(with_mpid(ADA)).await.unwrap();
    back_up(&process, &paths.file).await;
    fs::read(&paths.file).unwrap()
}

/// `src/store/tests/backups.rs` tries many more positions, without a process for each.
#[test]
fn a_damaged_backup_is_found_by_a_restore_and_by_a_check() {
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    let backup = runtime.block_on(small_backup());
    let is_found = |bytes: &[u8]| {
        runtime.block_on(async {
            let paths = Paths::new();
            fs::write(&paths.file, bytes).unwrap();
            let restored = cameo(["restore", "--from", shown(&paths.file), "--data-dir", shown(&paths.restored)]).await;
            let (status, text) = told(&check_backup(&paths.file).await);
            !restored.status.success() && !paths.restored.exists() && status == 1 && text.contains("cannot be used")
        })
    };
    assert!(!is_found(&backup), "it is whole");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(12));
    let places = (any::<prop::sample::Index>(), 1_u8..=255, any::<bool>());
    runner
        .run(&places, |(at, bits, is_cut)| {
            let at = at.index(backup.len());
            let mut bytes = backup.clone();
            bytes[at] ^= bits;
            if is_cut {
                bytes = backup[..at].to_vec();
            }
            prop_assert!(is_found(&bytes), "byte {at} of {}", backup.len());
            Ok(())
        })
        .unwrap();
}
