//! `AdminService.Compact` and `cameo compact`: removed values leave the file, and everything else stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo::proto::v1::*;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::*;

/// A value that is removed.
const SECRET: &str = "a-value-that-will-be-removed";
/// How often the server is killed, and how many writes and compactions precede that.
const ROUNDS: usize = 4;
const WRITES_PER_ROUND: usize = 200;
const COMPACTIONS_PER_ROUND: usize = 2;

fn holds_secret(dir: &Path) -> bool {
    let bytes = fs::read(dir.join(STORE_FILE)).unwrap();
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

/// Creates profiles with the value, which is then overwritten. Retention removes their history.
async fn plant_and_remove(client: &Client) {
    for mpid in 1..=20 {
        client.create(with_attributes(mpid, [("note", text(SECRET))])).await.unwrap();
        client.update(mpid, set([("note", text("kept"))])).await.unwrap();
    }
    for mpid in 1..=20 {
        client.update(mpid, increment("visits")).await.unwrap();
    }
}

/// The log of one workspace keeps only the latest events.
const SHORT_LOG: [&str; 2] = ["--retention-bytes", "500B"];

#[tokio::test]
async fn a_running_server_compacts_its_store_for_the_command() {
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &SHORT_LOG).await;
    let client = process.client().await;
    plant_and_remove(&client).await;
    client.until_oldest(50).await;
    let mut stream = client.listen().await;
    assert!(holds_secret(dir.path()));

    let compact = output(binary().args(["compact", "--server", &process.addr.to_string()])).await;

    let told = String::from_utf8(compact.stdout).unwrap();
    assert!(compact.status.success() && told.starts_with("Compacted the store of 127.0.0.1:"), "{told}");
    assert!(told.contains("Writes were paused for"), "{told}");
    assert!(!holds_secret(dir.path()));
    assert_number(&client.get(7).await.unwrap(), "visits", 1.0);
    client.update(7, increment("visits")).await.unwrap();
    assert_eq!(stream.event().await.1.sequence, 61, "the stream goes on");
}

/// redb writes copies of pages and keeps the old ones until it needs their place.
#[tokio::test]
async fn what_an_erasure_leaves_in_the_file_goes_with_a_compaction() {
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    for mpid in 1..=40 {
        let secret = identity("customer_id", &format!("{SECRET}-{mpid}"));
        client.create(owner_of(secret, mpid)).await.unwrap();
        client.update(mpid, set([("note", text(SECRET))])).await.unwrap();
    }
    for mpid in (1..=40).step_by(2) {
        client.merge(mpid, mpid + 1).await.unwrap();
        client.erase(mpid).await.unwrap();
    }
    assert!(holds_secret(dir.path()), "old pages still hold it");

    let compact = output(binary().args(["compact", "--server", &process.addr.to_string()])).await;

    assert!(compact.status.success());
    assert!(!holds_secret(dir.path()));
    assert_eq!(client.log().await.len(), 120, "the events stay, without values");
}

#[tokio::test]
async fn a_stopped_store_is_compacted_in_its_directory() {
    let dir = TempDir::new().unwrap();
    let compact = async || output(binary().arg("compact").arg("--data-dir").arg(dir.path())).await;
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let absent = compact().await;
    assert!(!absent.status.success() && told(&absent).contains("there is no store in"), "{absent:?}");
    let mut process = TestProcess::start(dir.path(), &SHORT_LOG).await;
    let client = process.client().await;
    plant_and_remove(&client).await;
    client.until_oldest(50).await;

    let locked = compact().await;
    assert!(!locked.status.success() && told(&locked).contains("compact it with --server"), "{locked:?}");
    process.kill().await;
    assert!(holds_secret(dir.path()));
    let compacted = compact().await;

    assert!(compacted.status.success(), "{compacted:?}");
    assert!(compacted.stdout.starts_with(b"Compacted the store of "), "{compacted:?}");
    assert!(!holds_secret(dir.path()));
    let process = TestProcess::start(dir.path(), &[]).await;
    assert_number(&process.client().await.get(7).await.unwrap(), "visits", 1.0);
}

/// Writes until the server is killed. Returns how many writes were confirmed.
async fn write_until_killed(client: Client, written: Arc<AtomicUsize>) -> usize {
    let mut confirmed = 0;
    while client.update(ADA, increment("visits")).await.is_ok() {
        confirmed += 1;
        written.fetch_add(1, Ordering::Relaxed);
    }
    confirmed
}

/// The server is killed while its store is being compacted again and again.
#[tokio::test(flavor = "multi_thread")]
async fn confirmed_writes_survive_sigkill_during_a_compaction() {
    let dir = TempDir::new().unwrap();
    let mut confirmed = 0;
    for round in 0..=ROUNDS {
        let mut process = TestProcess::start(dir.path(), &[]).await;
        assert!(!dir.path().join("cameo.redb.compact").exists(), "the start has removed it");
        let client = process.client().await;
        if round == 0 {
            client.create(with_mpid(ADA)).await.unwrap();
        }
        let found = client.get(ADA).await.unwrap();
        let visits = if confirmed == 0 { 0.0 } else { number_of(&found, "visits") };
        // The write in flight at each kill may have been kept too.
        #[allow(clippy::cast_precision_loss)] // They are small.
        let (least, most) = (confirmed as f64, (confirmed + round) as f64);
        assert!((least..=most).contains(&visits), "{visits} of {least}");
        if round == ROUNDS {
            break;
        }
        let (written, compacted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let writer = tokio::spawn(write_until_killed(client.clone(), Arc::clone(&written)));
        let (mut admin, count) = (client.admin.clone(), Arc::clone(&compacted));
        let compactor = tokio::spawn(async move {
            while admin.compact(CompactRequest {}).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let is_enough = |count: &AtomicUsize, most| count.load(Ordering::Relaxed) >= most;
        until(|| is_enough(&written, WRITES_PER_ROUND) && is_enough(&compacted, COMPACTIONS_PER_ROUND)).await;
        process.kill().await;
        confirmed += writer.await.unwrap();
        compactor.await.unwrap();
    }
    assert!(confirmed >= ROUNDS * WRITES_PER_ROUND);
}

#[tokio::test]
async fn a_damaged_record_is_not_lost_to_a_compaction() {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| damage_profile(transaction, ADA));
    let number = |dir: &TempDir| fs::metadata(store_file(dir.path())).unwrap().ino();
    let file = number(&dir);
    let offline = output(binary().arg("compact").arg("--data-dir").arg(data_dir(dir.path()))).await;
    let told = String::from_utf8_lossy(&offline.stderr);
    assert!(!offline.status.success() && told.contains("a record of the table profile is damaged"), "{told}");
    assert_eq!(number(&dir), file, "it is the same file");

    let server = TestServer::reopen(dir).await;
    let refused = server.client().await.admin.compact(CompactRequest {}).await;

    let status = refused.as_ref().unwrap_err();
    assert_eq!(metadata(status, "table"), "profile");
    assert_refused(refused, Code::DataLoss, "RECORD_CORRUPT", "");
    server.client().await.status(WORKSPACE).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_has_no_room_for_a_second_file() {
    let server = TestServer::start_with(|config| config.store.min_free_bytes = u64::MAX / 2).await;
    let refused = server.client().await.admin.compact(CompactRequest {}).await;
    assert_refused(refused, Code::ResourceExhausted, "STORAGE_FULL", "");
}
