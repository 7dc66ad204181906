//! What a caller whose sight is limited sees of subscriptions.
//!
//! The filter of a subscription may test what the caller may not see. The caller then learns that the subscription exists
//! and nothing else, and may not change it: how its places move, and what it skipped, tells which events match.

use std::sync::Arc;

use crate::call::Call;
use crate::model::{Filter, Grant, Invalid, Settings, SubscriptionName, Workspace};
use crate::proto::v1::Subscription;
use crate::refusal::Refusal;
use crate::store::{ReadClass, Store, StoreError};

/// Parses the settings of a subscription that exists.
///
/// # Errors
/// [`Invalid`] if they name what the caller may not see. The error does not say what.
pub(super) fn settings(stored: Subscription, grant: Option<&Arc<Grant>>) -> Result<Settings, Invalid> {
    let parsed = Settings::parse("subscription", stored, grant);
    parsed.map_err(|invalid| if grant.is_some() { hidden() } else { invalid })
}

/// What is left of a subscription for a caller who may not see what its filter tests. `None` if the caller may.
pub(super) fn withheld(stored: &Subscription, grant: Option<&Arc<Grant>>) -> Option<Subscription> {
    let is_hidden = grant.is_some() && Filter::parse(stored.filter.clone(), grant).is_err();
    is_hidden.then(|| Subscription { name: stored.name.clone(), ..Subscription::default() })
}

/// Refuses a call that names a subscription whose filter tests what the caller may not see.
///
/// # Errors
/// The refusal. A name that is malformed, or of nothing, is not refused here.
pub(super) async fn check(call: &Call, store: &Arc<Store>, workspace: &Workspace, name: &str) -> Result<(), Refusal> {
    let name = SubscriptionName::parse("name", name);
    let (Some(_), Ok(name)) = (call.grant(), name) else { return Ok(()) };
    call.within(workspace)?;
    let of = workspace.clone();
    let read = move |store: &Store| store.subscription(&of, &name);
    match store.on_read_pool(ReadClass::Status, Some(workspace), read).await {
        Ok(view) if withheld(&view.settings, call.grant()).is_some() => Err(hidden().into()),
        Ok(_) | Err(StoreError::SubscriptionNotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn hidden() -> Invalid {
    let problem = "the caller may not see what the subscription selects".to_owned();
    Invalid::Hidden { field: "subscription".to_owned(), problem }
}
