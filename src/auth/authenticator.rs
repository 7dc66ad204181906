//! From a credential to a caller, and the files and keys that this takes, kept up to date.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::callers::{self, Callers};
use super::fetch::Fetcher;
use super::jwt::{self, Head, Rules};
use super::keys::{self, KeySet};
use super::remote::Remote;
use super::token;
use super::verified::Verified;
use super::watched::{FileError, Watched};
use super::{AuthError, Caller, Unauthenticated, signature};
use crate::config::{AuthConfig, Jwks};
use crate::telemetry::audit;
use crate::telemetry::metrics::{ReloadMetrics, Reloaded};

/// The largest token, in bytes: what the head of a request may hold, too.
pub const TOKEN_BYTES: usize = 8 << 10;
/// How often files are looked at, and how often it is checked whether keys are due.
const CHECK: Duration = Duration::from_secs(2);

/// Knows who makes a call. Clones of its `Arc` share everything.
pub struct Authenticator {
    callers: Option<Watched<Callers>>,
    jwts: Option<Jwts>,
    anyone: Arc<Caller>,
    reloads: ReloadMetrics,
}

/// The JWTs of an identity provider.
struct Jwts {
    rules: Rules,
    keys: Keys,
    verified: Verified,
}

enum Keys {
    File(Watched<KeySet>),
    Url(Arc<Remote>),
}

/// It shows nothing of what it knows.
impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator")
    }
}

impl Authenticator {
    /// Reads the files. Keys behind a URL are fetched later, for the source may be down.
    ///
    /// # Errors
    /// [`AuthError`] if a file is missing or malformed, or the settings contradict each other.
    pub fn open(config: &AuthConfig) -> Result<Arc<Self>, AuthError> {
        let callers = config.callers.as_deref().map(|path| {
            let watched = Watched::open(path, callers::FILE_BYTES, parse_callers, Callers::succeed)
                .map_err(AuthError::Callers)?;
            tracing::info!(callers = watched.current().len(), "read the callers file");
            Ok(watched)
        });
        let reloads = ReloadMetrics::default();
        let jwts = Jwts::open(config, &reloads)?;
        let anyone = Arc::new(Caller::anyone());
        Ok(Arc::new(Self { callers: callers.transpose()?, jwts, anyone, reloads }))
    }

    /// Whether the files and keys could be read again.
    #[must_use]
    pub fn reloads(&self) -> &ReloadMetrics {
        &self.reloads
    }

    /// Whether calls need a credential: whether any way to authenticate is configured.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.callers.is_some() || self.jwts.is_some()
    }

    /// Who makes a call with this bearer token, or with a verified client certificate that has these names. If there are
    /// both, the token counts, also if it is wrong.
    ///
    /// # Errors
    /// [`Unauthenticated`] if the credential is missing or not valid.
    pub async fn authenticate(
        &self,
        token: Option<&str>,
        certificate: Option<&[String]>,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        self.authenticate_if_room(token, certificate, || true).await
    }

    /// The same, with a bound on the calls that wait for keys. Before the call waits for a fetch, `has_room` says whether
    /// it may: its token is not verified yet, and any stranger can make one that names an unknown key.
    ///
    /// # Errors
    /// Those of [`Self::authenticate`], and [`Unauthenticated::Crowded`] if there is no room.
    pub async fn authenticate_if_room(
        &self,
        token: Option<&str>,
        certificate: Option<&[String]>,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        if !self.is_required() {
            return Ok(Arc::clone(&self.anyone));
        }
        match (token, certificate) {
            (Some(token), _) => self.by_token(token, has_room).await,
            (None, Some(names)) => self.callers()?.by_certificate(names, SystemTime::now()),
            (None, None) => Err(Unauthenticated::Missing),
        }
    }

    async fn by_token(&self, token: &str, has_room: impl FnOnce() -> bool) -> Result<Arc<Caller>, Unauthenticated> {
        if token.len() > TOKEN_BYTES {
            return Err(Unauthenticated::TooLarge);
        }
        if token::is_static(token) {
            return self.callers()?.by_token(token, SystemTime::now());
        }
        self.jwts.as_ref().ok_or(Unauthenticated::Unknown)?.authenticate(token, SystemTime::now(), has_room).await
    }

    fn callers(&self) -> Result<Arc<Callers>, Unauthenticated> {
        Ok(self.callers.as_ref().ok_or(Unauthenticated::Unknown)?.current())
    }

    /// Reads files that have changed, and fetches keys that are due, until `stop`.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.check().await;
        }
    }

    async fn check(self: &Arc<Self>) {
        if let Some(Jwts { keys: Keys::Url(remote), .. }) = &self.jwts {
            remote.refresh_if_due();
        }
        let this = Arc::clone(self);
        if tokio::task::spawn_blocking(move || this.reload()).await.is_err() {
            tracing::error!("the reading of credentials failed: what was read before stays in force");
        }
    }

    fn reload(&self) {
        if let Some(callers) = &self.callers {
            let what = "the callers file";
            self.tell(Reloaded::Callers, what, callers.reload(), || callers.current().len());
        }
        if let Some(Jwts { keys: Keys::File(keys), .. }) = &self.jwts {
            let what = "the keys that verify tokens";
            self.tell(Reloaded::Jwks, what, keys.reload(), || keys.current().len());
        }
    }

    /// Notes what came of a file, if it has changed.
    fn tell(
        &self,
        counted: Reloaded,
        what: &'static str,
        reloaded: Option<Result<(), FileError>>,
        held: impl Fn() -> usize,
    ) {
        let Some(reloaded) = reloaded else { return };
        self.reloads.note(counted, reloaded.is_ok());
        match reloaded {
            Ok(()) => {
                tracing::info!(what, entries = held(), "reloaded credentials");
                tracing::info!(target: audit::TARGET, reloaded = what, entries = held());
            }
            Err(cause) => {
                tracing::error!(what, %cause, "cannot reload credentials: what was read before stays in force");
            }
        }
    }
}

impl Jwts {
    /// `None` if there are no keys to verify JWTs with.
    fn open(config: &AuthConfig, reloads: &ReloadMetrics) -> Result<Option<Self>, AuthError> {
        let (issuer, audience) = (config.jwt_issuer.clone(), config.jwt_audience.clone());
        let Some(source) = &config.jwks else {
            let is_idle = issuer.is_some() || audience.is_some();
            return if is_idle { Err(AuthError::WithoutKeys) } else { Ok(None) };
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty()).ok_or(AuthError::Incomplete);
        let (issuer, audience) = (given(issuer)?, given(audience)?);
        signature::use_ring();
        let rules = Rules { issuer, audience, leeway: config.jwt_leeway, claim: config.jwt_claim.clone() };
        let keys = Keys::open(source, config.jwks_refresh, reloads)?;
        Ok(Some(Self { rules, keys, verified: Verified::default() }))
    }

    async fn authenticate(
        &self,
        token: &str,
        now: SystemTime,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        match self.verified.get(token, now) {
            Some(caller) => Ok(caller),
            // Boxed: most calls have no need of the room that it takes.
            None => Box::pin(self.verify_new(token, now, has_room)).await,
        }
    }

    /// Verifies a token that is not known, if need be with keys that are fetched.
    async fn verify_new(
        &self,
        token: &str,
        now: SystemTime,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        let head = jwt::head(token)?;
        let caller = match &self.keys {
            Keys::File(keys) => self.verify(token, &head, &keys.current(), now)?,
            Keys::Url(remote) => {
                if remote.keys().is_none_or(|keys| keys.1.lacks(head.kid.as_deref())) {
                    remote.ask(has_room).await?;
                }
                let keys = remote.keys().ok_or(Unauthenticated::Unavailable)?;
                self.verify(token, &head, &keys.1, now)?
            }
        };
        self.verified.put(token, Arc::clone(&caller), now);
        Ok(caller)
    }

    fn verify(&self, token: &str, head: &Head, keys: &KeySet, now: SystemTime) -> Result<Arc<Caller>, Unauthenticated> {
        let key = keys.find(head.kid.as_deref(), head.algorithm)?;
        self.rules.verify(token, key, now).map(Arc::new)
    }
}

impl Keys {
    fn open(source: &Jwks, refresh: Duration, reloads: &ReloadMetrics) -> Result<Self, AuthError> {
        match source {
            Jwks::File(path) => {
                let keys =
                    Watched::open(path, keys::SET_BYTES, KeySet::parse, KeySet::succeed).map_err(AuthError::Jwks)?;
                tracing::info!(keys = keys.current().len(), "read the keys that verify tokens");
                Ok(Self::File(keys))
            }
            Jwks::Url(url) => Ok(Self::Url(Remote::new(Fetcher::new(url.clone())?, refresh, reloads.clone()))),
        }
    }
}

fn parse_callers(content: &[u8]) -> Result<Callers, String> {
    let text = str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
    Callers::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
