//! Audiences, subscriptions, and the results of requests.

use redb::{ReadableTable, ReadableTableMetadata};

use super::super::error::StoreError;
use super::super::rows::{
    AgeKey, AgeRow, AudienceRow, Kind, ProgressRow, RequestRow, SettingsRow, name_in, sequence_in, skipped_prefix,
};
use super::super::tables::{borrowed, with_prefix};
use super::report::Problems;
use super::{Store, workspace_in};

/// Bytes of the audience's key at the start of the key of a member.
const AUDIENCE: usize = 12;

const WRONG_COUNT: &str = "audiences with another number of members than their rows say";
const EMPTY: &str = "rows of audiences that are neither registered nor have members";
const NO_AUDIENCE: &str = "members of audiences without a row";
const NO_PROGRESS: &str = "subscriptions without progress";
const NO_SETTINGS: &str = "progress without a subscription";
const WRONG_NAME: &str = "subscriptions with another name than their rows";
const AHEAD: &str = "subscriptions that have acknowledged events after the end of the log";
const WRONG_SKIPPED: &str = "subscriptions with another number of skipped events than their rows say";
const STRAY_SKIPPED: &str = "skipped events without a subscription";
const SKIPPED_AHEAD: &str = "skipped events after the end of the log";
const NO_AGE: &str = "results of requests that are missing from the list by age";
const NO_REQUEST: &str = "ages of requests without a result";
const REQUEST_AHEAD: &str = "results of requests after the end of the log";

/// Each audience has as many members as its row says.
pub(super) fn check_audiences(
    store: &Store,
    _: &dyn Fn(Kind) -> bool,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let mut counted = 0;
    for row in store.audiences.iter()? {
        let (key, row) = row?;
        let workspace = workspace_in(key.value());
        let members = store.members.range::<&[u8]>(borrowed(&with_prefix(key.value(), None)))?;
        let found = members.map(|row| row.map(|_| 1)).sum::<Result<u64, _>>()?;
        counted += found;
        let Ok(row) = AudienceRow::read(key.value(), row.value()) else { continue };
        if row.members != found {
            problems.add_in(WRONG_COUNT, workspace);
        }
        if row.members == 0 && row.registered.is_none() {
            problems.add_in(EMPTY, workspace);
        }
    }
    if store.members.len()? > counted {
        check_stray_members(store, problems)?;
    }
    Ok(())
}

fn check_stray_members(store: &Store, problems: &mut Problems) -> Result<(), StoreError> {
    for row in store.members.iter()? {
        let (key, _) = row?;
        let key = key.value();
        let has_audience = match key.get(..AUDIENCE) {
            Some(audience) => store.audiences.get(audience)?.is_some(),
            None => false,
        };
        if !has_audience {
            problems.add_in(NO_AUDIENCE, workspace_in(key));
        }
    }
    Ok(())
}

/// Each subscription has settings, progress, and as many skipped events as that says.
pub(super) fn check_subscriptions(
    store: &Store,
    damaged: &dyn Fn(Kind) -> bool,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let mut skipped = 0;
    for row in store.subscriptions.iter()? {
        let (key, row) = row?;
        skipped += check_subscription(store, key.value(), row.value(), problems)?;
    }
    for row in store.progress.iter()? {
        let (key, _) = row?;
        if store.subscriptions.get(key.value())?.is_none() {
            problems.add_in(NO_SETTINGS, workspace_in(key.value()));
        }
    }
    let stray = store.skipped.len()?.saturating_sub(skipped);
    if stray > 0 && !damaged(Kind::Skipped) {
        problems.add_many(STRAY_SKIPPED, stray, || "table skipped event".to_owned());
    }
    Ok(())
}

/// Returns how many skipped events the subscription has.
fn check_subscription(store: &Store, key: &[u8], row: &[u8], problems: &mut Problems) -> Result<u64, StoreError> {
    let workspace = workspace_in(key);
    let Some(head) = store.head(workspace) else { return Ok(0) };
    if SettingsRow::read(key, row).is_ok_and(|settings| name_in(key).is_ok_and(|name| name.as_str() != settings.name)) {
        problems.add_in(WRONG_NAME, workspace);
    }
    let mut found = 0;
    for row in store.skipped.range::<&[u8]>(borrowed(&with_prefix(&skipped_prefix(key), None)))? {
        let (key, _) = row?;
        found += 1;
        if sequence_in(key.value()).is_ok_and(|sequence| sequence.get() > head.place.get()) {
            problems.add_in(SKIPPED_AHEAD, workspace);
        }
    }
    match store.progress.get(key)? {
        None => problems.add_in(NO_PROGRESS, workspace),
        Some(row) => {
            let Ok(progress) = ProgressRow::read(key, row.value()) else { return Ok(found) };
            if progress.acknowledged.place() > head.place {
                problems.add_in(AHEAD, workspace);
            }
            if progress.skipped != found {
                problems.add_in(WRONG_SKIPPED, workspace);
            }
        }
    }
    Ok(found)
}

/// Each request is listed by its age, and nothing else is.
pub(super) fn check_requests(
    store: &Store,
    _: &dyn Fn(Kind) -> bool,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let mut listed = 0;
    for row in store.requests.iter()? {
        let (key, row) = row?;
        let workspace = workspace_in(key.value());
        let Ok(request) = RequestRow::read(key.value(), row.value()) else { continue };
        if store.head(workspace).is_some_and(|head| request.place > head.place) {
            problems.add_in(REQUEST_AHEAD, workspace);
        }
        match store.request_ages.get(AgeKey::new(request.uptime, key.value()).as_bytes())? {
            Some(_) => listed += 1,
            None => problems.add_in(NO_AGE, workspace),
        }
    }
    if store.request_ages.len()? > listed {
        check_stray_ages(store, problems)?;
    }
    Ok(())
}

fn check_stray_ages(store: &Store, problems: &mut Problems) -> Result<(), StoreError> {
    for row in store.request_ages.iter()? {
        let (key, row) = row?;
        let Some(age) = AgeKey::stored(key.value()).filter(|_| AgeRow::check(key.value(), row.value()).is_ok()) else {
            continue;
        };
        let request = store.requests.get(age.request())?;
        // One that does not verify is reported with the rows.
        let is_of = |row: &[u8]| RequestRow::read(age.request(), row).map_or(true, |row| row.uptime == age.uptime());
        if !request.is_some_and(|row| is_of(row.value())) {
            problems.add_in(NO_REQUEST, workspace_in(age.request()));
        }
    }
    Ok(())
}
