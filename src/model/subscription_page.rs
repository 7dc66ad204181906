//! Where the next page of a list of subscriptions, or of skipped events, starts.
//!
//! On the wire a token is a version, a hash of what the list is of, where the page starts, and a checksum, in base64.

use xxhash_rust::xxh3::xxh3_64;

use super::page_token::{seal, unseal};
use super::{Invalid, Sequence, SubscriptionName, Workspace};

/// Each differs from the versions of other tokens, so that none is taken for another.
const OF_SUBSCRIPTIONS: u8 = 4;
const OF_SKIPPED: u8 = 5;
const HEADER: usize = 1 + 8;

/// Parses the `page_token` of a list of subscriptions: the page starts after the subscription with this name.
///
/// # Errors
/// [`Invalid::Field`] if this service did not make it, or if it is of another workspace.
pub fn parse_subscriptions(workspace: &Workspace, token: &str) -> Result<Option<SubscriptionName>, Invalid> {
    let Some(name) = parse(OF_SUBSCRIPTIONS, workspace.as_str(), token)? else { return Ok(None) };
    let name = std::str::from_utf8(&name).ok().and_then(|name| SubscriptionName::parse("page_token", name).ok());
    name.ok_or_else(malformed).map(Some)
}

/// The token of the page after the one that ends with `last`.
#[must_use]
pub fn after_subscription(workspace: &Workspace, last: &SubscriptionName) -> String {
    encode(OF_SUBSCRIPTIONS, workspace.as_str(), last.as_str().as_bytes())
}

/// Parses the `page_token` of a list of skipped events: the page starts after the event with this sequence.
///
/// # Errors
/// [`Invalid::Field`] if this service did not make it, or if it is of another subscription.
pub fn parse_skipped(workspace: &Workspace, name: &SubscriptionName, token: &str) -> Result<Option<Sequence>, Invalid> {
    let Some(sequence) = parse(OF_SKIPPED, &of(workspace, name), token)? else { return Ok(None) };
    let sequence = <[u8; 8]>::try_from(&*sequence).ok().map(u64::from_be_bytes).and_then(Sequence::new);
    sequence.ok_or_else(malformed).map(Some)
}

/// The token of the page after the one that ends with `last`.
#[must_use]
pub fn after_skipped(workspace: &Workspace, name: &SubscriptionName, last: u64) -> String {
    encode(OF_SKIPPED, &of(workspace, name), &last.to_be_bytes())
}

fn of(workspace: &Workspace, name: &SubscriptionName) -> String {
    format!("{workspace}/{name}")
}

pub(super) fn malformed() -> Invalid {
    Invalid::field("page_token", "is not a token of this service")
}

/// The text of a token: see the module.
pub(super) fn encode(version: u8, of: &str, start: &[u8]) -> String {
    let mut raw = vec![version];
    raw.extend_from_slice(&xxh3_64(of.as_bytes()).to_be_bytes());
    raw.extend_from_slice(start);
    seal(raw)
}

/// The start in a token. `None` for the first page.
pub(super) fn parse(version: u8, of: &str, token: &str) -> Result<Option<Vec<u8>>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut raw = unseal(token).filter(|raw| raw.len() > HEADER && raw[0] == version).ok_or_else(malformed)?;
    if raw[1..HEADER] != xxh3_64(of.as_bytes()).to_be_bytes() {
        return Err(Invalid::field("page_token", "is a token of another list"));
    }
    Ok(Some(raw.split_off(HEADER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_only_in_its_own_list_and_whole() {
        let (here, there) = (Workspace::parse("a/b/c").unwrap(), Workspace::parse("a/b/d").unwrap());
        let name = |name| SubscriptionName::parse("name", name).unwrap();
        let token = after_subscription(&here, &name("crm"));
        assert_eq!(parse_subscriptions(&here, &token), Ok(Some(name("crm"))));
        assert!(parse_subscriptions(&there, &token).is_err());
        assert!(parse_subscriptions(&here, &token[1..]).is_err());
        assert_eq!(parse_subscriptions(&here, ""), Ok(None));

        let skipped = after_skipped(&here, &name("crm"), 7);
        assert_eq!(parse_skipped(&here, &name("crm"), &skipped), Ok(Sequence::new(7)));
        assert!(parse_skipped(&here, &name("erp"), &skipped).is_err());
        assert!(parse_skipped(&there, &name("crm"), &skipped).is_err());
        assert!(parse_skipped(&here, &name("crm"), &token).is_err() && parse_subscriptions(&here, &skipped).is_err());
        assert!(parse_skipped(&here, &name("crm"), &after_skipped(&here, &name("crm"), 0)).is_err());
    }
}
