//! Callers with credentials: a callers file, which the command line writes.

use std::path::PathBuf;

use cameo::config::Config;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{TestServer, WORKSPACE, binary, output};

/// A callers file.
pub struct CallersFile {
    dir: TempDir,
}

impl CallersFile {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("callers.toml")
    }

    /// Adds a caller with these roles in [`WORKSPACE`], and returns its token.
    pub async fn add(&self, name: &str, roles: &[&str]) -> String {
        self.add_with(name, roles, &["--workspace", WORKSPACE]).await
    }

    /// Adds a caller with these flags of `cameo token create`, and returns its token.
    pub async fn add_with(&self, name: &str, roles: &[&str], flags: &[&str]) -> String {
        let mut command = binary();
        command.args(["token", "create", "--name", name, "--file"]).arg(self.path());
        command.args(roles.iter().flat_map(|role| ["--role", role])).args(flags);
        if !flags.contains(&"--expires") {
            command.arg("--never-expires");
        }
        let created = output(&mut command).await;
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        String::from_utf8(created.stdout).unwrap().trim().to_owned()
    }

    /// Adds a caller with these roles everywhere, whose certificate has this name.
    pub fn add_certificate(&self, name: &str, roles: &[&str], certificate: &str) {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        let caller = format!("[[caller]]\nname = {name:?}\nroles = {roles:?}\nworkspaces = [\"*/*/*\"]\n");
        std::fs::write(self.path(), format!("{text}\n{caller}certificate = {certificate:?}\n")).unwrap();
    }

    /// Revokes a token.
    pub async fn revoke(&self, token: &str) {
        let id = token.split('_').nth(1).unwrap();
        let mut command = binary();
        command.args(["token", "revoke", "--id", id, "--file"]).arg(self.path());
        assert!(output(&mut command).await.status.success());
    }

    /// Makes a server ask for the credentials of this file.
    pub fn require(&self) -> impl FnOnce(&mut Config) + use<> {
        let path = self.path();
        |config| config.auth.callers = Some(path)
    }

    /// Starts a server that asks for them, with other settings changed too.
    pub async fn server_with(&self, change: impl FnOnce(&mut Config)) -> TestServer {
        let require = self.require();
        TestServer::start_with(|config| {
            require(config);
            change(config);
        })
        .await
    }
}

/// What a client presents with each call.
#[derive(Debug, Clone, Default)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    pub fn token(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().unwrap()))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
