//! The callers file: who has a static token or a client certificate, and what they may do. It holds hashes, no tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use prost_types::Timestamp;
use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::token::{self, Hash};
use super::{Caller, CallerError, Claims, Unauthenticated};
use crate::telemetry::audit;

/// The most callers of a file, those included that were revoked.
pub const CALLERS: usize = 10_000;
/// The largest file.
pub const FILE_BYTES: u64 = 16 << 20;

/// One `[[caller]]` of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name. Several entries may have it: a new token for a caller whose old one is still in use.
    pub name: String,
    /// What the caller may do.
    pub roles: Vec<String>,
    /// Where.
    pub workspaces: Vec<String>,
    /// The fields of profiles that it may see. `None` for all.
    pub fields: Option<Vec<String>>,
    /// The keys of attributes that it may see. `None` for all.
    pub attribute_keys: Option<Vec<String>>,
    /// From when on it is not accepted.
    pub expires: Option<Datetime>,
    /// Since when it is not accepted. An entry that was revoked stays as a record.
    pub revoked: Option<Datetime>,
    /// The id of its static token.
    pub id: Option<String>,
    token_sha256: Option<String>,
    /// The name in its client certificate, such as `dns:crm.internal`.
    pub certificate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    caller: Vec<Spanned<Entry>>,
}

/// Why a callers file cannot be used. It holds nothing of what the file says.
#[allow(missing_docs)] // The message explains the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CallersError {
    pub line: usize,
    pub problem: &'static str,
}

/// The callers of a file, by their credentials.
#[derive(Default)]
pub struct Callers {
    tokens: HashMap<String, (Hash, Arc<Caller>)>,
    certificates: HashMap<String, Arc<Caller>>,
}

enum Credential {
    Token { id: String, hash: Hash },
    Certificate(String),
}

/// Parses the entries of a file, in their order.
///
/// # Errors
/// [`CallersError`] for the first that is malformed.
pub fn entries(text: &str) -> Result<Vec<Entry>, CallersError> {
    Ok(located(text)?.into_iter().map(|(_, entry)| entry).collect())
}

/// The entries with their lines.
fn located(text: &str) -> Result<Vec<(usize, Entry)>, CallersError> {
    let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let File { caller } = toml::from_str(text).map_err(|error| CallersError {
        line: line(error.span().map_or(0, |span| span.start)),
        problem: problem(error.message()),
    })?;
    let located: Vec<_> = caller.into_iter().map(|entry| (line(entry.span().start), entry.into_inner())).collect();
    match located.get(CALLERS) {
        Some((line, _)) => Err(CallersError { line: *line, problem: "it holds more than 10000 callers" }),
        None => Ok(located),
    }
}

/// What is wrong, without the words of the file: a secret may stand in the wrong place.
fn problem(message: &str) -> &'static str {
    let known = [
        (
            "unknown field",
            "a caller has only name, roles, workspaces, fields, attribute_keys, expires, revoked, id, token_sha256 and certificate",
        ),
        ("missing field", "a caller must have name, roles and workspaces"),
        ("duplicate", "a key stands twice"),
        ("invalid type", "the value is of the wrong type"),
    ];
    known.iter().find(|(start, _)| message.starts_with(start)).map_or("this is not TOML", |(_, problem)| problem)
}

impl Callers {
    /// Parses a file.
    ///
    /// # Errors
    /// [`CallersError`] for the first entry that makes no caller, or has the credential of another.
    pub fn parse(text: &str) -> Result<Self, CallersError> {
        let mut callers = Self::default();
        for (line, entry) in located(text)? {
            callers.add(&entry).map_err(|CallerError(problem)| CallersError { line, problem })?;
        }
        Ok(callers)
    }

    /// A revoked entry must be well-formed too, but its credential may belong to another by now.
    fn add(&mut self, entry: &Entry) -> Result<(), CallerError> {
        let caller = entry.caller()?;
        let credential = entry.credential()?;
        if entry.revoked.is_some() {
            return Ok(());
        }
        let is_new = match credential {
            Credential::Token { id, hash } => {
                let caller = Arc::new(caller.with_token(&id));
                self.tokens.insert(id, (hash, caller)).is_none()
            }
            Credential::Certificate(name) => self.certificates.insert(name, Arc::new(caller)).is_none(),
        };
        if is_new { Ok(()) } else { Err(CallerError("another caller has the same id or certificate")) }
    }

    /// Takes the place of the callers of an older file. Who is in both unchanged stays the same caller, and the others
    /// are revoked. Each difference is a line of the audit log.
    pub fn succeed(&mut self, old: &Self) {
        for (id, (hash, caller)) in &old.tokens {
            match self.tokens.get_mut(id) {
                Some((new_hash, new)) if new_hash == hash && new == caller => new.clone_from(caller),
                new => end(caller, id, new.map(|(_, new)| &**new)),
            }
        }
        for (name, caller) in &old.certificates {
            match self.certificates.get_mut(name) {
                Some(new) if new == caller => new.clone_from(caller),
                new => end(caller, name, new.map(|new| &**new)),
            }
        }
        for (id, (_, caller)) in self.tokens.iter().filter(|(id, _)| !old.tokens.contains_key(*id)) {
            tell(caller, id, "added");
        }
        for (name, caller) in self.certificates.iter().filter(|(name, _)| !old.certificates.contains_key(*name)) {
            tell(caller, name, "added");
        }
    }

    /// The caller with this static token. An id is no secret, so it is looked up; the hashes are compared.
    ///
    /// # Errors
    /// [`Unauthenticated`] if there is none, or it has expired.
    pub fn by_token(&self, token: &str, now: SystemTime) -> Result<Arc<Caller>, Unauthenticated> {
        let id = token::id_of(token).ok_or(Unauthenticated::Malformed)?;
        let (hash, caller) = self.tokens.get(id).ok_or(Unauthenticated::Unknown)?;
        if !hash.matches(&Hash::of(token.as_bytes())) {
            return Err(Unauthenticated::Unknown);
        }
        unexpired(caller, now)
    }

    /// The caller that a verified certificate names. If it has the names of several callers, the first counts.
    ///
    /// # Errors
    /// [`Unauthenticated`] if there is none, or it has expired.
    pub fn by_certificate(&self, names: &[String], now: SystemTime) -> Result<Arc<Caller>, Unauthenticated> {
        let mut callers = names.iter().filter_map(|name| self.certificates.get(&certificate_name(name)?));
        unexpired(callers.next().ok_or(Unauthenticated::Unknown)?, now)
    }

    /// How many callers there are that were not revoked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() + self.certificates.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Revokes a caller. `new` is who has its credential now.
fn end(caller: &Caller, credential: &str, new: Option<&Caller>) {
    caller.revoke();
    if new.is_some_and(|new| new.name() == caller.name()) {
        return tell(caller, credential, "changed");
    }
    tell(caller, credential, "removed");
    if let Some(new) = new {
        tell(new, credential, "added");
    }
}

/// A line of the audit log. An id and the name in a certificate are no secrets.
fn tell(caller: &Caller, credential: &str, change: &'static str) {
    tracing::info!(target: audit::TARGET, caller = caller.name(), credential, change);
}

fn unexpired(caller: &Arc<Caller>, now: SystemTime) -> Result<Arc<Caller>, Unauthenticated> {
    let is_expired = caller.expires().is_some_and(|expires| expires <= now);
    if is_expired { Err(Unauthenticated::Expired) } else { Ok(Arc::clone(caller)) }
}

impl Entry {
    /// When it expires.
    ///
    /// # Errors
    /// [`CallerError`] if that is not a point in time.
    pub fn expires(&self) -> Result<Option<SystemTime>, CallerError> {
        self.expires.as_ref().map(time).transpose()
    }

    fn caller(&self) -> Result<Caller, CallerError> {
        self.revoked.as_ref().map(time).transpose()?;
        Caller::new(&Claims {
            name: self.name.clone(),
            roles: self.roles.clone(),
            workspaces: self.workspaces.clone(),
            fields: limited(self.fields.clone())?,
            attribute_keys: limited(self.attribute_keys.clone())?,
            expires: self.expires()?,
        })
    }

    fn credential(&self) -> Result<Credential, CallerError> {
        match (&self.id, &self.token_sha256, &self.certificate) {
            (Some(id), Some(hash), None) => {
                let is_id = token::is_id(id);
                let hash = Hash::parse(hash).filter(|_| is_id);
                let hash =
                    hash.ok_or(CallerError("id is 8 to 64 letters and digits, and token_sha256 64 hex digits"))?;
                Ok(Credential::Token { id: id.clone(), hash })
            }
            (None, None, Some(name)) => certificate_name(name)
                .map(Credential::Certificate)
                .ok_or(CallerError("certificate is such as dns:crm.internal, uri:spiffe://..., email:... or ip:...")),
            _ => Err(CallerError("a caller has either id and token_sha256, or certificate")),
        }
    }
}

/// What a list of fields or keys says. An empty one is refused: it reads as nothing, and would mean everything.
///
/// # Errors
/// [`CallerError`] if the list is empty.
pub fn limited(list: Option<Vec<String>>) -> Result<Vec<String>, CallerError> {
    match list {
        Some(list) if list.is_empty() => Err(CallerError("fields and attribute_keys are left out, or name something")),
        list => Ok(list.unwrap_or_default()),
    }
}

/// The name in a certificate, in one spelling. `None` if it is malformed.
fn certificate_name(text: &str) -> Option<String> {
    let (kind, name) = text.split_once(':')?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return None; // A list of callers is printed to terminals.
    }
    match kind {
        "dns" => Some(format!("dns:{}", name.to_ascii_lowercase())),
        "ip" => Some(format!("ip:{}", name.parse::<IpAddr>().ok()?)),
        "uri" | "email" => Some(text.to_owned()),
        _ => None,
    }
}

fn time(datetime: &Datetime) -> Result<SystemTime, CallerError> {
    let is_complete = datetime.date.is_some() && datetime.time.is_some() && datetime.offset.is_some();
    let parsed = Some(datetime.to_string()).filter(|_| is_complete).and_then(|text| text.parse::<Timestamp>().ok());
    let time = parsed.and_then(|timestamp| SystemTime::try_from(timestamp).ok());
    time.ok_or(CallerError("a time is such as 2027-01-31T00:00:00Z, without quotes"))
}

#[cfg(test)]
mod tests;
