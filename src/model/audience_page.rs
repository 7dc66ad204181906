//! Where the next page of a list of audiences, or of the members of one, starts.
//!
//! On the wire a token is a version, a hash of what the list is of, flags, the last id or mpid of the previous page, and
//! a checksum, in base64.

use super::page_token::PageStart;
use super::subscription_page::{encode, malformed, parse};
use super::{AudienceId, Invalid, Mpid, Workspace};

/// Each differs from the versions of other tokens, so that none is taken for another.
const OF_AUDIENCES: u8 = 6;
const OF_MEMBERS: u8 = 7;
const OF_MEMBER_PROFILES: u8 = 8;
/// The flag for [`AudienceStart::over_damage`].
const OVER_DAMAGE: u8 = 1;

/// Where a page of audiences starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AudienceStart {
    /// The page starts with the audience after this one. `None` means with the first.
    pub after: Option<AudienceId>,
    /// Whether to skip damaged records at the start of the page. The caller was already told about them.
    pub over_damage: bool,
}

/// What a list has of the members of an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Their mpids.
    Members,
    /// Their profiles.
    Profiles,
}

/// Parses the `page_token` of a list of audiences.
///
/// # Errors
/// [`Invalid::Field`] if this service did not make it, or if it is of another workspace.
pub fn parse_audiences(workspace: &Workspace, token: &str) -> Result<AudienceStart, Invalid> {
    let Some(raw) = parse(OF_AUDIENCES, workspace.as_str(), token)? else { return Ok(AudienceStart::default()) };
    let (after, over_damage) = read(&raw)?;
    Ok(AudienceStart { after: AudienceId::new(after), over_damage })
}

/// The token of a page of audiences.
#[must_use]
pub fn of_audiences(workspace: &Workspace, start: AudienceStart) -> String {
    let after = start.after.map_or(0, AudienceId::get);
    encode(OF_AUDIENCES, workspace.as_str(), &write(after, start.over_damage))
}

/// Parses the `page_token` of a list of the members of an audience.
///
/// # Errors
/// [`Invalid::Field`] if this service did not make it, or if it is of another audience.
pub fn parse_members(listed: Listed, workspace: &Workspace, id: AudienceId, token: &str) -> Result<PageStart, Invalid> {
    let Some(raw) = parse(version(listed), &of(workspace, id), token)? else { return Ok(PageStart::default()) };
    let (after, over_damage) = read(&raw)?;
    Ok(PageStart { after: Mpid::new(after), over_damage })
}

/// The token of a page of members.
#[must_use]
pub fn of_members(listed: Listed, workspace: &Workspace, id: AudienceId, start: PageStart) -> String {
    let after = start.after.map_or(0, Mpid::get);
    encode(version(listed), &of(workspace, id), &write(after, start.over_damage))
}

fn version(listed: Listed) -> u8 {
    match listed {
        Listed::Members => OF_MEMBERS,
        Listed::Profiles => OF_MEMBER_PROFILES,
    }
}

fn of(workspace: &Workspace, id: AudienceId) -> String {
    format!("{workspace}/{id}")
}

fn write(after: i64, over_damage: bool) -> Vec<u8> {
    let flags = if over_damage { OVER_DAMAGE } else { 0 };
    [&[flags][..], &after.to_be_bytes()].concat()
}

fn read(raw: &[u8]) -> Result<(i64, bool), Invalid> {
    let (flags, after) = raw.split_first().ok_or_else(malformed)?;
    let after = <[u8; 8]>::try_from(after).map_err(|_| malformed())?;
    Ok((i64::from_be_bytes(after), flags & OVER_DAMAGE != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::page_token;

    #[test]
    fn a_token_reads_back_only_in_its_own_list_and_whole() {
        let (here, there) = (Workspace::parse("a/b/c").unwrap(), Workspace::parse("a/b/d").unwrap());
        let (seven, eight) = (AudienceId::new(7).unwrap(), AudienceId::new(8).unwrap());
        for (after, over_damage) in [(i64::MIN, false), (0, true), (9, false)] {
            let start = AudienceStart { after: AudienceId::new(after), over_damage };
            let token = of_audiences(&here, start);
            assert_eq!(parse_audiences(&here, &token), Ok(start));
            assert!(parse_audiences(&there, &token).is_err() && parse_audiences(&here, &token[1..]).is_err());

            let start = PageStart { after: Mpid::new(after), over_damage };
            for (listed, other) in [(Listed::Members, Listed::Profiles), (Listed::Profiles, Listed::Members)] {
                let token = of_members(listed, &here, seven, start);
                assert_eq!(parse_members(listed, &here, seven, &token), Ok(start));
                assert!(parse_members(listed, &here, eight, &token).is_err(), "another audience");
                assert!(parse_members(listed, &there, seven, &token).is_err(), "another workspace");
                assert!(parse_members(other, &here, seven, &token).is_err(), "another list");
                assert!(parse_audiences(&here, &token).is_err() && page_token::parse(&here, &token).is_err());
            }
        }
        assert_eq!(parse_audiences(&here, ""), Ok(AudienceStart::default()));
        assert_eq!(parse_members(Listed::Members, &here, seven, ""), Ok(PageStart::default()));
    }
}
