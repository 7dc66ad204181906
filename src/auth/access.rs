//! Who may make which call: the one table. An RPC or a route that is not in it is refused to everyone.

use std::collections::HashMap;
use std::sync::LazyLock;

use self::Access::{Open, Server, Workspace};
use super::caller::Caller;
use super::caller::Role::{self, Operator, Reader, Steward, Subscriber, Writer};
use crate::model;

/// What a call asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it needs no credential.
    Open,
    /// This role, and that the caller may use the workspace that the call names.
    Workspace(Role),
    /// This role, and that the caller may use every workspace.
    Server(Role),
}

/// By the names that metrics and logs have for methods: an RPC without the package `cameo.v1`, or a route over HTTP.
const TABLE: &[(&str, Access)] = &[
    ("ProfileService/GetProfile", Workspace(Reader)),
    ("ProfileService/BatchGetProfiles", Workspace(Reader)),
    ("ProfileService/ListProfiles", Workspace(Reader)),
    ("ProfileService/CreateProfile", Workspace(Writer)),
    ("ProfileService/UpdateProfile", Workspace(Writer)),
    ("ProfileService/DeleteProfile", Workspace(Writer)),
    ("ProfileService/ImportProfiles", Workspace(Writer)),
    ("ProfileService/EraseProfile", Workspace(Steward)),
    ("ProfileService/ExportSubject", Workspace(Steward)),
    ("IdentityService/IdentifyProfile", Workspace(Writer)),
    ("IdentityService/MergeProfiles", Workspace(Steward)),
    ("IdentityService/UnmergeProfiles", Workspace(Steward)),
    ("IdentityService/GetIdentitySettings", Workspace(Reader)),
    ("IdentityService/UpdateIdentitySettings", Workspace(Steward)),
    ("AudienceService/CreateAudience", Workspace(Steward)),
    ("AudienceService/DeleteAudience", Workspace(Steward)),
    ("AudienceService/AddAudienceMembers", Workspace(Steward)),
    ("AudienceService/RemoveAudienceMembers", Workspace(Steward)),
    ("AudienceService/GetAudience", Workspace(Reader)),
    ("AudienceService/ListAudiences", Workspace(Reader)),
    ("AudienceService/ListAudienceMembers", Workspace(Reader)),
    ("EventService/Subscribe", Workspace(Subscriber)),
    ("EventService/ListEvents", Workspace(Subscriber)),
    ("EventService/GetEvent", Workspace(Subscriber)),
    ("EventService/CreateSubscription", Workspace(Subscriber)),
    ("EventService/GetSubscription", Workspace(Subscriber)),
    ("EventService/ListSubscriptions", Workspace(Subscriber)),
    ("EventService/UpdateSubscription", Workspace(Subscriber)),
    ("EventService/DeleteSubscription", Workspace(Subscriber)),
    ("EventService/SeekSubscription", Workspace(Subscriber)),
    ("EventService/Acknowledge", Workspace(Subscriber)),
    ("EventService/ListSkippedEvents", Workspace(Subscriber)),
    ("AdminService/GetStatus", Workspace(Operator)),
    ("AdminService/ListWorkspaces", Server(Operator)),
    ("AdminService/Backup", Server(Operator)),
    ("AdminService/Compact", Server(Operator)),
    ("grpc.health.v1.Health/Check", Open),
    ("grpc.health.v1.Health/Watch", Open),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Open),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Open),
    ("/userprofile/v1/{org}/{account}/{workspace}/{mpid}", Workspace(Reader)),
    ("/userprofile/v1/resolve/{org}/{account}/{workspace}", Workspace(Reader)),
];

static BY_NAME: LazyLock<HashMap<&str, Access>> = LazyLock::new(|| TABLE.iter().copied().collect());

/// Why a caller may not make a call. It depends on the call and on the caller, and never on what the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller lacks the role.
    #[error("the caller needs the role {}", .0.name())]
    Role(Role),
    /// The caller may not use the workspace, whether it exists or not.
    #[error("the caller may not use this workspace")]
    Workspace,
    /// The call is about the server as a whole.
    #[error("the caller must be one that may use every workspace")]
    Server,
    /// The table does not have the call.
    #[error("no caller may make this call")]
    Unlisted,
}

impl Access {
    /// What a method asks of its callers. `None` for one that the table does not have.
    #[must_use]
    pub fn of(method: &str) -> Option<Self> {
        BY_NAME.get(method).copied()
    }

    /// Whether a caller may make the call at all, before its workspace is known.
    ///
    /// # Errors
    /// [`Denied`] if it may not, whatever the workspace.
    pub fn check(self, caller: &Caller) -> Result<(), Denied> {
        let (Workspace(role) | Server(role)) = self else { return Ok(()) };
        if !caller.has(role) {
            return Err(Denied::Role(role));
        }
        let needs_all = matches!(self, Server(_));
        if needs_all && !caller.may_use_all() { Err(Denied::Server) } else { Ok(()) }
    }
}

/// Whether a caller may make a call in a workspace. This is where every call is decided.
///
/// # Errors
/// [`Denied`] if it may not.
pub fn authorize(caller: &Caller, access: Option<Access>, workspace: &model::Workspace) -> Result<(), Denied> {
    access.ok_or(Denied::Unlisted)?.check(caller)?;
    if caller.may_use(workspace) { Ok(()) } else { Err(Denied::Workspace) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::caller::{Claims, ROLES};
    use crate::telemetry::metrics::Method;

    /// A new RPC is refused to everyone until somebody has decided who may call it.
    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let methods: Vec<_> = Method::all().filter(|method| *method != Method::unknown()).map(Method::name).collect();
        for method in &methods {
            assert!(Access::of(method).is_some(), "{method} needs a row");
        }
        for (name, _) in TABLE {
            assert!(methods.contains(name), "{name} is no method");
        }
        assert_eq!(BY_NAME.len(), TABLE.len(), "no row is there twice");
        assert_eq!(Access::of(Method::unknown().name()), None);
    }

    fn caller(role: Role, workspaces: &str) -> Caller {
        let (roles, workspaces) = (vec![role.name().into()], vec![workspaces.into()]);
        Caller::new(&Claims { name: "c".into(), roles, workspaces, ..Claims::default() }).unwrap()
    }

    #[test]
    fn a_call_needs_its_role_and_its_workspace() {
        let (here, there) = (model::Workspace::parse("a/b/c").unwrap(), model::Workspace::parse("a/b/d").unwrap());
        for role in ROLES {
            for other in ROLES {
                let caller = caller(other, "a/*/c");
                let access = Some(Workspace(role));
                let expected = if role == other { Ok(()) } else { Err(Denied::Role(role)) };
                assert_eq!(authorize(&caller, access, &here), expected);
                assert_eq!(authorize(&caller, access, &there), expected.and(Err(Denied::Workspace)));
            }
        }
        let anyone = Caller::anyone();
        assert_eq!(authorize(&anyone, Some(Workspace(Reader)), &there), Ok(()));
        assert_eq!(authorize(&anyone, None, &there), Err(Denied::Unlisted));
    }

    #[test]
    fn a_call_about_the_server_needs_every_workspace() {
        assert_eq!(Server(Operator).check(&caller(Operator, "*/*/*")), Ok(()));
        assert_eq!(Server(Operator).check(&caller(Operator, "a/*/*")), Err(Denied::Server));
        assert_eq!(Server(Operator).check(&caller(Writer, "*/*/*")), Err(Denied::Role(Operator)));
        assert_eq!(Open.check(&caller(Writer, "a/*/*")), Ok(()));
    }
}
