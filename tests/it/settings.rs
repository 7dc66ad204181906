//! Settings: flags, variables, the settings file, and the document that lists them.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command};
use tempfile::TempDir;

use crate::harness::*;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- /settings -->";

/// `docs/settings.md` lists what `--help` lists. `UPDATE_DOCS=1 cargo test settings` writes it anew.
#[test]
fn the_document_lists_every_setting_as_the_help_does() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let command = cameo::cli::command();
    let listed = ["serve", "healthcheck", "compact", "backup", "restore", "check", "descriptor"];
    let tables = listed.map(|name| tables(command.find_subcommand(name).unwrap())).join("\n");
    let expected = format!("{before}{BEGIN}\n{tables}\n{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, &expected).unwrap();
    }
    assert!(document == expected || std::env::var_os("UPDATE_DOCS").is_some(), "run UPDATE_DOCS=1 cargo test settings");
}

/// A table for each heading of the help.
fn tables(command: &Command) -> String {
    let mut tables = String::new();
    let mut heading = None;
    for arg in command.get_arguments() {
        assert!(arg.get_env().is_some(), "{} has a variable", arg.get_id());
        if tables.is_empty() || arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let title = heading.map_or_else(|| format!("`cameo {}`", command.get_name()), str::to_owned);
            let gap = if tables.is_empty() { "" } else { "\n" };
            let head = "| flag | variable | default | meaning |\n|---|---|---|---|";
            writeln!(tables, "{gap}## {title}\n\n{head}").unwrap();
        }
        tables += &row(arg);
    }
    tables
}

fn row(arg: &Arg) -> String {
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
    let default = match defaults.join(", ") {
        none if none.is_empty() => String::new(),
        default => format!("`{default}`"),
    };
    let help = arg.get_long_help().or(arg.get_help()).unwrap().to_string().replace('\n', " ");
    let help = help.trim_end_matches('.');
    format!(
        "| `--{}` | `{}` | {default} | {help} |\n",
        arg.get_long().unwrap(),
        arg.get_env().unwrap().to_str().unwrap()
    )
}

/// The first block of the document in a language.
fn block(language: &str) -> String {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_commands_and_the_file_of_the_document_are_accepted() {
    for line in block("sh").lines() {
        let words: Vec<_> = line.split(" #").next().unwrap().split_whitespace().collect();
        let (variables, flags): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.starts_with("CAMEO_"));
        let variables: Vec<_> = variables.iter().map(|variable| variable.split_once('=').unwrap()).collect();
        let dir = TempDir::new().unwrap();
        settings_file(&dir, "cache-bytes = \"4GiB\"");
        let mut command = binary();
        command.current_dir(dir.path()).envs(variables).args(&flags[1..]);
        let mut process = TestProcess::start_as(&mut command, &dir.path().join("data"), &[]).await;
        let limits = process.client().await.status("").await.unwrap().limits.unwrap();
        assert_eq!(limits.cache_bytes, 4 << 30, "{line}");
        process.kill().await;
    }
    let limits = limits_with(&block("toml"), &[], &[]).await;
    assert_eq!((limits.cache_bytes, limits.max_attributes), (4 << 30, 2_000));
}

/// The limits in force of a server with this settings file, these variables and these flags.
async fn limits_with(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> cameo::proto::v1::ServerLimits {
    let dir = TempDir::new().unwrap();
    let path = settings_file(&dir, file);
    let mut command = binary();
    command.envs(variables.iter().copied()).arg("--config").arg(path);
    let mut process = TestProcess::start_as(&mut command, &dir.path().join("data"), flags).await;
    let limits = process.client().await.status("").await.unwrap().limits.unwrap();
    process.kill().await;
    limits
}

fn settings_file(dir: &TempDir, text: &str) -> std::path::PathBuf {
    let path = dir.path().join("cameo.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_flag_wins_over_its_variable_and_a_variable_over_the_file() {
    let file = "cache-bytes = \"3MiB\"\nring-bytes = \"4MiB\"\nstall-timeout = \"2m\"\n\
                max-attributes = 7\nhttp-rate = 9\ntrace-sample = 0.25";
    let variables = [("CAMEO_CACHE_BYTES", "5MiB"), ("CAMEO_RING_BYTES", "6000000")];
    let limits = limits_with(file, &variables, &["--cache-bytes", "8 MiB", "--drain-timeout", "1500ms"]).await;
    assert_eq!((limits.cache_bytes, limits.ring_bytes), (8 << 20, 6_000_000), "of the flag, of the variable");
    assert_eq!((limits.max_attributes, limits.http_rate), (7, 9), "of the file");
    assert_eq!(limits.stall_timeout, Some(prost_types::Duration { seconds: 120, nanos: 0 }));
    assert_eq!(limits.drain_timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    assert_eq!(limits.max_identities, 100, "the default");
}

/// What a server says that does not start with these settings.
async fn refusal_of(path: &Path, flags: &[&str]) -> String {
    let refused = output(binary().arg("serve").arg("--config").arg(path).args(flags)).await;
    assert!(!refused.status.success());
    String::from_utf8(refused.stderr).unwrap()
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_named() {
    let dir = TempDir::new().unwrap();
    for (file, said) in [
        ("cache-byte = 1", "there is no setting \"cache-byte\""),
        ("config = \"other.toml\"", "there is no setting \"config\""),
        ("[store]\ncache-bytes = 1", "there is no setting \"store\""),
        ("cache-bytes = \"lots\"", "cache-bytes: invalid value 'lots'"),
        ("cache-bytes = 1970-01-01", "cache-bytes: must be a text, a number"),
        ("cache-bytes = []", "cache-bytes: must be a text, a number"),
        ("max-attributes = 1e3", "max-attributes: invalid value '1000.0'"),
        ("trace-sample = 1.5", "trace-sample: invalid value '1.5': it is a number from 0 to 1"),
        ("otlp-endpoint = \"localhost:4317\"", "otlp-endpoint: invalid value 'localhost:4317': it is a URL"),
        ("max-attributes = 0", "max-attributes: invalid value '0'"),
        ("log-format = \"prose\"", "log-format: invalid value 'prose'"),
        ("insecure = \"perhaps\"", "insecure: invalid value 'perhaps'"),
        ("http-rate = -1", "http-rate: invalid value '-1'"),
        ("addr = \"localhost\"", "addr: invalid value 'localhost': an address is a host and a port"),
        ("insecure = false\ncache-bytes =", "is not TOML: line 2: "),
        ("cache-bytes = 1\ncache-bytes = 1", "is not TOML: line 2: duplicate key"),
    ] {
        let refusal = refusal_of(&settings_file(&dir, file), &[]).await;
        assert!(refusal.contains("cameo.toml") && refusal.contains(said), "{file}: {refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
        if let Some((key, _)) = said.split_once(": ").filter(|(_, problem)| problem.starts_with("invalid")) {
            let named = refusal.matches(&format!("{key}:")).count() + refusal.matches(&format!("--{key}")).count();
            assert_eq!(named, 1, "it names the setting once: {refusal}");
        }
    }
    for (path, cause) in [(dir.path().join("absent.toml"), "No such file"), (dir.path().to_owned(), "Is a directory")] {
        let refusal = refusal_of(&path, &[]).await;
        let said = format!("cannot read the settings file {}: {cause}", path.display());
        assert!(refusal.contains(&said) && refusal.contains("Correct --config"), "{refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }
    for (flag, said) in [
        ("--cache-bytes=lots", "a size is a number and a unit"),
        ("--queue-bytes=2GiB", "it must be 1 byte to 1GiB"),
        ("--cache-bytes=99999999999GiB", "it is larger than this machine can address"),
        ("--stall-timeout=0s", "it must be longer than 0"),
        ("--max-profile-bytes=0", "0 would refuse everything"),
        ("--max-attributes=0", "a whole number of at least 1"),
        ("--addr=localhost", "an address is a host and a port"),
    ] {
        let refusal = refusal_of(&settings_file(&dir, ""), &[flag]).await;
        assert!(refusal.contains(said), "{flag}: {refusal}");
    }
}

/// `insecure` is true as a flag without a value, and true or false wherever it has one.
#[tokio::test]
async fn a_switch_is_true_or_false() {
    let dir = TempDir::new().unwrap();
    let elsewhere = ["--addr", "0.0.0.0:0"];
    for (file, flags) in
        [("insecure = false", &elsewhere[..]), ("insecure = true", &["--addr", "0.0.0.0:0", "--insecure=false"])]
    {
        let refusal = refusal_of(&settings_file(&dir, file), flags).await;
        assert!(refusal.contains("pass --insecure"), "{file} {flags:?}: {refusal}");
    }
    for (file, variable) in [("insecure = true", ""), ("insecure = false", "yes")] {
        let path = settings_file(&dir, file);
        let mut command = binary();
        command.env("CAMEO_INSECURE", variable).arg("--config").arg(path);
        let mut process = TestProcess::start_as(&mut command, &dir.path().join("data"), &elsewhere).await;
        process.kill().await;
    }
}

/// With and without the name of the command. A flag wins over a wrong variable, with a settings file too, and an empty
/// variable is an unset one.
#[tokio::test]
async fn serve_may_be_left_out() {
    for command_line in [&["serve"][..], &[]] {
        let dir = TempDir::new().unwrap();
        let mut command = binary();
        command.args(command_line).env("CAMEO_CACHE_BYTES", "lots").env("CAMEO_CONFIG", "").env("CAMEO_RING_BYTES", "");
        let data = dir.path().join("data");
        let mut process = TestProcess::start_as(&mut command, &data, &["--cache-bytes", "5MiB"]).await;
        let limits = process.client().await.status("").await.unwrap().limits.unwrap();
        assert_eq!((limits.cache_bytes, limits.ring_bytes), (5 << 20, 64 << 20), "{command_line:?}");
        process.kill().await;

        command.arg("--config").arg(settings_file(&dir, "max-attributes = 7"));
        let mut process = TestProcess::start_as(&mut command, &data, &[]).await;
        let limits = process.client().await.status("").await.unwrap().limits.unwrap();
        assert_eq!((limits.cache_bytes, limits.max_attributes), (5 << 20, 7), "{command_line:?}");
        process.kill().await;
    }
}

#[tokio::test]
async fn help_and_the_version_need_no_command() {
    for (flag, said) in
        [("--help", "healthcheck"), ("-h", "healthcheck"), ("--version", "cameo 0.1.0"), ("-V", "cameo")]
    {
        let shown = output(binary().arg(flag)).await;
        assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains(said), "{flag}");
    }
    let unknown = output(binary().arg("sevre")).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("unrecognized subcommand 'sevre'"));
}
