//! The profiles that the server under attack holds: made once, and copied for each attack.

use std::path::Path;

use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tempfile::TempDir;

use crate::server::Server;

/// The workspace that is attacked. It holds the large profiles, the medium one and the small ones. A long value repeats
/// one letter, so it compresses well.
pub const ATTACKED: &str = "acme/main/web";
/// Another workspace, with small profiles only.
pub const OTHER: &str = "acme/main/app";
/// The mpids of small profiles, in both workspaces.
pub const SMALL: std::ops::RangeInclusive<i64> = 1..=200;
/// The mpid of a profile of about 9 KiB, in the workspace that is attacked.
pub const MEDIUM: i64 = 501;
/// The mpids of profiles of about 245 KiB.
pub const LARGE: std::ops::RangeInclusive<i64> = 1_001..=1_100;

const MEDIUM_VALUE: usize = 9 << 10;
const LARGE_ATTRIBUTES: usize = 5;
const LARGE_VALUE: usize = 49 << 10;

/// A store on disk.
pub struct Store(TempDir);

impl Store {
    /// Makes the store, with a server of its own.
    pub async fn fill() -> Self {
        let dir = TempDir::new().expect("a directory");
        let server = Server::start(dir.path(), None, &[]).await;
        let mut client = ProfileServiceClient::connect(format!("http://{}", server.addr)).await.expect("a connection");
        let value = "v".repeat(LARGE_VALUE);
        let large: Vec<_> = (0..LARGE_ATTRIBUTES).map(|n| (format!("k{n}"), value.clone())).collect();
        let medium = [("k".to_owned(), "v".repeat(MEDIUM_VALUE))];
        let small = [("plan".to_owned(), "pro".to_owned())];
        let small_of = |workspace| SMALL.map(|mpid| record(workspace, mpid, &small)).collect::<Vec<_>>();
        let medium = vec![record(ATTACKED, MEDIUM, &medium)];
        let large = LARGE.map(|mpid| record(ATTACKED, mpid, &large)).collect();
        let attacked = [small_of(ATTACKED), medium, large].concat();
        for records in [attacked, small_of(OTHER)] {
            let count = i64::try_from(records.len()).expect("few");
            let imported = client.import_profiles(futures_util::stream::iter(records)).await.expect("an import");
            assert_eq!(imported.into_inner().created, count, "every profile is created");
        }
        server.stop().await;
        Self(dir)
    }

    /// A copy of it.
    pub fn copy(&self) -> TempDir {
        let dir = TempDir::new().expect("a directory");
        copy(self.0.path(), dir.path());
        dir
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

fn record(workspace: &str, mpid: i64, attributes: &[(String, String)]) -> ImportProfilesRequest {
    ImportProfilesRequest {
        workspace: workspace.into(),
        key: Some(by_mpid(mpid)),
        patch: Some(set(attributes)),
        ..Default::default()
    }
}

pub fn by_mpid(mpid: i64) -> ProfileKey {
    ProfileKey { key: Some(profile_key::Key::Mpid(mpid)) }
}

/// A patch that sets these attributes to texts.
pub fn set(attributes: &[(String, String)]) -> ProfilePatch {
    let text = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
    let fields = attributes.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    ProfilePatch { set_user_attributes: Some(Struct { fields }), ..ProfilePatch::default() }
}
