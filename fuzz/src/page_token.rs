//! Target: any text as a page token, of every list.
//!
//! - Nothing panics.
//! - A token belongs to one list: no other list takes it, and no list of another workspace, prefix or subscription.
//! - The token of the place that it names leads to the same place.

use cameo::model::audience_page::{self, Listed};
use cameo::model::workspace_page::WorkspacePage;
use cameo::model::{AudienceId, SubscriptionName, Workspace, page_token, subscription_page};

use super::sealed;

/// What lists are of.
struct Home {
    workspace: Workspace,
    audience: AudienceId,
    subscription: SubscriptionName,
    prefix: &'static str,
}

/// The token of the place where a list starts that is given a token. `None` if the list refuses it.
type List = fn(&Home, &str) -> Option<String>;

const LISTS: [List; 7] = [profiles, audiences, members, member_profiles, subscriptions, skipped_events, workspaces];

pub fn run(input: &[u8]) {
    let Some(token) = sealed::token(input).filter(|token| !token.is_empty()) else { return };
    let (home, away) = (Home::new("acme/main/web", 7, "crm", "acme/"), Home::new("acme/main/app", 8, "erp", "acme"));
    let mut takers = LISTS.iter().filter_map(|list| Some((list, list(&home, &token)?)));
    let Some((list, same)) = takers.next() else { return };

    assert!(takers.next().is_none(), "two lists take it");
    assert_eq!(list(&home, &same).as_ref(), Some(&same), "both lead to the same place");
    assert!(LISTS.iter().all(|list| list(&away, &token).is_none()), "a list of something else takes it");
}

impl Home {
    fn new(workspace: &str, audience: i64, subscription: &str, prefix: &'static str) -> Self {
        Self {
            workspace: Workspace::parse(workspace).expect("it is well formed"),
            audience: AudienceId::new(audience).expect("it is not 0"),
            subscription: SubscriptionName::parse("name", subscription).expect("it is well formed"),
            prefix,
        }
    }
}

fn profiles(home: &Home, token: &str) -> Option<String> {
    Some(page_token::encode(&home.workspace, page_token::parse(&home.workspace, token).ok()?))
}

fn audiences(home: &Home, token: &str) -> Option<String> {
    Some(audience_page::of_audiences(&home.workspace, audience_page::parse_audiences(&home.workspace, token).ok()?))
}

fn members(home: &Home, token: &str) -> Option<String> {
    of_members(home, token, Listed::Members)
}

fn member_profiles(home: &Home, token: &str) -> Option<String> {
    of_members(home, token, Listed::Profiles)
}

fn of_members(home: &Home, token: &str, listed: Listed) -> Option<String> {
    let start = audience_page::parse_members(listed, &home.workspace, home.audience, token).ok()?;
    Some(audience_page::of_members(listed, &home.workspace, home.audience, start))
}

fn subscriptions(home: &Home, token: &str) -> Option<String> {
    let after = subscription_page::parse_subscriptions(&home.workspace, token).ok()??;
    Some(subscription_page::after_subscription(&home.workspace, &after))
}

fn skipped_events(home: &Home, token: &str) -> Option<String> {
    let after = subscription_page::parse_skipped(&home.workspace, &home.subscription, token).ok()??;
    Some(subscription_page::after_skipped(&home.workspace, &home.subscription, after.get()))
}

fn workspaces(home: &Home, token: &str) -> Option<String> {
    let page = WorkspacePage::parse(home.prefix.to_owned(), token).ok()?;
    Some(page.next(page.after.as_ref()?))
}
