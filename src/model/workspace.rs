//! Workspaces: the unit of tenancy, order and retention.

use std::fmt;
use std::sync::Arc;

use super::Invalid;

const PART_CHARS: usize = 64;

/// `{org}/{account}/{workspace}`, each part 1 to 64 characters of `A-Za-z0-9_-`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workspace(Arc<str>);

impl Workspace {
    /// Parses the field `workspace` of a request.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is not three valid parts.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        let mut parts = name.split('/');
        let is_well_formed = (0..3).all(|_| parts.next().is_some_and(is_part)) && parts.next().is_none();
        if !is_well_formed {
            let problem = "must be org/account/workspace, each part 1 to 64 characters of A-Za-z0-9_-";
            return Err(Invalid::field("workspace", problem));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn is_part(part: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    (1..=PART_CHARS).contains(&part.len()) && part.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::Workspace;

    #[test]
    fn a_workspace_has_three_parts_of_64() {
        let longest = ["a".repeat(64), "B-9_".repeat(16), "c".repeat(64)].join("/");
        assert_eq!(Workspace::parse(&longest).unwrap().as_str(), longest);
        for wrong in ["", "a", "a/b", "a/b/", "a//c", "a/b/c/d", "a/b/c d", "a/b/ü", &format!("{longest}c")] {
            assert!(Workspace::parse(wrong).is_err(), "{wrong}");
        }
    }
}
