//! Where the next page of a list of workspaces starts, and which workspaces the list has.
//!
//! On the wire a token is a version, a hash of the prefix, the last name of the previous page and a checksum, in
//! base64. It names a place in the order of names, so a workspace that is added between pages moves no other.

use xxhash_rust::xxh3::xxh3_64;

use super::cursor::low_half;
use super::page_token::{seal, unseal};
use super::workspace::is_part;
use super::{Invalid, Workspace};

/// Differs from the version of a token for profiles, so that neither is taken for the other.
const VERSION: u8 = 3;
const HEADER: usize = 1 + 4;
const PARTS: usize = 3;

/// The workspaces whose names begin with `prefix`, from a place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspacePage {
    /// How the names begin. Empty means all workspaces.
    pub prefix: String,
    /// The page starts with the workspace after this one. `None` means with the first.
    pub after: Option<Workspace>,
}

impl WorkspacePage {
    /// Parses the `prefix` and the `page_token` of a request.
    ///
    /// # Errors
    /// [`Invalid::Field`] if no name can begin with the prefix, if this service did not make the token, or if the token
    /// belongs to another prefix.
    pub fn parse(prefix: String, token: &str) -> Result<Self, Invalid> {
        if !may_begin_a_name(&prefix) {
            let problem = "must be the beginning of org/account/workspace, each part 1 to 64 characters of A-Za-z0-9_-";
            return Err(Invalid::field("prefix", problem));
        }
        if token.is_empty() {
            return Ok(Self { prefix, after: None });
        }
        let malformed = || Invalid::field("page_token", "is not a token of this service");
        let raw = unseal(token).filter(|raw| raw.len() > HEADER && raw[0] == VERSION).ok_or_else(malformed)?;
        let (header, name) = raw.split_at(HEADER);
        if header[1..] != hash(&prefix) {
            return Err(Invalid::field("page_token", "is a token of another prefix"));
        }
        let name = std::str::from_utf8(name).ok().and_then(|name| Workspace::parse(name).ok());
        Ok(Self { after: Some(name.ok_or_else(malformed)?), prefix })
    }

    /// The token of the page after the one that ends with `last`.
    #[must_use]
    pub fn next(&self, last: &Workspace) -> String {
        let mut raw = vec![VERSION];
        raw.extend_from_slice(&hash(&self.prefix));
        raw.extend_from_slice(last.as_str().as_bytes());
        seal(raw)
    }
}

/// Whether a name can begin like this: complete parts, and one that may be cut.
fn may_begin_a_name(prefix: &str) -> bool {
    let parts: Vec<_> = prefix.split('/').collect();
    let (last, complete) = parts.split_last().expect("a split has a part");
    parts.len() <= PARTS && complete.iter().all(|part| is_part(part)) && (last.is_empty() || is_part(last))
}

fn hash(prefix: &str) -> [u8; 4] {
    low_half(xxh3_64(prefix.as_bytes())).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mpid;
    use crate::model::page_token::{self, PageStart};

    fn page(prefix: &str, token: &str) -> Result<WorkspacePage, Invalid> {
        WorkspacePage::parse(prefix.to_owned(), token)
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_name() {
        let longest = ["a".repeat(64), "b".repeat(64), "c".repeat(64)].join("/");
        for prefix in ["", "a", "a/", "a/b", "a/b/", "a/b/c", "A-Z_9", &longest, &longest[..130], &longest[..129]] {
            assert_eq!(page(prefix, ""), Ok(WorkspacePage { prefix: prefix.to_owned(), after: None }));
        }
        for prefix in ["/", "a//", "a//c", "/b", "a/b/c/", "a b", "ä", "a*", &format!("{longest}c"), &"a".repeat(65)] {
            assert!(page(prefix, "").is_err(), "{prefix}");
        }
    }

    #[test]
    fn a_token_reads_back_only_with_its_own_prefix_and_whole() {
        let last = Workspace::parse("acme/main/web").unwrap();
        let first = page("acme/", "").unwrap();
        let token = first.next(&last);
        assert_eq!(page("acme/", &token), Ok(WorkspacePage { after: Some(last.clone()), ..first }));
        assert!(page("acme", &token).is_err() && page("", &token).is_err());
        for at in 0..token.len() {
            let mut garbled = token.clone().into_bytes();
            garbled[at] = if garbled[at] == b'A' { b'B' } else { b'A' };
            assert!(page("acme/", std::str::from_utf8(&garbled).unwrap()).is_err(), "byte {at}");
            assert!(page("acme/", &token[..at]).is_err() || at == 0, "cut at {at}");
        }
        assert!(page_token::parse(&last, &token).is_err(), "it is no token for profiles");
        let of_profiles = page_token::encode(&last, PageStart::after(Mpid::new(7).unwrap()));
        assert!(page("", &of_profiles).is_err(), "nor is one for profiles taken here");
    }
}
