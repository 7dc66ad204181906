//! The audit log: who wrote what, and who was refused what.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use cameo::proto::v1::{CompactRequest, ImportProfilesRequest, ProfilePatch};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::*;

const CANARY: &str = "canary@example.com";

/// The lines of an audit log, by their methods.
fn lines(log: &str) -> BTreeMap<String, Vec<Value>> {
    let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        lines.entry(line["method"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_refusals_are_lines_without_values() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let [writer, reader] = [callers.add("crm", &["writer"]).await, callers.add("shop", &["reader"]).await];
    let [writer_id, reader_id] = [&writer, &reader].map(|token| token.split('_').nth(1).unwrap().to_owned());
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let flags = ["--callers", file.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let [writer, reader] =
        [Client::connect_with(server.addr, &writer).await, Client::connect_with(server.addr, &reader).await];
    writer.create(owner_of(email(CANARY), ADA)).await.unwrap();
    writer.create(owner_of(email(CANARY), GRACE)).await.unwrap_err();
    reader.get(ADA).await.unwrap();
    reader.update(ADA, add([email(CANARY)])).await.unwrap_err();
    writer.get_by(email(CANARY)).await.unwrap_err();
    Client::connect_with(server.addr, "not-a-token").await.get(ADA).await.unwrap_err();
    server.terminate();
    assert!(server.ended().await.success());

    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("canary") && !text.contains("not-a-token"), "{text}");
    let lines = lines(&text);
    let of = |method: &str| -> Vec<_> {
        let fields = |line: &Value| {
            let fields = ["caller", "workspace", "code", "reason", "sequence"].map(|field| line[field].clone());
            let credential =
                line["caller"].as_str().map(|caller| if caller == "crm" { &writer_id } else { &reader_id });
            assert_eq!(line["credential"].as_str(), credential.map(String::as_str), "{line}");
            assert!(
                line["timestamp"].is_string() && line["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
                "{line}"
            );
            fields
        };
        lines[method].iter().map(fields).collect()
    };
    let line = |caller: &str, code: &str, reason: Option<&str>, sequence: Option<u64>| {
        [caller.into(), WORKSPACE.into(), code.into(), reason.into(), sequence.into()]
    };
    let taken = line("crm", "ALREADY_EXISTS", Some("IDENTITY_TAKEN"), None);
    assert_eq!(of("ProfileService/CreateProfile"), [line("crm", "OK", None, Some(1)), taken]);
    // A caller without the role is refused before its request is read.
    let mut denied = line("shop", "PERMISSION_DENIED", Some("PERMISSION_DENIED"), None);
    denied[1] = Value::Null;
    assert_eq!(of("ProfileService/UpdateProfile"), std::slice::from_ref(&denied));
    denied[0] = "crm".into();
    let mut login = denied.clone();
    (login[0], login[2], login[3]) = (Value::Null, "UNAUTHENTICATED".into(), "UNAUTHENTICATED".into());
    assert_eq!(of("ProfileService/GetProfile"), [denied, login], "a lookup that succeeds is no line");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_the_metrics_that_is_refused_is_a_line() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let reader = callers.add("shop", &["reader"]).await;
    let log = dir.path().join("audit.jsonl");
    let mut command = binary();
    command.args(["--addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0", "--log", "warn"]);
    command.arg("--data-dir").arg(dir.path().join("data")).arg("--callers").arg(callers.path());
    let mut server = command.arg("--audit-log").arg(&log).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let metrics = loop {
        let line = within(lines.next_line()).await.unwrap().unwrap();
        if let Some(addr) = line.strip_prefix("  metrics  http://") {
            break addr.strip_suffix("/metrics").unwrap().parse().unwrap();
        }
    };
    for token in ["not-a-token", &reader] {
        let request = hyper::Request::get("/metrics").header("authorization", format!("Bearer {token}"));
        http_request(metrics, request.body(String::new()).unwrap()).await;
    }
    let written = || std::fs::read_to_string(&log).unwrap();
    until(|| written().matches("/metrics").count() == 2).await;

    assert!(!written().contains("not-a-token"), "{}", written());
    let lines = self::lines(&written());
    let [login, denied] = &*lines["/metrics"] else { panic!("there are two") };
    for (line, caller, code, reason) in
        [(login, None, "401", "UNAUTHENTICATED"), (denied, Some("shop"), "403", "PERMISSION_DENIED")]
    {
        let told = ["caller", "code", "reason"].map(|field| line[field].as_str());
        assert_eq!(told, [caller, Some(code), Some(reason)]);
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

/// What takes data out of the server, or changes who may, is a line although it is no write.
#[tokio::test(flavor = "multi_thread")]
async fn exports_compactions_and_new_credentials_are_lines() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let everywhere = ["--workspace", "*/*/*"];
    let token = callers.add_with("root", &["steward", "operator", "writer"], &everywhere).await;
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let flags = ["--callers", file.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let root = Client::connect_with(server.addr, &token).await;
    root.create(owner_of(email(CANARY), ADA)).await.unwrap();
    root.export(ADA).await.unwrap();
    root.admin.clone().compact(CompactRequest {}).await.unwrap();
    let late = callers.add("late", &["reader"]).await;
    let written = || std::fs::read_to_string(&log).unwrap();
    until(|| written().contains("the callers file")).await;
    let text = std::fs::read_to_string(callers.path()).unwrap();
    std::fs::write(callers.path(), text.replace(r#""reader""#, r#""subscriber""#)).unwrap();
    until(|| written().contains("changed")).await;
    callers.revoke(&late).await;
    callers.add_certificate("next", &["reader"], "dns:next.internal");
    until(|| written().contains("removed") && written().contains("next.internal")).await;
    server.terminate();
    assert!(server.ended().await.success());

    assert!(!written().contains("canary"), "{}", written());
    let lines = lines(&written());
    for method in ["ProfileService/ExportSubject", "AdminService/Compact"] {
        let [line] = &*lines[method] else { panic!("{method} is one line") };
        assert_eq!((&line["caller"], &line["code"]), (&"root".into(), &"OK".into()), "{method}");
    }
    let (changes, reloads): (Vec<_>, Vec<_>) = lines[""].iter().partition(|line| line.get("change").is_some());
    assert_eq!(reloads[0]["entries"], 2);
    let told = |line: &&Value| ["caller", "credential", "change"].map(|field| line[field].as_str().unwrap().to_owned());
    let id = late.split('_').nth(1).unwrap();
    let mut expected = vec![["late", id, "added"], ["late", id, "changed"], ["late", id, "removed"]];
    expected.push(["next", "dns:next.internal", "added"]);
    let mut changes: Vec<_> = changes.iter().map(told).collect();
    changes.sort();
    assert_eq!(changes, expected, "root is as it was");
}

/// They change who may call, and whom clients trust.
#[tokio::test(flavor = "multi_thread")]
async fn new_keys_and_new_certificates_are_lines() {
    let (dir, files) = (TempDir::new().unwrap(), TlsFiles::new());
    let (old, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let source = KeyServer::start(&[&old]).await;
    let (url, log) = (source.url(), dir.path().join("audit.jsonl"));
    let issuer = ["--jwt-issuer", "https://idp.example.com/", "--jwt-audience", "cameo.example.com"];
    let tls = files.flags();
    let flags = ["--jwks", &url, "--jwks-refresh", "10s", "--audit-log", log.to_str().unwrap()];
    let flags: Vec<_> = flags.into_iter().chain(issuer).chain(tls.iter().map(String::as_str)).collect();
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let written = || std::fs::read_to_string(&log).unwrap();
    let count = |reloaded: &str| written().matches(&format!("\"reloaded\":\"{reloaded}\"")).count();
    let keys = "the keys that verify tokens";
    until(|| count(keys) == 1).await;
    source.publish(&[&old, &new]);
    until(|| count(keys) == 2).await;
    assert_eq!(count("the TLS files"), 0);
    files.write(&files.ca.issue());
    until(|| count("the TLS files") == 1).await;
    server.terminate();
    assert!(server.ended().await.success());
    assert_eq!(count(keys), 2, "only what changes is a line");
}

/// Refused logins are not all written down, because everyone can cause them. What a caller has done is, although others
/// cause any number of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_its_token_did_not_outlive_is_a_line_with_what_it_wrote() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let token = callers.add("crm", &["writer"]).await;
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let flags = ["--callers", file.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let mut profiles = Client::connect_with(server.addr, &token).await.profiles;
    let records = stream::iter(1..).map(|mpid| record(by_mpid(mpid), ProfilePatch::default()));
    let import = tokio::spawn(async move { profiles.import_profiles(records).await });
    let stranger = Client::connect_with(server.addr, "not-a-token").await;

    callers.revoke(&token).await;
    while !import.is_finished() {
        let logins = (0..16).map(|_| stranger.get(ADA));
        assert!(join_all(logins).await.iter().all(Result::is_err));
    }

    let end = import.await.unwrap().unwrap_err();
    assert_eq!(reason(&end), "UNAUTHENTICATED");
    server.terminate();
    assert!(server.ended().await.success());
    let lines = lines(&std::fs::read_to_string(&log).unwrap());
    let [line] = &*lines["ProfileService/ImportProfiles"] else { panic!("one import is one line") };
    let records: u64 = metadata(&end, "records").parse().unwrap();
    assert_eq!((&line["caller"], &line["code"]), (&"crm".into(), &"UNAUTHENTICATED".into()));
    assert_eq!((&line["workspace"], &line["sequence"]), (&WORKSPACE.into(), &records.into()), "one event for each");
}

/// What was written is written, and nobody waits for the end of the call.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_its_client_gives_up_is_a_line_with_what_it_wrote() {
    /// The server takes no further record while so many have no outcome.
    const QUEUED: i64 = 8_192;
    const WRITTEN: i64 = QUEUED + 1_000;
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let token = callers.add("crm", &["writer", "reader"]).await;
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let flags = ["--callers", file.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let client = Client::connect_with(server.addr, &token).await;
    let mut profiles = client.profiles.clone();
    let records = stream::iter(1..).map(|mpid| record(by_mpid(mpid), ProfilePatch::default()));
    let import = tokio::spawn(async move { profiles.import_profiles(records).await });
    within(async { while client.get(WRITTEN).await.is_err() {} }).await;
    import.abort();
    server.terminate();
    assert!(server.ended().await.success());

    let lines = lines(&std::fs::read_to_string(&log).unwrap());
    let [line] = &*lines["ProfileService/ImportProfiles"] else { panic!("one import is one line") };
    assert_eq!((&line["caller"], &line["code"]), (&"crm".into(), &"CANCELLED".into()));
    assert!(line["sequence"].as_i64().unwrap() >= WRITTEN - QUEUED, "{line}");
}

/// What changes nothing has the cursor of an event that another call made, and a repeat has that of the first call.
#[tokio::test(flavor = "multi_thread")]
async fn the_sequence_of_an_import_is_the_last_that_its_records_made() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("audit.jsonl");
    let mut server = TestProcess::start(&dir.path().join("data"), &["--audit-log", log.to_str().unwrap()]).await;
    let client = server.client().await;
    let record = |mpid| record(by_mpid(mpid), set([("plan", text("pro"))]));
    let first = ImportProfilesRequest { request_id: "first".into(), ..record(ADA) };
    for records in [vec![first.clone()], vec![record(ADA)], vec![record(GRACE), first]] {
        client.import(records).await.unwrap();
    }
    server.terminate();
    assert!(server.ended().await.success());
    let lines = lines(&std::fs::read_to_string(&log).unwrap());
    let sequences: Vec<_> = lines["ProfileService/ImportProfiles"].iter().map(|line| &line["sequence"]).collect();
    assert_eq!(sequences, [&Value::from(1), &Value::Null, &Value::from(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_cannot_be_written_keeps_the_server_from_starting() {
    let dir = TempDir::new().unwrap();
    let mut command = binary();
    command.args(["--addr", "127.0.0.1:0", "--audit-log", "/nonexistent/audit.jsonl", "--data-dir"]).arg(dir.path());
    let ended = output(&mut command).await;
    assert!(!ended.status.success());
    assert!(
        String::from_utf8_lossy(&ended.stderr).contains("--audit-log /nonexistent/audit.jsonl cannot be written to")
    );
}

/// A refusal comes a little late. A stranger that does not wait for it leaves a trace all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_given_up_before_its_refusal_is_a_line() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    callers.add("crm", &["reader"]).await;
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let flags = ["--callers", file.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
    let server = TestProcess::start(&dir.path().join("data"), &flags).await;
    let stranger = server.client().await;
    let is_line = |line: &Value| line["reason"] == "UNAUTHENTICATED" && line["code"] == "CANCELLED";
    let given_up = || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).any(|line| is_line(&line))
    };
    within(async {
        while !given_up() {
            // Less than the refusal waits, and long enough for the call to arrive.
            let _ = tokio::time::timeout(Duration::from_millis(20), stranger.get(ADA)).await;
        }
    })
    .await;
}

/// Anybody can send requests that are refused before it is known who sends them, and no rate bounds those that are refused
/// for their rate.
#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_cannot_flood_the_audit_log() {
    let (dir, callers) = (TempDir::new().unwrap(), CallersFile::new());
    let token = callers.add("crm", &["writer"]).await;
    let (file, log) = (callers.path(), dir.path().join("audit.jsonl"));
    let quota = ["--max-call-rate-per-client", "1"];
    let flags = [["--callers", file.to_str().unwrap()], ["--audit-log", log.to_str().unwrap()], quota].concat();
    let mut server = TestProcess::start(&dir.path().join("data"), &flags).await;
    for client in [server.client().await, Client::connect_with(server.addr, &token).await] {
        let calls = join_all((0..500).map(|_| client.create(with_mpid(ADA)))).await;
        assert!(calls.iter().filter(|call| call.is_err()).count() >= 490);
    }
    server.terminate();
    assert!(server.ended().await.success());
    let lines = std::fs::read_to_string(&log).unwrap().lines().count();
    assert!((1..250).contains(&lines), "{lines}");
}
