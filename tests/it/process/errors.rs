//! What the binary says when it cannot start: what failed, the path or the address, the cause, and what to do.

use std::path::Path;

use redb::{Database, TableDefinition};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::*;

/// Where a file in an older or a newer layout says which layout that is.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
/// No machine has this address: RFC 5737 keeps it for documents.
const ELSEWHERE: &str = "192.0.2.1:50051";

/// What the binary prints to standard error when it refuses to start. It ends with an error, never listens, and says
/// why in one or two lines.
async fn refusal_of(command: &mut Command) -> String {
    let refused = output(command.env("RUST_BACKTRACE", "1")).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{}: {told}", refused.status);
    assert!(refused.stdout.is_empty(), "it never listened: {told}");
    let lines = told.lines().filter(|line| !line.is_empty()).count();
    assert!((1..=2).contains(&lines), "{lines} lines: {told}");
    for internal in ["panicked", "backtrace", "Os {", "kind:", "Error {", "Some(", "Err("] {
        assert!(!told.contains(internal), "{internal}: {told}");
    }
    told
}

/// The binary with a store in `dir`, and these flags.
fn serve(dir: &Path, flags: &[&str]) -> Command {
    let mut command = binary();
    command.args(["serve", "--addr", "127.0.0.1:0", "--log", "off", "--data-dir"]).arg(dir).args(flags);
    command
}

async fn assert_refused(dir: &Path, flags: &[&str], said: &[&str]) {
    let told = refusal_of(&mut serve(dir, flags)).await;
    for said in said {
        assert_eq!(told.matches(said).count(), 1, "{said:?}: {told}");
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named_with_its_cause() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = ["cannot use /sys/cameo-data: ", "this user can write to; --data-dir chooses another"];
    assert_refused(Path::new("/sys/cameo-data"), &[], &said).await;
    for below in [file.clone(), file.join("below")] {
        let path = below.to_str().unwrap();
        assert_refused(&below, &[], &[path, "Not a directory", "--data-dir chooses another"]).await;
    }
}

/// As root the test checks nothing: root is denied nothing.
#[tokio::test]
async fn a_denied_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(dir.path().join("probe"), "").is_ok() {
        return;
    }
    let path = dir.path().to_str().unwrap();
    assert_refused(dir.path(), &[], &[path, "Permission denied", "--data-dir chooses another"]).await;
}

#[tokio::test]
async fn a_second_process_on_the_same_store_is_refused() {
    let dir = TempDir::new().unwrap();
    let _first = TestProcess::start(dir.path(), &[]).await;
    let open = format!("another process has the store open in {}: ", dir.path().display());
    assert_refused(dir.path(), &[], &[&open, "stop it, or choose another --data-dir"]).await;
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(STORE_FILE);
    let database = Database::create(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let said = ["has layout 99", "start the version that wrote it", "--data-dir", file.to_str().unwrap()];
    assert_refused(dir.path(), &[], &said).await;
}

#[tokio::test]
async fn a_damaged_store_is_refused() {
    let server = TestServer::start().await;
    server.client().await.create(ada()).await.unwrap();
    let dir = server.stop().await;
    let file = store_file(dir.path());
    let whole = std::fs::read(&file).unwrap();
    let mut without_page = whole.clone();
    without_page[4096..3 * 4096].fill(0xaa);
    for damaged in [&whole[..whole.len() / 2], &without_page] {
        std::fs::write(&file, damaged).unwrap();
        let said = [file.to_str().unwrap(), "is damaged (", "move it away and put a copy of it back"];
        assert_refused(&data_dir(dir.path()), &[], &said).await;
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_named_with_its_cause() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let too_long = format!("{}:50051", "a".repeat(64)); // For a label of a name, so that no name server is asked.
    for (addr, said) in [
        (&*taken, &["cannot listen on", "Address already in use", "Stop the process that listens there"][..]),
        (ELSEWHERE, &["cannot listen on", "Cannot assign requested address", "Choose an address of this machine"]),
        (&too_long, &["cannot find the host of", "Correct it, or use an IP address"]),
    ] {
        let dir = TempDir::new().unwrap();
        assert_refused(dir.path(), &["--addr", addr, "--insecure"], &[said, &[addr]].concat()).await;
    }
    // The C library reads this name as 0.0.0.0.
    for (addr, as_which) in [("0.0.0.0:0", "as 0.0.0.0:0"), ("0:0", "as 0.0.0.0:0")] {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        assert_refused(&data, &["--addr", addr], &[as_which, "can be reached from other machines", "--insecure"]).await;
        assert!(!data.exists(), "it is refused before the store is opened");
    }
}

#[tokio::test]
async fn a_wrong_word_on_the_command_line_is_told_plainly() {
    let no_flag = "`cameo healthcheck` has no flag --data-dir: it is one of `cameo serve`";
    let no_service = "`cameo serve` has no flag --service: it is one of `cameo healthcheck`";
    for (words, said) in [
        (&["--addr", "localhost"][..], "'localhost' for '--addr <ADDR>': an address is a host and a port"),
        (&["healthcheck", "--addr", "localhost"], "'localhost' for '--addr <ADDR>': an address is a host and a port"),
        (&["--log", "cameo=loud"], "--log \"cameo=loud\" is not a filter for logs, such as info"),
    ] {
        let told = refusal_of(binary().args(words)).await;
        assert!(told.contains(said), "{words:?}: {told}");
    }
    for (words, said) in [
        (&["--data-dir", "x", "healthcheck"][..], no_flag),
        (&["healthcheck", "--data-dir=x"], no_flag),
        (&["--service", "x"], no_service),
        (&["--service=x", "serve"], no_service),
        (&["--addr", "localhost:1", "sevre"], "unrecognized subcommand 'sevre'"),
        (&["--adr", "localhost:1"], "unexpected argument '--adr'"),
    ] {
        let refused = output(binary().args(words)).await;
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && told.contains(said), "{words:?}: {told}");
    }
}
