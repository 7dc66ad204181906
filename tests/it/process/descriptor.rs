//! `cameo descriptor`: what a proxy needs to translate calls.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;
use tempfile::TempDir;

use crate::harness::*;

async fn descriptor(flags: &[&str]) -> std::process::Output {
    output(binary().arg("descriptor").args(flags)).await
}

#[tokio::test]
async fn it_prints_every_service_with_all_that_it_imports() {
    let printed = descriptor(&[]).await;
    assert!(printed.status.success(), "{printed:?}");
    let files = FileDescriptorSet::decode(&*printed.stdout).unwrap().file;

    let services = files.iter().flat_map(|file| &file.service).map(|service| service.name().to_owned());
    let services: BTreeSet<_> = services.collect();
    let expected = ["AdminService", "AudienceService", "EventService", "IdentityService", "ProfileService"];
    assert_eq!(services, expected.map(String::from).into());

    // A proxy reads the files in order, and refuses one whose imports have not come before it.
    let mut known = BTreeSet::new();
    for file in &files {
        assert!(file.dependency.iter().all(|import| known.contains(import.as_str())), "{}", file.name());
        known.insert(file.name());
    }
}

#[tokio::test]
async fn it_writes_the_same_to_a_file_and_nothing_to_standard_output() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cameo.pb");
    let written = descriptor(&["--out", path.to_str().unwrap()]).await;
    assert!(written.status.success() && written.stdout.is_empty(), "{written:?}");
    assert_eq!(std::fs::read(path).unwrap(), descriptor(&[]).await.stdout);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("missing").join("cameo.pb");
    let refused = descriptor(&["--out", path.to_str().unwrap()]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.starts_with(&format!("Error: cannot write {}: ", path.display())), "{said}");
}
