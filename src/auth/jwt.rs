//! What a JWT must be: signed by a key of the identity provider, of its issuer, for this server, now, and with a claim
//! that says what the caller may do.
//!
//! Of the header, only `alg`, `kid` and `crit` count. `jku`, `x5u` and `jwk` would let a token bring its own key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::callers::limited;
use super::keys::{KID_BYTES, Key};
use super::{Caller, CallerError, Claims, Unauthenticated};

/// What every JWT must say.
pub struct Rules {
    /// Its claim `iss`.
    pub issuer: String,
    /// What its claim `aud` contains.
    pub audience: String,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// The claim with the roles and workspaces.
    pub claim: String,
}

/// How to verify a JWT. It comes from the token, so it chooses a key and nothing else.
pub struct Head {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// By which key.
    pub kid: Option<String>,
}

#[derive(Deserialize)]
struct RawHead {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// What the claim of the settings holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Granted {
    roles: Vec<String>,
    workspaces: Vec<String>,
    fields: Option<Vec<String>>,
    attribute_keys: Option<Vec<String>>,
}

/// Reads the header of a JWT.
///
/// # Errors
/// [`Unauthenticated`] if the token is no JWT, or has an algorithm that is not accepted.
pub fn head(token: &str) -> Result<Head, Unauthenticated> {
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Unauthenticated::Malformed);
    };
    let head = BASE64_URL_SAFE_NO_PAD.decode(head).map_err(|_| Unauthenticated::Malformed)?;
    let RawHead { alg, kid, crit } = serde_json::from_slice(&head).map_err(|_| Unauthenticated::Malformed)?;
    let algorithm = match &*alg {
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        _ => return Err(Unauthenticated::Algorithm),
    };
    // `crit` names extensions that must be understood, and none is.
    if crit.is_some() || kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES) {
        return Err(Unauthenticated::Malformed);
    }
    Ok(Head { algorithm, kid })
}

impl Rules {
    /// The caller that a JWT names, if `key` signed it. It is over when the key is withdrawn.
    ///
    /// # Errors
    /// [`Unauthenticated`] if the JWT breaks one of the rules.
    pub fn verify(&self, token: &str, key: &Key, now: SystemTime) -> Result<Caller, Unauthenticated> {
        let verified = decode::<Map<String, Value>>(token, &key.public, &self.validation(key.algorithm));
        let claims = verified.map_err(|error| refusal(error.kind()))?.claims;
        let expires = self.expires(&claims, now)?;
        let caller = self.caller(claims, expires).map_err(Unauthenticated::Claims)?;
        Ok(caller.until(Arc::clone(&key.is_withdrawn)))
    }

    /// Times are not checked by the crate, which has its own clock.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        validation
    }

    /// From when on the token is not accepted, if it is now.
    fn expires(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<SystemTime, Unauthenticated> {
        let expires = date(claims, "exp")?.and_then(|exp| exp.checked_add(self.leeway));
        let expires = expires.ok_or(Unauthenticated::Malformed)?;
        if expires <= now {
            return Err(Unauthenticated::Expired);
        }
        for begin in ["nbf", "iat"] {
            if date(claims, begin)?.is_some_and(|begin| begin > now + self.leeway) {
                return Err(Unauthenticated::NotYetValid);
            }
        }
        Ok(expires)
    }

    fn caller(&self, mut claims: Map<String, Value>, expires: SystemTime) -> Result<Caller, CallerError> {
        let granted = claims.remove(&self.claim).ok_or(CallerError("it lacks the claim with roles and workspaces"))?;
        let Granted { roles, workspaces, fields, attribute_keys } = serde_json::from_value(granted).map_err(|_| {
            CallerError("its claim is an object with the lists roles, workspaces, fields and attribute_keys")
        })?;
        Caller::new(&Claims {
            name: claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned(),
            roles,
            workspaces,
            fields: limited(fields)?,
            attribute_keys: limited(attribute_keys)?,
            expires: Some(expires),
        })
    }
}

/// A claim that is a time, in seconds since 1970. It may have a fraction.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Unauthenticated> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let since = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    time.map(Some).ok_or(Unauthenticated::Malformed)
}

fn refusal(kind: &ErrorKind) -> Unauthenticated {
    match kind {
        ErrorKind::InvalidSignature => Unauthenticated::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Unauthenticated::Algorithm,
        ErrorKind::InvalidIssuer => Unauthenticated::Issuer,
        ErrorKind::InvalidAudience => Unauthenticated::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match &**claim {
            "iss" => Unauthenticated::Issuer,
            "aud" => Unauthenticated::Audience,
            _ => Unauthenticated::Malformed,
        },
        _ => Unauthenticated::Malformed,
    }
}

#[cfg(test)]
mod tests;
