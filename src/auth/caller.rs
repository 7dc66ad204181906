//! A caller: who makes a call, and what it may do and see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::model::Workspace;
use crate::model::grant::Grant;

/// The longest name of a caller, in bytes. It stands in every event that the caller makes.
const NAME_BYTES: usize = 128;
/// The most patterns that a caller may have.
const PATTERNS: usize = 1_000;

/// What a caller may do. A caller may have several roles; none includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks profiles up.
    Reader,
    /// Reads and subscribes to events, and keeps subscriptions.
    Subscriber,
    /// Changes profiles.
    Writer,
    /// Registers audiences, merges, erases and exports people, and says how identities resolve.
    Steward,
    /// Watches, backs up and compacts the server.
    Operator,
}

/// Every role.
pub const ROLES: [Role; 5] = [Role::Reader, Role::Subscriber, Role::Writer, Role::Steward, Role::Operator];

impl Role {
    /// The name, as in tokens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Subscriber => "subscriber",
            Self::Writer => "writer",
            Self::Steward => "steward",
            Self::Operator => "operator",
        }
    }

    /// The role with this name.
    ///
    /// # Errors
    /// [`CallerError`] if there is none.
    pub fn parse(name: &str) -> Result<Self, CallerError> {
        let role = ROLES.into_iter().find(|role| role.name() == name);
        role.ok_or(CallerError("a role is reader, subscriber, writer, steward or operator"))
    }
}

/// Which workspaces a caller may use: three parts as in a workspace's name, of which each may be `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern, such as `acme/*/*`.
    ///
    /// # Errors
    /// [`CallerError`] if it is not three parts, each `*` or a part of a workspace's name.
    pub fn parse(text: &str) -> Result<Self, CallerError> {
        // A name with each `*` replaced is one of a workspace.
        let parts: Vec<_> = text.split('/').map(|part| if part == "*" { "any" } else { part }).collect();
        match Workspace::parse(&parts.join("/")) {
            Ok(_) => Ok(Self(text.into())),
            Err(_) => Err(CallerError("a pattern of workspaces is org/account/workspace; each part may be *")),
        }
    }

    fn matches(&self, workspace: &Workspace) -> bool {
        let mut parts = self.0.split('/').zip(workspace.as_str().split('/'));
        parts.all(|(wanted, part)| wanted == "*" || wanted == part)
    }

    fn is_all(&self) -> bool {
        &*self.0 == "*/*/*"
    }
}

/// Who makes a call.
#[derive(Debug)]
pub struct Caller {
    /// `None` for everyone, on a server without authentication.
    name: Option<Arc<str>>,
    /// The id of its static token. `None` for other credentials.
    credential: Option<Arc<str>>,
    roles: Vec<Role>,
    workspaces: Vec<Pattern>,
    grant: Option<Arc<Grant>>,
    /// From when on its credential is not accepted. `None` for never.
    expires: Option<SystemTime>,
    /// Whether its credential was withdrawn before that. All callers that a key of JWTs has verified share it.
    is_revoked: Arc<AtomicBool>,
}

/// Why a credential makes no caller. It holds no part of the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallerError(pub &'static str);

/// What a credential says of its caller.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// The name.
    pub name: String,
    /// The roles, at least one.
    pub roles: Vec<String>,
    /// The patterns of its workspaces, at least one.
    pub workspaces: Vec<String>,
    /// See [`Grant::parse`].
    pub fields: Vec<String>,
    /// See [`Grant::parse`].
    pub attribute_keys: Vec<String>,
    /// From when on it is not accepted.
    pub expires: Option<SystemTime>,
}

impl Caller {
    /// Everyone, on a server without authentication: may do and see everything.
    #[must_use]
    pub fn anyone() -> Self {
        let workspaces = vec![Pattern("*/*/*".into())];
        Self {
            name: None,
            credential: None,
            roles: ROLES.to_vec(),
            workspaces,
            grant: None,
            expires: None,
            is_revoked: Arc::default(),
        }
    }

    /// The caller that a credential names.
    ///
    /// # Errors
    /// [`CallerError`] if a part of it is missing or malformed. A caller whose sight is limited may only read: what it
    /// may not see would decide whether its writes succeed, and a refusal would tell.
    pub fn new(claims: &Claims) -> Result<Self, CallerError> {
        let Claims { name, roles, workspaces, fields, attribute_keys, expires } = claims;
        let is_name = (1..=NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        if !is_name {
            return Err(CallerError("the name of a caller is 1 to 128 bytes without control characters"));
        }
        if roles.is_empty() || workspaces.is_empty() {
            return Err(CallerError("a caller has at least one role and one pattern of workspaces"));
        }
        if workspaces.len() > PATTERNS {
            return Err(CallerError("a caller has at most 1000 patterns of workspaces"));
        }
        let mut roles = roles.iter().map(|role| Role::parse(role)).collect::<Result<Vec<_>, _>>()?;
        roles.sort_unstable();
        roles.dedup();
        let grant = Grant::parse(fields, attribute_keys)
            .map_err(|_| CallerError("fields are those of Profile, and there are at most 1000 attribute_keys"))?;
        if grant.is_some() && !roles.iter().all(|role| matches!(role, Role::Reader | Role::Subscriber)) {
            return Err(CallerError("a caller with fields or attribute_keys may only be a reader and a subscriber"));
        }
        Ok(Self {
            name: Some(name.as_str().into()),
            credential: None,
            roles,
            workspaces: workspaces.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?,
            grant: grant.map(Arc::new),
            expires: *expires,
            is_revoked: Arc::default(),
        })
    }

    /// The name. `None` on a server without authentication.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The name, to be kept.
    #[must_use]
    pub fn shared_name(&self) -> Option<Arc<str>> {
        self.name.clone()
    }

    /// The id of its static token, which is no secret. `None` for other credentials.
    #[must_use]
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    /// Whether it has a role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether it may use a workspace.
    #[must_use]
    pub fn may_use(&self, workspace: &Workspace) -> bool {
        self.workspaces.iter().any(|pattern| pattern.matches(workspace))
    }

    /// Whether it may use every workspace, also those that do not exist yet.
    #[must_use]
    pub fn may_use_all(&self) -> bool {
        self.workspaces.iter().any(Pattern::is_all)
    }

    /// What it may see of profiles. `None` for everything.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.grant.as_ref()
    }

    /// From when on its credential is not accepted. `None` for never.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}

impl Caller {
    /// Whether a credential may still be used that was accepted before.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.is_revoked.load(Ordering::Relaxed) || self.expires.is_some_and(|expires| expires <= now)
    }

    /// The caller of the static token with this id.
    #[must_use]
    pub fn with_token(self, id: &str) -> Self {
        Self { credential: Some(id.into()), ..self }
    }

    /// The caller of a credential that is withdrawn when `is_revoked` says so.
    #[must_use]
    pub fn until(self, is_revoked: Arc<AtomicBool>) -> Self {
        Self { is_revoked, ..self }
    }

    /// Notes that the credential was withdrawn. What still goes on for the caller ends: see [`Self::is_over`].
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }
}

/// Whether two credentials say the same of their callers.
impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        let said = |caller: &Self| {
            let Self { name, credential, roles, workspaces, grant, expires, is_revoked: _ } = caller;
            (name.clone(), credential.clone(), roles.clone(), workspaces.clone(), grant.clone(), *expires)
        };
        said(self) == said(other)
    }
}

impl Eq for Caller {}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            name: "crm".into(),
            roles: vec!["reader".into()],
            workspaces: vec!["acme/*/web".into()],
            ..Claims::default()
        }
    }

    fn workspace(name: &str) -> Workspace {
        Workspace::parse(name).unwrap()
    }

    #[test]
    fn a_pattern_is_of_whole_parts() {
        let caller = Caller::new(&claims()).unwrap();
        assert!(caller.may_use(&workspace("acme/main/web")) && caller.may_use(&workspace("acme/other/web")));
        for other in ["acme/main/app", "acmes/main/web", "acm/main/web", "ACME/main/web", "acme/main/webs"] {
            assert!(!caller.may_use(&workspace(other)), "{other}");
        }
        assert!(!caller.may_use_all());
        for wrong in ["", "*", "*/*", "a/b", "a/b/c/d", "a*/b/c", "a/**/c", "a//c", "a/b/ü"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn everyone_may_do_everything_without_authentication() {
        let anyone = Caller::anyone();
        assert!(ROLES.iter().all(|role| anyone.has(*role)) && anyone.may_use_all() && anyone.grant().is_none());
        assert!(anyone.may_use(&workspace("a/b/c")) && anyone.name().is_none());
    }

    #[test]
    fn a_credential_must_say_who_what_and_where() {
        let caller = Caller::new(&claims()).unwrap();
        assert_eq!(caller.name(), Some("crm"));
        assert!(caller.has(Role::Reader) && !caller.has(Role::Writer));
        let wrong: [fn(&mut Claims); 8] = [
            |claims| claims.name.clear(),
            |claims| claims.name = "x".repeat(NAME_BYTES + 1),
            |claims| claims.name = "a\nb".into(),
            |claims| claims.roles.clear(),
            |claims| claims.roles.push("admin".into()),
            |claims| claims.workspaces.clear(),
            |claims| claims.workspaces.push("acme".into()),
            |claims| claims.fields.push("nonesuch".into()),
        ];
        for (index, break_it) in wrong.iter().enumerate() {
            let mut claims = claims();
            break_it(&mut claims);
            assert!(Caller::new(&claims).is_err(), "{index}");
        }
    }

    /// Whether a write succeeds may depend on what its caller may not see.
    #[test]
    fn a_caller_whose_sight_is_limited_may_only_read() {
        for limit in [
            |claims: &mut Claims| claims.fields.push("attribution".into()),
            |claims: &mut Claims| {
                claims.attribute_keys.push("plan".into());
            },
        ] {
            for role in ROLES {
                let mut claims = Claims { roles: vec!["reader".into(), role.name().into()], ..claims() };
                limit(&mut claims);
                let may_be = matches!(role, Role::Reader | Role::Subscriber);
                assert_eq!(Caller::new(&claims).is_ok(), may_be, "{role:?}");
            }
        }
    }
}
