//! What the clients of a server with authentication present: static tokens, and a JWT of a key that is made here.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::client::Credential;

const ISSUER: &str = "https://idp.example.com/";
const AUDIENCE: &str = "cameo.example.com";
const KID: &str = "bench";
/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The files of a server that asks for credentials.
pub struct Credentials {
    dir: PathBuf,
    key: Ed25519KeyPair,
}

impl Credentials {
    /// A callers file without callers and a set of one key, in a directory.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("ring makes no key"))?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| anyhow!("ring reads its own key"))?;
        std::fs::create_dir_all(dir)?;
        let credentials = Self { dir: dir.to_owned(), key };
        std::fs::write(credentials.callers(), "")?;
        let x = base64(credentials.key.public_key());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": KID, "x": x}]});
        std::fs::write(credentials.key_set(), set.to_string())?;
        Ok(credentials)
    }

    fn callers(&self) -> PathBuf {
        self.dir.join("callers.toml")
    }

    fn key_set(&self) -> PathBuf {
        self.dir.join("jwks.json")
    }

    /// The flags of a server that accepts these credentials.
    pub fn flags(&self) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        let (callers, keys) = (path(self.callers()), path(self.key_set()));
        let flags = ["--callers", &callers, "--jwks", &keys, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
        flags.map(str::to_owned).into()
    }

    /// The static token of a new caller, which a server accepts that is started later.
    pub async fn token(&self, name: &str, roles: &[&str], workspace: &str) -> anyhow::Result<Credential> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
        command.args(["token", "create", "--never-expires", "--name", name, "--workspace", workspace, "--file"]);
        command.arg(self.callers()).args(roles.iter().flat_map(|role| ["--role", role]));
        let created = command.output().await?;
        ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        bearer(String::from_utf8(created.stdout)?.trim_end())
    }

    /// The JWT of a caller.
    pub fn jwt(&self, name: &str, roles: &[&str], workspace: &str) -> anyhow::Result<Credential> {
        let end = (SystemTime::now() + LIFETIME).duration_since(UNIX_EPOCH).context("a clock")?.as_secs();
        let cameo = json!({"roles": roles, "workspaces": [workspace]});
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": name, "exp": end, "cameo": cameo});
        let part = |value: &Value| base64(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "EdDSA", "typ": "JWT", "kid": KID})), part(&claims));
        bearer(&format!("{message}.{}", base64(self.key.sign(message.as_bytes()))))
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn bearer(token: &str) -> anyhow::Result<Credential> {
    Ok(format!("Bearer {token}").parse()?)
}
