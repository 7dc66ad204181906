use std::path::Path;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::auth::tests::source::{Reply, Source, pass};
use crate::auth::tests::{AUDIENCE, ISSUER, Signer, claims, set, with};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A callers file with a static token and a certificate, and a set with one key.
struct Files {
    dir: TempDir,
    token: String,
    signer: Signer,
}

impl Files {
    fn new(signer: Signer) -> Self {
        let files = Self { dir: TempDir::new().unwrap(), token: token::fresh().token, signer };
        std::fs::write(files.callers(), files.entry("")).unwrap();
        std::fs::write(files.jwks(), set(&[files.signer.jwk("k")])).unwrap();
        files
    }

    fn callers(&self) -> std::path::PathBuf {
        self.dir.path().join("callers.toml")
    }

    fn jwks(&self) -> std::path::PathBuf {
        self.dir.path().join("jwks.json")
    }

    /// The callers `batch`, with the token, and `crm`, with a certificate.
    fn entry(&self, more: &str) -> String {
        let (id, hash) = (token::id_of(&self.token).unwrap(), token::Hash::of(self.token.as_bytes()).to_hex());
        let rest = "roles = ['reader']\nworkspaces = ['acme/*/*']";
        let crm = format!("[[caller]]\nname = 'crm'\n{rest}\ncertificate = 'dns:crm.internal'\n");
        format!("{crm}[[caller]]\nname = 'batch'\n{rest}\nid = '{id}'\ntoken_sha256 = '{hash}'\n{more}")
    }

    fn open(&self) -> Arc<Authenticator> {
        let jwks = Some(Jwks::File(self.jwks()));
        Authenticator::open(&AuthConfig { callers: Some(self.callers()), ..with_jwks(jwks) }).unwrap()
    }

    fn jwt(&self) -> String {
        self.signer.token("k", &claims(now()))
    }
}

fn with_jwks(jwks: Option<Jwks>) -> AuthConfig {
    let (jwt_issuer, jwt_audience) = (Some(ISSUER.to_owned()), Some(AUDIENCE.to_owned()));
    AuthConfig { jwks, jwt_issuer, jwt_audience, ..AuthConfig::default() }
}

/// The name of the caller, or why there is none.
async fn name(auth: &Authenticator, token: &str) -> Result<String, Unauthenticated> {
    auth.authenticate(Some(token), None).await.map(|caller| caller.name().unwrap().to_owned())
}

fn certificate(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

#[tokio::test]
async fn without_a_configuration_everyone_is_anyone() {
    let auth = Authenticator::open(&AuthConfig::default()).unwrap();
    assert!(!auth.is_required());
    for token in [None, Some("hunter2")] {
        assert_eq!(*auth.authenticate(token, Some(&certificate("dns:crm"))).await.unwrap(), Caller::anyone());
    }
}

#[tokio::test]
async fn a_credential_of_each_kind_names_its_caller() {
    let files = Files::new(Signer::rsa());
    let auth = files.open();
    assert!(auth.is_required());
    assert_eq!(name(&auth, &files.token).await, Ok("batch".to_owned()));
    assert_eq!(name(&auth, &files.jwt()).await, Ok("crm".to_owned()));
    let caller = auth.authenticate(None, Some(&certificate("dns:crm.internal"))).await.unwrap();
    assert_eq!(caller.name(), Some("crm"));
}

#[tokio::test]
async fn a_call_without_a_credential_is_refused_whatever_is_configured() {
    let files = Files::new(Signer::ed());
    let callers = AuthConfig { callers: Some(files.callers()), ..AuthConfig::default() };
    let jwts = with_jwks(Some(Jwks::File(files.jwks())));
    for config in [callers, jwts] {
        let auth = Authenticator::open(&config).unwrap();
        assert!(auth.is_required());
        assert_eq!(auth.authenticate(None, None).await, Err(Unauthenticated::Missing));
        assert!(auth.authenticate(None, Some(&[])).await.is_err());
        assert!(auth.authenticate(Some(""), None).await.is_err());
    }
}

/// A client that sends a wrong token does not mean its certificate.
#[tokio::test]
async fn a_token_wins_over_a_certificate() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let crm = certificate("dns:crm.internal");
    assert_eq!(auth.authenticate(Some(&files.token), Some(&crm)).await.unwrap().name(), Some("batch"));
    assert_eq!(auth.authenticate(Some("hunter2"), Some(&crm)).await, Err(Unauthenticated::Malformed));
}

#[tokio::test]
async fn a_credential_of_a_kind_that_is_not_configured_is_unknown() {
    let files = Files::new(Signer::ed());
    let callers = AuthConfig { callers: Some(files.callers()), ..AuthConfig::default() };
    let auth = Authenticator::open(&callers).unwrap();
    assert_eq!(name(&auth, &files.jwt()).await, Err(Unauthenticated::Unknown));
    let auth = Authenticator::open(&with_jwks(Some(Jwks::File(files.jwks())))).unwrap();
    assert_eq!(name(&auth, &files.token).await, Err(Unauthenticated::Unknown));
    let refused = auth.authenticate(None, Some(&certificate("dns:crm.internal"))).await;
    assert_eq!(refused, Err(Unauthenticated::Unknown));
}

#[tokio::test]
async fn a_token_has_8_kib_at_most() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let padded = |bytes: usize| files.signer.token("k", &with(claims(now()), "padding", json!("x".repeat(bytes))));
    let fits = (0..6_000).map(|less| padded(6_000 - less)).find(|token| token.len() <= TOKEN_BYTES).unwrap();
    assert!(name(&auth, &fits).await.is_ok(), "{} bytes", fits.len());
    for huge in [padded(6_100), format!("{}{}", files.token, "x".repeat(TOKEN_BYTES)), "x".repeat(TOKEN_BYTES + 1)] {
        assert_eq!(name(&auth, &huge).await, Err(Unauthenticated::TooLarge));
    }
    assert_eq!(name(&auth, &"x".repeat(TOKEN_BYTES)).await, Err(Unauthenticated::Malformed));
}

/// The message ends in the response and in the log.
#[tokio::test]
async fn a_refusal_holds_nothing_of_the_credential() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let evil = |name: &str, value: Value| files.signer.token("k", &with(claims(now()), name, value));
    let named = |name: &str| json!({"roles": [name], "workspaces": ["acme/*/*"]});
    for token in [
        "hunter2".to_owned(),
        "cameo_hunter22_hunter2".to_owned(),
        files.signer.token("hunter2", &claims(now())),
        evil("iss", json!("hunter2")),
        evil("aud", json!("hunter2")),
        evil("sub", json!("hunter2\n")),
        evil("cameo", named("hunter2")),
        evil("cameo", json!({"hunter2": 1})),
    ] {
        let refused = name(&auth, &token).await.unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused}");
    }
}

#[tokio::test]
async fn the_second_call_with_a_jwt_costs_no_check_of_its_signature() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let jwt = files.jwt();
    let first = auth.authenticate(Some(&jwt), None).await.unwrap();
    let second = auth.authenticate(Some(&jwt), None).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second), "it is remembered");
}

#[tokio::test]
async fn a_jwt_that_was_verified_expires_all_the_same() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let (jwts, jwt, now) = (auth.jwts.as_ref().unwrap(), files.jwt(), SystemTime::now());
    jwts.authenticate(&jwt, now, || true).await.unwrap();
    let leeway = AuthConfig::default().jwt_leeway;
    let late = now + Duration::from_secs(3_601) + leeway;
    assert_eq!(jwts.authenticate(&jwt, late, || true).await, Err(Unauthenticated::Expired));
}

#[test]
fn settings_that_would_accept_tokens_of_others_are_refused() {
    let files = Files::new(Signer::ed());
    let good = || with_jwks(Some(Jwks::File(files.jwks())));
    let empty = || Some(String::new());
    for config in [
        AuthConfig { jwt_issuer: None, ..good() },
        AuthConfig { jwt_audience: None, ..good() },
        AuthConfig { jwt_issuer: empty(), ..good() },
        AuthConfig { jwt_audience: empty(), ..good() },
    ] {
        assert!(matches!(Authenticator::open(&config), Err(AuthError::Incomplete)));
    }
    assert!(matches!(Authenticator::open(&with_jwks(None)), Err(AuthError::WithoutKeys)));
}

#[test]
fn a_file_that_is_missing_or_malformed_is_an_error_at_the_start() {
    let files = Files::new(Signer::ed());
    let opened = |callers: &Path, jwks: &Path| {
        let config = AuthConfig { callers: Some(callers.into()), ..with_jwks(Some(Jwks::File(jwks.into()))) };
        Authenticator::open(&config)
    };
    assert!(opened(&files.callers(), &files.jwks()).is_ok());
    let (missing, dir) = (files.dir.path().join("missing"), files.dir.path());
    for bad in [&missing, dir, &files.jwks()] {
        assert!(matches!(opened(bad, &files.jwks()), Err(AuthError::Callers(_))), "{}", bad.display());
    }
    for bad in [&missing, dir, &files.callers()] {
        assert!(matches!(opened(&files.callers(), bad), Err(AuthError::Jwks(_))), "{}", bad.display());
    }
    std::fs::write(files.callers(), [0xff]).unwrap();
    let error = opened(&files.callers(), &files.jwks()).err().unwrap().to_string();
    assert!(error.contains("callers.toml") && error.contains("UTF-8"), "{error}");
}

/// Follows the files until `is_so`, for a minute at most. The time is not the real one.
async fn follow<F: Future<Output = bool>>(auth: &Arc<Authenticator>, is_so: impl Fn() -> F) -> bool {
    let stop = CancellationToken::new();
    let fresh = tokio::spawn(auth.clone().keep_fresh(stop.clone()));
    let mut was = false;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        was = is_so().await;
        if was {
            break;
        }
    }
    stop.cancel();
    fresh.await.unwrap();
    was
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_while_the_server_runs_is_refused() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    name(&auth, &files.token).await.unwrap();
    std::fs::write(files.callers(), files.entry("revoked = 2026-01-01T00:00:00Z")).unwrap();
    let is_refused = async || name(&auth, &files.token).await == Err(Unauthenticated::Unknown);
    assert!(follow(&auth, is_refused).await);
    assert!(auth.authenticate(None, Some(&certificate("dns:crm.internal"))).await.is_ok(), "the others stay");
}

#[tokio::test]
async fn a_file_that_becomes_wrong_changes_nothing() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    std::fs::write(files.callers(), files.entry("hunter2")).unwrap();
    std::fs::write(files.jwks(), "hunter2").unwrap();
    auth.check().await;
    std::fs::remove_file(files.jwks()).unwrap();
    auth.check().await;
    assert!(name(&auth, &files.token).await.is_ok() && name(&auth, &files.jwt()).await.is_ok());
    assert!(auth.reloads().failed(Reloaded::Callers) && auth.reloads().failed(Reloaded::Jwks));
    std::fs::write(files.callers(), files.entry("expires = 2020-01-01T00:00:00Z")).unwrap();
    auth.check().await;
    assert_eq!(name(&auth, &files.token).await, Err(Unauthenticated::Expired), "it is right again");
    assert!(!auth.reloads().failed(Reloaded::Callers) && auth.reloads().failed(Reloaded::Jwks));
}

/// Also a token that was verified with it.
#[tokio::test]
async fn a_key_that_leaves_its_file_verifies_nothing_more() {
    let files = Files::new(Signer::ed());
    let auth = files.open();
    let (jwt, next) = (files.jwt(), Signer::ec());
    name(&auth, &jwt).await.unwrap();
    std::fs::write(files.jwks(), set(&[next.jwk("next")])).unwrap();
    auth.check().await;
    assert_eq!(name(&auth, &jwt).await, Err(Unauthenticated::UnknownKey));
    assert!(name(&auth, &next.token("next", &claims(now()))).await.is_ok());
}

/// Its streams, imports and exports end then.
#[tokio::test]
async fn a_caller_is_over_when_the_key_of_its_jwt_leaves_the_file_and_not_before() {
    let files = Files::new(Signer::rsa());
    let auth = files.open();
    let (jwt, old, new) = (files.jwt(), files.signer.jwk("k"), Signer::ec().jwk("next"));
    let caller = auth.authenticate(Some(&jwt), None).await.unwrap();
    let is_over = || caller.is_over(SystemTime::now());
    for keys in [vec![old.clone(), new.clone()], vec![new.clone(), with(old, "alg", json!("RS256"))]] {
        std::fs::write(files.jwks(), set(&keys)).unwrap();
        auth.check().await;
        assert!(!is_over(), "the key is listed");
        assert!(Arc::ptr_eq(&caller, &auth.authenticate(Some(&jwt), None).await.unwrap()));
    }
    std::fs::write(files.jwks(), set(&[new])).unwrap();
    auth.check().await;
    assert!(is_over());
}

/// A provider that was broken into has a new key under the old name.
#[tokio::test]
async fn a_caller_is_over_when_another_key_takes_the_name_of_its_own() {
    for (signer, other) in [(Signer::ed(), Signer::ed()), (Signer::rsa(), Signer::ed())] {
        let files = Files::new(signer);
        let auth = files.open();
        let caller = auth.authenticate(Some(&files.jwt()), None).await.unwrap();
        std::fs::write(files.jwks(), set(&[other.jwk("k")])).unwrap();
        auth.check().await;
        assert!(caller.is_over(SystemTime::now()));
    }
}

#[tokio::test]
async fn a_caller_outlives_a_source_that_is_down_and_not_the_withdrawal_of_its_key() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let (source, auth) = remote(keys(&[(&old, "old")])).await;
    let caller = auth.authenticate(Some(&old.token("old", &claims(now()))), None).await.unwrap();
    let is_over = || caller.is_over(SystemTime::now());
    let stranger = new.token("new", &claims(now()));
    for reply in [Reply::Status(503), keys(&[(&new, "other"), (&old, "old")])] {
        source.reply(reply);
        pass(Duration::from_secs(10)).await;
        assert!(name(&auth, &stranger).await.is_err() && !is_over());
    }
    assert!(!auth.reloads().failed(Reloaded::Jwks));
    source.reply(keys(&[(&new, "new")]));
    pass(Duration::from_secs(10)).await;
    assert!(name(&auth, &stranger).await.is_ok() && is_over());
}

/// An authenticator with the keys of a source.
async fn remote(reply: Reply) -> (Source, Arc<Authenticator>) {
    let source = Source::start(reply).await;
    let auth = Authenticator::open(&with_jwks(Some(Jwks::Url(source.url.clone())))).unwrap();
    (source, auth)
}

fn keys(signers: &[(&Signer, &str)]) -> Reply {
    Reply::Keys(set(&signers.iter().map(|(signer, kid)| signer.jwk(kid)).collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_rotated_key_is_fetched_by_the_first_token_that_names_it() {
    let (old, new) = (Signer::ed(), Signer::rsa());
    let (source, auth) = remote(keys(&[(&old, "old")])).await;
    let of = |signer: &Signer, kid: &str| signer.token(kid, &claims(now()));
    assert_eq!(name(&auth, &of(&old, "old")).await, Ok("crm".to_owned()), "the first call waits for the keys");
    source.reply(keys(&[(&old, "old"), (&new, "new")]));
    pass(Duration::from_secs(10)).await;
    assert_eq!(name(&auth, &of(&new, "new")).await, Ok("crm".to_owned()));
    source.reply(keys(&[(&new, "new")]));
    pass(Duration::from_secs(10)).await;
    assert_eq!(name(&auth, &of(&new, "other")).await, Err(Unauthenticated::UnknownKey));
    assert_eq!(name(&auth, &of(&old, "old")).await, Err(Unauthenticated::UnknownKey), "it was withdrawn");
    assert_eq!(source.requests(), 3);
}

#[tokio::test]
async fn a_source_that_is_down_is_unavailable_until_its_keys_are_known() {
    let signer = Signer::ed();
    let (source, auth) = remote(Reply::Status(503)).await;
    let jwt = signer.token("k", &claims(now()));
    for _ in 0..3 {
        assert_eq!(name(&auth, &jwt).await, Err(Unauthenticated::Unavailable));
    }
    assert_eq!(source.requests(), 1);
    assert_eq!(name(&auth, "hunter2").await, Err(Unauthenticated::Malformed), "no keys are needed to refuse it");
    source.reply(keys(&[(&signer, "k")]));
    pass(Duration::from_secs(10)).await;
    assert!(auth.reloads().failed(Reloaded::Jwks));
    name(&auth, &jwt).await.unwrap();
    assert!(!auth.reloads().failed(Reloaded::Jwks));
    source.reply(Reply::Status(503));
    pass(Duration::from_secs(7_200)).await;
    auth.check().await;
    source.asked(3).await;
    assert!(name(&auth, &jwt).await.is_ok(), "the known keys stay in force");
    let second = signer.token("k", &with(claims(now()), "sub", json!("web")));
    assert_eq!(name(&auth, &second).await, Ok("web".to_owned()), "also for tokens that are new");
}

/// A token, and the place of a byte and its replacement.
fn mutation() -> impl Strategy<Value = (usize, Index, u8)> {
    (0..4_usize, any::<Index>(), 0x20_u8..0x7f)
}

#[test]
fn any_change_of_one_byte_of_a_token_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all: Vec<_> = [Signer::rsa(), Signer::ec(), Signer::ed()].map(Files::new).into();
    let mut tokens: Vec<_> = all.iter().map(|files| (files.open(), files.jwt())).collect();
    tokens.push((all[0].open(), all[0].token.clone()));
    for (auth, token) in &tokens {
        runtime.block_on(name(auth, token)).unwrap(); // A change is not taken for what is remembered.
    }
    proptest!(ProptestConfig::with_cases(2_000), |((which, place, byte) in mutation())| {
        let (auth, token) = &tokens[which];
        let mut changed = token.clone().into_bytes();
        let place = place.index(changed.len());
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(runtime.block_on(name(auth, &changed)).is_err(), "byte {} of token {}", place, which);
    });
}
