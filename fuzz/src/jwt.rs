//! Target: any text as the bearer token of a call.
//!
//! - Nothing panics.
//! - No token is accepted: whoever made the input does not have the private keys, and what the seeds hold that is signed
//!   is refused for another reason. Keep it so: a seed that is accepted would be a credential.
//! - A refusal repeats nothing of the token.

use std::sync::{Arc, LazyLock};

use cameo::auth::Authenticator;
use cameo::config::{AuthConfig, Jwks};
use tokio::runtime::{Builder, Runtime};

/// A part of a token that is this long stands in no message by chance.
const PART_BYTES: usize = 16;

/// The public keys of the seeds. Nobody has the private ones any more.
const KEYS: &[u8] = include_bytes!("jwks.json");

static SERVER: LazyLock<(Arc<Authenticator>, Runtime)> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::new().expect("the system has a place for temporary files");
    std::fs::write(&file, KEYS).expect("the file is ours");
    let config = AuthConfig {
        jwks: Some(Jwks::File(file.path().to_owned())),
        jwt_issuer: Some("https://idp.example.com/".into()),
        jwt_audience: Some("cameo".into()),
        ..AuthConfig::default()
    };
    let authenticator = Authenticator::open(&config).expect("the keys are well formed");
    (authenticator, Builder::new_current_thread().build().expect("threads have runtimes"))
});

pub fn run(input: &[u8]) {
    let Ok(token) = std::str::from_utf8(input) else { return };
    let (authenticator, runtime) = &*SERVER;
    let refused = runtime.block_on(authenticator.authenticate(Some(token), None)).expect_err("nobody has the keys");
    let message = refused.to_string();
    let is_repeated = |part: &[u8]| message.as_bytes().windows(PART_BYTES).any(|words| words == part);
    assert!(!input.windows(PART_BYTES).any(is_repeated), "{message}");
}
