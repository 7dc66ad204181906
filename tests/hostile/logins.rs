//! Credentials: those that the server under attack asks for, and those that strangers make up.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// The id of the one key of the identity provider.
pub const KNOWN: &str = "october";
/// The id of a key that nobody has.
pub const UNKNOWN: &str = "november";
/// Bytes of the modulus of an RSA key of 2048 bits, and of a signature.
const RSA_BYTES: usize = 256;

/// Where the server gets the keys of JWTs from.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    File,
    /// A URL that takes requests and never responds.
    Silence,
}

/// A callers file with one caller, and the keys of JWTs.
pub struct Logins {
    dir: TempDir,
    /// The token of the caller.
    pub token: String,
    jwks: String,
}

impl Logins {
    pub async fn new(keys: Keys) -> Self {
        let dir = TempDir::new().expect("a directory");
        let (token, path) = (create_token(&dir.path().join("callers.toml")), dir.path().join("jwks.json"));
        let jwks = match keys {
            Keys::File => {
                std::fs::write(&path, key_set()).expect("a file");
                path.to_str().expect("a path").to_owned()
            }
            Keys::Silence => silence().await,
        };
        Self { dir, token, jwks }
    }

    /// The flags of a server that asks for them.
    pub fn flags(&self) -> Vec<String> {
        let callers = self.dir.path().join("callers.toml");
        let issuer = ["--jwt-issuer", "https://idp.example.com/", "--jwt-audience", "cameo.example.com"];
        let flags = ["--callers", callers.to_str().expect("a path"), "--jwks", &self.jwks];
        flags.into_iter().chain(issuer).map(str::to_owned).collect()
    }
}

/// Adds a caller that may read and write everywhere, and returns its token.
fn create_token(file: &PathBuf) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
    command.args(["token", "create", "--name", "polite", "--role", "reader", "--role", "writer"]);
    command.args(["--workspace", "*/*/*", "--never-expires", "--file"]).arg(file);
    let created = command.output().expect("the command runs");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    String::from_utf8(created.stdout).expect("a token").trim().to_owned()
}

/// A key set with a key that verifies nothing, at the cost of one that does.
fn key_set() -> String {
    let modulus = base64([0xff; RSA_BYTES]);
    let key = json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": KNOWN, "n": modulus, "e": "AQAB"});
    json!({"keys": [key]}).to_string()
}

/// The URL of a server that takes every connection and keeps it.
async fn silence() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut open: Vec<TcpStream> = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    url
}

/// The header that presents a JWT which names this key, and which its owner has not signed.
pub fn forged(kid: &str) -> (String, String) {
    let part = |part: Value| base64(part.to_string());
    let message = format!("{}.{}", part(json!({"alg": "RS256", "kid": kid})), part(json!({})));
    ("authorization".to_owned(), format!("Bearer {message}.{}", base64([0x55; RSA_BYTES])))
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
