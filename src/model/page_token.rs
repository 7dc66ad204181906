//! Where the next page of a list starts.
//!
//! On the wire a token is a version, a hash of the workspace's name, flags, the last mpid of the previous page and a
//! checksum, in base64. It names a key rather than a page, so writes between pages do not invalidate it, and the server
//! keeps no state for it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::cursor::low_half;
use super::{Invalid, Mpid, Workspace};

const VERSION: u8 = 2;
const BODY: usize = 1 + 4 + 1 + 8;
const CHECKSUM: usize = 4;
/// The flag for [`PageStart::over_damage`].
const OVER_DAMAGE: u8 = 1;

/// Where a page starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageStart {
    /// The page starts with the profile after this one. `None` means with the first.
    pub after: Option<Mpid>,
    /// Whether to skip damaged records at the start of the page. The caller was already told about them.
    pub over_damage: bool,
}

impl PageStart {
    /// Starts after a profile.
    #[must_use]
    pub fn after(mpid: Mpid) -> Self {
        Self { after: Some(mpid), over_damage: false }
    }
}

/// The token of a page.
#[must_use]
pub fn encode(workspace: &Workspace, start: PageStart) -> String {
    let mut raw = vec![0; BODY];
    raw[0] = VERSION;
    raw[1..5].copy_from_slice(&hash(workspace).to_be_bytes());
    raw[5] = if start.over_damage { OVER_DAMAGE } else { 0 };
    raw[6..].copy_from_slice(&start.after.map_or(0, Mpid::get).to_be_bytes());
    seal(raw)
}

/// Parses the `page_token` of a request. An empty token is that of the first page.
///
/// # Errors
/// [`Invalid::Field`] if this service did not make the token, or if it is of another workspace.
pub fn parse(workspace: &Workspace, token: &str) -> Result<PageStart, Invalid> {
    if token.is_empty() {
        return Ok(PageStart::default());
    }
    let malformed = || Invalid::field("page_token", "is not a token of this service");
    let raw: [u8; BODY] = unseal(token).and_then(|raw| raw.try_into().ok()).ok_or_else(malformed)?;
    if raw[0] != VERSION {
        return Err(malformed());
    }
    if raw[1..5] != hash(workspace).to_be_bytes() {
        return Err(Invalid::field("page_token", "is a token of another workspace"));
    }
    let after = i64::from_be_bytes(raw[6..].try_into().expect("eight bytes"));
    Ok(PageStart { after: Mpid::new(after), over_damage: raw[5] & OVER_DAMAGE != 0 })
}

/// The text of a token: its bytes and their checksum.
pub(super) fn seal(mut raw: Vec<u8>) -> String {
    let checksum = low_half(xxh3_64(&raw));
    raw.extend_from_slice(&checksum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(raw)
}

/// The bytes of a token; `None` if it is not whole.
pub(super) fn unseal(token: &str) -> Option<Vec<u8>> {
    let mut raw = URL_SAFE_NO_PAD.decode(token).ok()?;
    let checksum = raw.split_off(raw.len().checked_sub(CHECKSUM)?);
    (checksum == low_half(xxh3_64(&raw)).to_be_bytes()).then_some(raw)
}

fn hash(workspace: &Workspace) -> u32 {
    low_half(xxh3_64(workspace.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_only_in_its_own_workspace_and_whole() {
        let (here, there) = (Workspace::parse("a/b/c").unwrap(), Workspace::parse("a/b/d").unwrap());
        for (mpid, over_damage) in [(i64::MIN, false), (-1, true), (0, true), (1, false), (i64::MAX, true)] {
            let start = PageStart { after: Mpid::new(mpid), over_damage };
            let token = encode(&here, start);
            assert_eq!(parse(&here, &token), Ok(start));
            assert!(parse(&there, &token).is_err());
            for at in 0..token.len() {
                let mut garbled = token.clone().into_bytes();
                garbled[at] = if garbled[at] == b'A' { b'B' } else { b'A' };
                assert!(parse(&here, std::str::from_utf8(&garbled).unwrap()).is_err(), "byte {at}");
                assert!(parse(&here, &token[..at]).is_err() || at == 0, "cut at {at}");
            }
        }
        assert_eq!(parse(&here, ""), Ok(PageStart::default()));
    }
}
