//! What the server prints when clients can connect.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::*;

/// What a server prints, up to the last line of its greeting.
async fn greeting(flags: &[&str]) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let mut command = binary();
    command.args(["--addr", "127.0.0.1:0", "--log", "warn", "--data-dir"]).arg(dir.path()).args(flags);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut greeting = Vec::new();
    while let Some(line) = within(lines.next_line()).await.unwrap() {
        greeting.push(line);
        if greeting.last().unwrap().starts_with("  listen") {
            break;
        }
    }
    greeting
}

#[tokio::test]
async fn the_server_prints_where_its_metrics_are() {
    let on = greeting(&["--metrics-addr", "127.0.0.1:0"]).await;
    let line = on.iter().find_map(|line| line.strip_prefix("  metrics  http://127.0.0.1:")).unwrap();
    assert!(line.strip_suffix("/metrics").unwrap().parse::<u16>().unwrap() > 0);
    for off in ["off", ""] {
        let off = greeting(&["--metrics-addr", off]).await;
        assert!(off.len() > 1 && off.iter().all(|line| !line.starts_with("  metrics")), "{off:?}");
    }
}

/// Every line of an audit log is JSON, so the greeting goes elsewhere.
#[tokio::test]
async fn the_server_prints_nothing_into_an_audit_log_on_standard_output() {
    let dir = TempDir::new().unwrap();
    let mut command = binary();
    command.args(["--addr", "127.0.0.1:0", "--log", "warn", "--audit-log", "-", "--data-dir"]).arg(dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = within(lines.next_line()).await.unwrap().unwrap();
    let addr = first.strip_prefix("cameo is listening on ").unwrap().parse().unwrap();
    Client::connect(addr).await.create(with_mpid(ADA)).await.unwrap();
    let mut audit = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(audit.next_line()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["method"], "ProfileService/CreateProfile");
}

/// The hints work as they are printed, but for the names of files.
#[tokio::test]
async fn the_server_prints_how_to_call_it() {
    let (files, callers) = (TlsFiles::new(), CallersFile::new());
    callers.add("crm", &["subscriber"]).await;
    let (ca, file) = (files.path("client-ca.pem"), callers.path());
    let tls = files.flags();
    let tls: Vec<_> = tls.iter().map(String::as_str).collect();
    let certificate = ["--tls-client-ca", ca.to_str().unwrap(), "--tls-require-client-cert"];
    let of_callers = ["--callers", file.to_str().unwrap()];
    let token = " -H \"authorization: Bearer $CAMEO_TOKEN\"";
    for (flags, connects, presents) in [
        (vec![], "-plaintext", ""),
        (of_callers.to_vec(), "-plaintext", token),
        ([&tls[..], &of_callers].concat(), "-cacert CA_FILE", token),
        ([&tls[..], &certificate].concat(), "-cacert CA_FILE -cert CERT_FILE -key KEY_FILE", ""),
    ] {
        let greeting = greeting(&[&["--metrics-addr", "off"], &flags[..]].concat()).await;
        let [listening, _, hint, listen] = &greeting[..] else { panic!("{greeting:?}") };
        let addr = listening.strip_prefix("cameo is listening on ").unwrap();
        assert_eq!(*hint, format!("  try      grpcurl {connects} {addr} list"));
        let request = "-d '{\"workspace\": \"acme/main/web\"}'";
        let call = format!("{connects}{presents} {request} {addr} cameo.v1.EventService/Subscribe");
        assert_eq!(*listen, format!("  listen   grpcurl {call}"));
    }
}
