//! `cameo token`: it creates, lists and revokes tokens, and the server's `Authenticator` reads the same file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cameo::auth::{Authenticator, Role, Unauthenticated};
use cameo::config::AuthConfig;
use cameo::model::Workspace;
use tempfile::TempDir;

use crate::harness::*;

/// What every token of these tests is for.
const CRM: [&str; 6] = ["--name", "crm", "--role", "reader", "--workspace", "acme/*/*"];

/// What a command printed.
struct Ran {
    is_success: bool,
    stdout: String,
    stderr: String,
}

struct File {
    dir: TempDir,
}

impl File {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("callers.toml")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// Runs `cameo token` with this file.
    async fn run(&self, command: &str, args: &[&str]) -> Ran {
        ran(binary().args(["token", command, "--file"]).arg(self.path()).args(args)).await
    }

    async fn create(&self, args: &[&str]) -> Ran {
        self.run("create", &[&CRM, args].concat()).await
    }

    /// A new token.
    async fn token(&self, args: &[&str]) -> String {
        let created = self.create(args).await;
        assert!(created.is_success, "{}", created.stderr);
        created.stdout.trim_end().to_owned()
    }

    /// The rows of the list, without its head.
    async fn list(&self) -> Vec<Vec<String>> {
        let listed = self.run("list", &[]).await;
        assert!(listed.is_success, "{}", listed.stderr);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let mut rows: Vec<Vec<String>> = listed.stdout.lines().map(cells).collect();
        assert_eq!(rows.remove(0), ["ID", "NAME", "ROLES", "WORKSPACES", "EXPIRES", "STATE"]);
        rows
    }
}

async fn ran(command: &mut tokio::process::Command) -> Ran {
    let output = output(command).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { is_success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Why a server with the file refuses a token, if it does.
async fn refusal(path: &Path, token: &str) -> Option<Unauthenticated> {
    let auth = Authenticator::open(&AuthConfig { callers: Some(path.into()), ..AuthConfig::default() }).unwrap();
    auth.authenticate(Some(token), None).await.err()
}

fn id(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}

#[tokio::test]
async fn a_new_token_is_printed_once_and_its_file_holds_a_hash() {
    let file = File::new();
    let created = file.create(&["--expires", "90d"]).await;
    assert!(created.is_success, "{}", created.stderr);
    let token = created.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("cameo_") && token.lines().count() == 1, "the token stands alone");
    let secret = token.rsplit('_').next().unwrap();
    assert!(!created.stderr.contains(secret) && !file.text().contains(secret));
    assert!(created.stderr.contains(id(token)), "{}", created.stderr);
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(refusal(&file.path(), token).await, None);
    assert_eq!(refusal(&file.path(), &format!("{token}x")).await, Some(Unauthenticated::Unknown));
}

/// 90 seconds are not what somebody means who writes 90.
#[tokio::test]
async fn the_lifetime_of_a_token_has_a_unit() {
    let file = File::new();
    let refused = file.create(&["--expires", "90"]).await;
    assert!(!refused.is_success && refused.stderr.contains("90d") && !file.path().exists(), "{}", refused.stderr);
}

#[tokio::test]
async fn a_token_gives_what_its_flags_say() {
    let file = File::new();
    let more = ["--role", "subscriber", "--workspace", "beta/main/web", "--attribute-key", "plan", "--never-expires"];
    let token = file.token(&more).await;
    let config = AuthConfig { callers: Some(file.path()), ..AuthConfig::default() };
    let caller = Authenticator::open(&config).unwrap().authenticate(Some(&token), None).await.unwrap();
    assert_eq!((caller.name(), caller.expires()), (Some("crm"), None));
    assert!(caller.has(Role::Reader) && caller.has(Role::Subscriber) && !caller.has(Role::Writer));
    assert!(caller.grant().is_some());
    for (workspace, may_use) in [("acme/a/b", true), ("beta/main/web", true), ("beta/main/app", false)] {
        assert_eq!(caller.may_use(&Workspace::parse(workspace).unwrap()), may_use, "{workspace}");
    }
}

#[tokio::test]
async fn the_list_shows_every_caller_and_no_hash() {
    let file = File::new();
    assert!(!file.run("list", &[]).await.is_success, "the file does not exist");
    let (kept, revoked) = (file.token(&["--never-expires"]).await, file.token(&["--expires", "1h"]).await);
    let certificate = "\n[[caller]]\nname = \"web\"\nroles = [\"reader\", \"writer\"]\nworkspaces = [\"*/*/*\"]\n\
        certificate = \"dns:web.internal\"\nexpires = 2020-01-31T00:00:00Z\n";
    std::fs::write(file.path(), file.text() + certificate).unwrap();
    assert!(file.run("revoke", &["--id", id(&revoked)]).await.is_success);

    let rows = file.list().await;

    assert_eq!(rows[0], [id(&kept), "crm", "reader", "acme/*/*", "never", "active"]);
    assert_eq!((&*rows[1][0], &*rows[1][5]), (id(&revoked), "revoked"));
    let web = ["dns:web.internal", "web", "reader,writer", "*/*/*", "2020-01-31T00:00:00Z", "expired"];
    assert_eq!(rows[2], web);
    let hash = file.text().split("token_sha256 = \"").nth(1).unwrap()[..64].to_owned();
    assert!(!file.run("list", &[]).await.stdout.contains(&hash));
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_the_others_are_not() {
    let file = File::new();
    let (one, two) = (file.token(&["--expires", "1h"]).await, file.token(&["--expires", "1h"]).await);
    let other = file.run("create", &["--name=web", "--role=reader", "--workspace=*/*/*", "--never-expires"]).await;
    assert!(file.run("revoke", &["--id", id(&one)]).await.is_success);
    assert_eq!(refusal(&file.path(), &one).await, Some(Unauthenticated::Unknown));
    assert_eq!(refusal(&file.path(), &two).await, None);
    let again = file.run("revoke", &["--id", id(&one)]).await;
    assert!(again.is_success && again.stderr.contains("Nothing has changed"), "{}", again.stderr);
    assert!(file.run("revoke", &["--name", "crm"]).await.is_success);
    assert_eq!(refusal(&file.path(), &two).await, Some(Unauthenticated::Unknown));
    assert_eq!(refusal(&file.path(), other.stdout.trim_end()).await, None);
    for unknown in [["--id", "nonesuch"], ["--name", "nonesuch"]] {
        assert!(!file.run("revoke", &unknown).await.is_success);
    }
}

#[tokio::test]
async fn what_the_file_says_stays_comments_included() {
    let file = File::new();
    std::fs::write(file.path(), "# Ours: ask the platform team.").unwrap();
    let token = file.token(&["--expires", "1h"]).await;
    let before = file.text();
    assert!(before.starts_with("# Ours: ask the platform team.\n"), "{before}");
    file.token(&["--expires", "1h"]).await;
    assert!(file.text().starts_with(&before), "{}", file.text());
    assert!(file.run("revoke", &["--id", id(&token)]).await.is_success);
    assert!(file.text().starts_with("# Ours: ask the platform team.\n"));
    assert_eq!(file.list().await.len(), 2);
}

#[tokio::test]
async fn a_token_that_makes_no_caller_is_not_created() {
    let file = File::new();
    let reader = ["--name", "crm", "--role", "reader", "--workspace", "acme/*/*"];
    let with = |from: &str, to: &'static str| reader.map(|word| if word == from { to } else { word }.to_owned());
    let lasting =
        |words: [String; 6], more: &[&str]| words.into_iter().chain(more.iter().map(|w| (*w).into())).collect();
    let never = ["--never-expires"];
    let cases: [Vec<String>; 13] = [
        lasting(with("", ""), &[]),
        lasting(with("", ""), &["--expires", "90d", "--never-expires"]),
        lasting(with("", ""), &["--expires", "0"]),
        lasting(with("", ""), &["--expires", "90"]),
        lasting(with("", ""), &["--expires", "soon"]),
        lasting(with("", ""), &["--expires", "101years"]),
        lasting(with("", ""), &["--never-expires", "--field", "nonesuch"]),
        lasting(with("", ""), &["--never-expires", "--role", "writer", "--field", "attribution"]),
        lasting(with("crm", ""), &never),
        lasting(with("crm", "c\nrm"), &never),
        lasting(with("reader", "admin"), &never),
        lasting(with("acme/*/*", "acme"), &never),
        lasting(with("acme/*/*", "acme/*/*/*"), &never),
    ];
    for case in cases {
        let args: Vec<_> = case.iter().map(String::as_str).collect();
        let created = file.run("create", &args).await;
        assert!(!created.is_success && created.stdout.is_empty(), "{args:?}");
        assert!(!file.path().exists(), "{args:?}");
    }
    std::fs::write(file.path(), "[[caller]]\nname = 'hunter2'").unwrap();
    let created = file.create(&["--never-expires"]).await;
    assert!(!created.is_success && created.stdout.is_empty());
    assert!(created.stderr.contains("line 1") && !created.stderr.contains("hunter2"), "{}", created.stderr);
    assert_eq!(file.text(), "[[caller]]\nname = 'hunter2'");
}

#[tokio::test]
async fn the_variable_of_the_server_names_the_file() {
    let file = File::new();
    let create = ["token", "create", "--never-expires"];
    let created = ran(binary().env("CAMEO_CALLERS", file.path()).args(create).args(CRM)).await;
    assert!(created.is_success, "{}", created.stderr);
    assert_eq!(refusal(&file.path(), created.stdout.trim_end()).await, None);
    for nowhere in [None, Some("")] {
        let mut command = binary();
        nowhere.map(|empty| command.env("CAMEO_CALLERS", empty));
        let refused = ran(command.args(create).args(CRM)).await;
        assert!(!refused.is_success && refused.stderr.contains("--file"), "{}", refused.stderr);
    }
}
