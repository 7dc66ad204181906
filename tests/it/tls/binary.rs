//! What the binary says of TLS, and its commands as clients of a server with TLS.

use std::fs::File;
use std::process::{Output, Stdio};

use tempfile::{NamedTempFile, TempDir};

use crate::harness::*;

/// What a server says that does not start with these flags.
async fn refusal_of(flags: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let mut command = binary();
    command.args(["serve", "--addr", "127.0.0.1:0", "--log", "off", "--data-dir"]).arg(&data).args(flags);
    let refused = output(&mut command).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(!data.exists(), "it is refused before the store is opened");
    String::from_utf8(refused.stderr).unwrap()
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named_with_what_to_do() {
    let files = TlsFiles::new();
    let path = |name: &str| files.path(name).display().to_string();
    let (cert, key, ca) = (&*path("cert.pem"), &*path("key.pem"), &*path("client-ca.pem"));
    std::fs::write(files.path("other-key.pem"), self_signed().key).unwrap();
    for (flags, said) in [
        (&["--tls-cert", cert][..], &["--tls-cert needs --tls-key: name the file"][..]),
        (&["--tls-key", key], &["--tls-key needs --tls-cert: name the file"]),
        (&["--tls-client-ca", ca], &["--tls-client-ca needs --tls-cert"]),
        (
            &["--tls-cert", cert, "--tls-key", &path("none")],
            &["--tls-key: cannot read ", "/none: No such file", "Correct"],
        ),
        (&["--tls-cert", key, "--tls-key", key], &["--tls-cert: ", "holds no certificate in PEM"]),
        (&["--tls-cert", cert, "--tls-key", &path("other-key.pem")], &[cert, "cannot be used together"]),
        (&["--tls-cert", cert, "--tls-key", key, "--tls-require-client-cert"], &["needs --tls-client-ca"]),
    ] {
        let refusal = refusal_of(flags).await;
        for said in said {
            assert!(refusal.contains(said), "{flags:?}: {refusal}");
        }
    }
}

/// Encryption alone does not make an address safe to serve on.
#[tokio::test]
async fn an_address_that_others_can_reach_needs_a_way_to_know_the_callers() {
    let files = TlsFiles::new();
    let flags = files.flags();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    flags.extend(["--addr", "0.0.0.0:0"]);
    let refusal = refusal_of(&flags).await;
    assert!(refusal.contains("there is no authentication: set --callers or --jwks"), "{refusal}");
    let ca = files.path("client-ca.pem").display().to_string();
    flags.extend(["--tls-client-ca", &ca, "--tls-require-client-cert"]);
    let dir = TempDir::new().unwrap();
    TestProcess::start(dir.path(), &flags).await.kill().await;
}

/// A process and its log.
async fn logged(dir: &TempDir, flags: &[&str]) -> (TestProcess, NamedTempFile) {
    let log = NamedTempFile::new().unwrap();
    let mut command = binary();
    command.stderr(Stdio::from(File::create(log.path()).unwrap()));
    let process = TestProcess::start_as(&mut command, &dir.path().join("data"), flags).await;
    (process, log)
}

fn text_of(log: &NamedTempFile) -> String {
    std::fs::read_to_string(log.path()).unwrap()
}

#[tokio::test]
async fn insecure_says_at_start_what_is_not_protected() {
    let dir = TempDir::new().unwrap();
    let (mut process, log) = logged(&dir, &["--addr", "0.0.0.0:0", "--insecure"]).await;
    process.kill().await;
    let text = text_of(&log);
    let warning = text.lines().find(|line| line.contains("WARN")).unwrap_or_else(|| panic!("{text}"));
    for said in ["--insecure", "no authentication and no encryption", "everyone who reaches", "read and change"] {
        assert!(warning.contains(said), "{warning}");
    }
}

/// A line for each of a few, and not for each of a flood.
#[tokio::test]
async fn a_handshake_that_fails_is_a_line_of_the_log_with_its_peer_and_reason() {
    let (files, dir) = (TlsFiles::new(), TempDir::new().unwrap());
    let flags = files.flags();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    flags.extend(["--log", "info"]);
    let (mut process, log) = logged(&dir, &flags).await;
    for _ in 0..100 {
        let mut connection = RawConnection::open(process.addr).await;
        connection.send("GET / HTTP/1.1\r\n\r\n").await;
        connection.rest().await;
    }
    process.kill().await;
    let text = text_of(&log);
    let lines: Vec<_> = text.lines().filter(|line| line.contains("a TLS handshake failed")).collect();
    assert!((1..100).contains(&lines.len()), "{text}");
    assert!(lines.iter().all(|line| line.contains("peer=127.0.0.1:") && line.contains("reason=\"not_tls\"")), "{text}");
    assert!(text.contains("other users of this machine can read the key"), "the test's file has the mode 0644: {text}");
}

async fn healthcheck(process: &TestProcess, flags: &[&str]) -> Output {
    let addr = format!("localhost:{}", process.addr.port());
    output(binary().args(["healthcheck", "--timeout", "20s", "--addr", &addr]).args(flags)).await
}

#[tokio::test]
async fn the_health_check_speaks_tls() {
    let (files, dir) = (TlsFiles::new(), TempDir::new().unwrap());
    let flags = files.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let process = TestProcess::start(dir.path(), &flags).await;
    let (ca, other_ca, key) = (files.path("ca.pem"), files.path("client-ca.pem"), files.path("key.pem"));
    let [ca, other_ca, key] = [&ca, &other_ca, &key].map(|path| path.to_str().unwrap());
    for flags in
        [&["--tls-ca", ca][..], &["--tls", "--tls-ca", ca], &["--tls-ca", ca, "--tls-server-name", "127.0.0.1"]]
    {
        let check = healthcheck(&process, flags).await;
        assert_eq!((check.status.code(), &*check.stdout), (Some(0), &b"SERVING\n"[..]), "{flags:?}: {check:?}");
    }
    for (flags, said) in [
        (&[][..], "If it speaks TLS, pass --tls"),
        (&["--tls-ca", other_ca], "cannot connect to localhost"),
        (&["--tls-ca", other_ca], "certificate"),
        (&["--tls-ca", other_ca], "the CA of its certificate with --tls-ca"),
        (&["--tls"], "the CA of its certificate with --tls-ca"),
        (&["--tls-ca", ca, "--tls-server-name", "example.org"], "--tls-server-name"),
        (&["--tls-ca", ca, "--tls-server-name", "example.org"], "certificate not valid for name \"example.org\""),
        (&["--tls-ca", key], "--tls-ca: "),
    ] {
        let check = healthcheck(&process, flags).await;
        let told = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.code() == Some(1) && told.contains(said), "{flags:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[tokio::test]
async fn a_command_presents_its_certificate() {
    let (files, dir) = (TlsFiles::new(), TempDir::new().unwrap());
    let client = files.client_ca.issue();
    std::fs::write(files.path("client.pem"), &client.cert).unwrap();
    std::fs::write(files.path("client-key.pem"), &client.key).unwrap();
    let path = |name: &str| files.path(name).display().to_string();
    let flags = files.flags();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let client_ca = path("client-ca.pem");
    flags.extend(["--tls-client-ca", &client_ca, "--tls-require-client-cert"]);
    let process = TestProcess::start(dir.path(), &flags).await;

    let without = healthcheck(&process, &["--tls-ca", &path("ca.pem")]).await;
    let told = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.code() == Some(1) && told.contains("--tls-client-cert"), "{told}");

    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client-key.pem"));
    let with = ["--tls-ca", &ca, "--tls-client-cert", &cert, "--tls-client-key", &key];
    assert!(healthcheck(&process, &with).await.status.success());
    let addr = format!("localhost:{}", process.addr.port());
    let compact = output(binary().args(["compact", "--server", &addr]).args(with)).await;
    assert!(compact.status.success(), "{}", String::from_utf8_lossy(&compact.stderr));
}
