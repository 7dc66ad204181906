//! The log of the real binary, as its operator reads it.

use std::fs::File;
use std::process::Stdio;

use cameo::proto::v1::*;
use redb::{Database, TableDefinition};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tonic::Code;

use crate::harness::*;

const GRACES_CREATION: u64 = 1;
const FAILED_CALLS: [&str; 10] = [
    "ProfileService/GetProfile",
    "ProfileService/GetProfile",
    "ProfileService/BatchGetProfiles",
    "ProfileService/UpdateProfile",
    "ProfileService/ImportProfiles",
    "ProfileService/ListProfiles",
    "EventService/Subscribe",
    "EventService/ListEvents",
    "/userprofile/v1/{org}/{account}/{workspace}/{mpid}",
    "/userprofile/v1/resolve/{org}/{account}/{workspace}",
];

/// The operator finds each failure once, with what it takes to look into it. Refusals that are the caller's doing are
/// not logged, and no line holds what is known of a person.
#[tokio::test]
async fn a_failure_of_ours_is_logged_once_and_names_no_person() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let grace = Profile { user_identities: vec![email("grace")], ..with_mpid(GRACE) };
    client.create(grace).await.unwrap();
    // Beside the place of UNKNOWN_MPID. A lookup that finds nothing verifies the rows on both sides.
    client.create(ada()).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| {
        damage_profile(transaction, GRACE);
        damage_event(transaction, GRACES_CREATION);
    });
    let log = NamedTempFile::new().unwrap();
    let mut command = binary();
    command.stderr(Stdio::from(File::create(log.path()).unwrap()));
    let flags = ["--log-format", "json", "--scrub-rate", "0"];
    let mut process = TestProcess::start_as(&mut command, &data_dir(dir.path()), &flags).await;

    let client = process.client().await;
    assert_eq!(client.get(GRACE).await.unwrap_err().code(), Code::DataLoss);
    assert_eq!(client.get_by(email("grace")).await.unwrap_err().code(), Code::DataLoss);
    // Three of the four are damaged, and that is one failed call.
    let keys = [GRACE, UNKNOWN_MPID, GRACE, GRACE].map(by_mpid);
    let results = client.batch(batch_request(keys)).await.unwrap();
    assert!(results.iter().all(|result| matches!(result, batch_get_profiles_result::Result::Error(_))));
    assert_eq!(client.update(GRACE, increment("n")).await.unwrap_err().code(), Code::DataLoss);
    let records = vec![record(by_mpid(GRACE), increment("n")); 3];
    assert_eq!(client.import(records).await.unwrap().refused, 3);
    let page_token = client.page(page_request()).await.unwrap().next_page_token;
    let after_ada = ListProfilesRequest { page_token, ..page_request() };
    assert_eq!(client.page(after_ada).await.unwrap_err().code(), Code::DataLoss);
    let mut stream = client.subscribe_from(earliest()).await;
    stream.opened().await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::DataLoss);
    assert_eq!(client.list(list_request()).await.unwrap_err().code(), Code::DataLoss);
    let lookup = format!("{WORKSPACE}/{GRACE}");
    assert_eq!(http(process.addr, "GET", &lookup, &[], "").await.status, 500);
    let resolve = format!("resolve/{WORKSPACE}");
    let by_email = r#"{"identity": {"type": "email", "value": "grace@example.com"}}"#;
    assert_eq!(http(process.addr, "POST", &resolve, &[], by_email).await.status, 500);
    assert_eq!(client.get(UNKNOWN_MPID).await.unwrap_err().code(), Code::NotFound);
    process.terminate();
    assert!(process.ended().await.success());

    let log = std::fs::read_to_string(log.path()).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let methods: Vec<_> = lines.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, FAILED_CALLS);
    for line in &lines {
        assert_eq!((&line["level"], &line["workspace"]), (&"ERROR".into(), &WORKSPACE.into()), "{line}");
        assert_eq!(line["reason"], "RECORD_CORRUPT", "{line}");
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["error"].as_str().unwrap().contains("is corrupt"), "{line}");
    }
    assert!(!log.contains("grace"), "{log}");
}

/// Starts the binary with these variables, stops it with SIGTERM, and returns its address and the lines of its log.
async fn life_of(dir: &TempDir, variables: &[(&str, &str)]) -> (String, Vec<Value>) {
    let log = NamedTempFile::new().unwrap();
    let mut command = binary();
    command.stderr(Stdio::from(log.reopen().unwrap())).envs(variables.iter().copied());
    let flags = ["--log", "info", "--log-format", "json"];
    let mut process = TestProcess::start_as(&mut command, dir.path(), &flags).await;
    process.terminate();
    assert!(process.ended().await.success());
    let log = std::fs::read_to_string(log.path()).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    (process.addr.to_string(), lines.collect())
}

/// The store of an earlier version, without any profile.
fn write_a_former_store(dir: &TempDir) {
    const FORMER_META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
    let database = Database::create(dir.path().join(STORE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    for (key, value) in [("format", 2), ("log_id", 7)] {
        transaction.open_table(FORMER_META).unwrap().insert(key, value).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn the_life_of_a_server_is_logged_as_json_from_opening_to_stopped() {
    let dir = TempDir::new().unwrap();
    write_a_former_store(&dir);
    let (addr, lines) = life_of(&dir, &[]).await;
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    let expected = [
        "opening the store",
        "migrating the store",
        "migrated the store",
        "indexing the memberships of audiences",
        "indexed the memberships of audiences",
        "listening",
        "draining",
        "stopped",
    ];
    assert_eq!(messages, expected);
    assert!(lines.iter().all(|line| line["level"] == "INFO"));
    assert_eq!(lines[0]["data_dir"], dir.path().to_str().unwrap());
    assert_eq!((&lines[1]["from_layout"], &lines[1]["to_layout"]), (&2.into(), &3.into()));
    assert_eq!(lines[5]["addr"], addr);
    assert_eq!(lines[6]["signal"], "SIGTERM");

    let (_, lines) = life_of(&dir, &[]).await;
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["opening the store", "listening", "draining", "stopped"], "it is migrated once");
}

#[tokio::test]
async fn a_misspelt_variable_is_named_without_its_value() {
    let dir = TempDir::new().unwrap();
    let variables = [
        ("CAMEO_CACHE_BYTE", "s3cret"),
        ("CAMEO_WHATEVER", "s3cret"),
        ("CAMEO_UNSET", ""),
        ("CAMEO_SERVICE", "s3cret"), // A setting of the health check.
    ];
    let (_, lines) = life_of(&dir, &variables).await;
    let warned: Vec<_> = lines.iter().filter(|line| line["level"] == "WARN").collect();
    assert!(warned.iter().all(|line| line["message"] == "this variable is not a setting, and is ignored"));
    let named: Vec<_> = warned.iter().map(|line| (&line["variable"], line.get("nearest"))).collect();
    let near = Value::from("CAMEO_CACHE_BYTES");
    assert_eq!(named, [(&"CAMEO_CACHE_BYTE".into(), Some(&near)), (&"CAMEO_WHATEVER".into(), None)]);
    assert!(!lines.iter().any(|line| line.to_string().contains("s3cret")));
}
