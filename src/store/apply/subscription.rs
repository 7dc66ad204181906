//! The commands of durable subscriptions. They make no events.
//!
//! - A subscription has a settings row and a progress row. The progress holds the acknowledged position, and the number
//!   of the latest stream.
//! - Only acknowledgements of the latest stream are accepted. A new stream, a seek and new settings each take the next
//!   number, so an older stream can move nothing.
//! - A number never comes back. A delete retires the numbers of the subscription in the head of the workspace, and one
//!   that is created later begins above them. So a stream of a deleted subscription can move none of the same name.
//! - What makes older streams useless tells the feed so with its commit, whether its caller still waits or not.
//! - An acknowledgement never moves the position back. A seek may.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;
use redb::ReadableTable;

use super::super::effects::{Effects, RowTable, RowWrite};
use super::super::error::StoreError;
use super::super::rows::{Head, Kind, ProgressRow, SettingsRow, SkippedRow, skipped_key, subscription_key};
use super::super::tables::{self, KeyRange, Tables, borrowed, guarded, with_prefix};
use super::super::{EndedStreams, WorkspaceId};
use super::Verdict;
use super::state::Context;
use crate::command::{
    Acknowledge, Begin, Change, CreateSubscription, DeleteSubscription, SeekSubscription, UpdateSubscription,
};
use crate::model::invalid::CursorError;
use crate::model::limits::SKIPPED_EVENTS;
use crate::model::{Invalid, Place, Position, Sequence, SubscriptionName};
use crate::proto::v1::{OnExpired, SeekSubscriptionResponse, Subscription, WriteOutcome};

/// A subscription after a command.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionState {
    /// Its settings, and when it was created.
    pub settings: Subscription,
    /// Where the next stream starts.
    pub acknowledged: Position,
    /// The number of the latest stream.
    pub stream: u64,
    /// How many events are listed as skipped.
    pub skipped: u64,
}

/// A subscription as it is stored.
struct Known {
    name: SubscriptionName,
    key: Vec<u8>,
    settings: Subscription,
    progress: ProgressRow,
}

pub(super) fn create(context: &Context<'_, '_>, create: &CreateSubscription) -> Result<Verdict, StoreError> {
    let CreateSubscription { settings, start } = create;
    let name = &settings.name;
    if known(context, name)?.is_some() {
        return Err(StoreError::SubscriptionExists { name: name.clone() });
    }
    let limit = context.command.limits.subscriptions;
    let count = if context.exists { count(context.state.tables, context.workspace)? } else { 0 };
    if count >= limit {
        return Err(StoreError::TooManySubscriptions { limit });
    }
    let acknowledged = resolve(context, *start)?;
    let mut message = settings.message().clone();
    message.create_time = Some(context.now().to_timestamp());
    let key = subscription_key(context.workspace, name);
    let mut effects = Effects::default();
    effects.rows.push(settings_write(&key, &message));
    let progress = ProgressRow { acknowledged, stream: context.head.retired, skipped: 0 };
    let known = Known { name: name.clone(), key, settings: message, progress };
    Ok(known.changed(context, WriteOutcome::Created, progress, effects))
}

pub(super) fn update(context: &Context<'_, '_>, update: &UpdateSubscription) -> Result<Verdict, StoreError> {
    let UpdateSubscription { settings, paths } = update;
    let mut known = existing(context, &settings.name)?;
    let message = settings.over(&known.settings, paths);
    if message == known.settings {
        return Ok(known.unchanged(context));
    }
    let mut effects = Effects::default();
    effects.rows.push(settings_write(&known.key, &message));
    known.settings = message;
    let progress = known.progress.next_stream();
    Ok(known.changed(context, WriteOutcome::Updated, progress, effects))
}

pub(super) fn delete(context: &Context<'_, '_>, delete: &DeleteSubscription) -> Result<Verdict, StoreError> {
    let DeleteSubscription { name, allow_missing } = delete;
    let Some(Known { key, progress, .. }) = known(context, name)? else {
        return match allow_missing {
            true => Ok(Verdict::unchanged(None, context.head.place, None)),
            false => Err(StoreError::SubscriptionNotFound { name: name.clone() }),
        };
    };
    let skipped = skipped(context.state.tables, &key, Place::START, Place::LAST, usize::MAX)?;
    let mut effects = Effects::default();
    let above = progress.next_stream().stream;
    let head = Head { retired: context.head.retired.max(above), ..context.head };
    effects.head = (head != context.head).then_some(head);
    effects.ended = Some(ended(context, name, above, true));
    effects.rows.extend(skipped.into_iter().map(|key| removal(RowTable::Skipped, key)));
    effects.rows.push(removal(RowTable::Progress, key.clone()));
    effects.rows.push(removal(RowTable::Settings, key));
    Ok(Verdict { effects, outcome: WriteOutcome::Deleted, ..Verdict::unchanged(None, context.head.place, None) })
}

/// Moves the acknowledged position. What follows it is delivered again, so it is no longer skipped.
pub(super) fn seek(context: &Context<'_, '_>, seek: &SeekSubscription) -> Result<Verdict, StoreError> {
    let known = existing(context, &seek.name)?;
    let acknowledged = resolve(context, seek.to)?;
    let again = skipped(context.state.tables, &known.key, acknowledged.place(), Place::LAST, usize::MAX)?;
    let progress = ProgressRow { acknowledged, ..known.progress.next_stream().without_skipped(again.len()) };
    let mut effects = Effects::default();
    effects.rows.extend(again.into_iter().map(|key| removal(RowTable::Skipped, key)));
    let detail = distance(known.progress.acknowledged, acknowledged);
    Ok(Verdict { detail, ..known.changed(context, WriteOutcome::Updated, progress, effects) })
}

/// The part of the response to a seek that says how far it went. A repeat gets it again.
fn distance(from: Position, to: Position) -> Bytes {
    let (from, to) = (from.place().get(), to.place().get());
    let (replayed_events, passed_events) = (from.saturating_sub(to), to.saturating_sub(from));
    let response = SeekSubscriptionResponse { subscription: None, replayed_events, passed_events };
    response.encode_to_vec().into()
}

/// A stream is about to be opened. If the log no longer holds what follows the acknowledged position, the settings say
/// where it starts.
pub(super) fn open(context: &Context<'_, '_>, name: &SubscriptionName) -> Result<Verdict, StoreError> {
    let known = existing(context, name)?;
    let floor = context.head.floor;
    let mut progress = known.progress.next_stream();
    if progress.acknowledged.place() < floor {
        progress.acknowledged = match known.settings.on_expired() {
            OnExpired::Unspecified | OnExpired::Fail => return Err(expired(context)),
            OnExpired::Snapshot => resolve(context, Begin::Snapshot)?,
            OnExpired::Earliest => floor.into(),
        };
    }
    Ok(known.changed(context, WriteOutcome::Updated, progress, Effects::default()))
}

pub(super) fn acknowledge(context: &Context<'_, '_>, acknowledge: &Acknowledge) -> Result<Verdict, StoreError> {
    let Acknowledge { name, stream, position, skipped } = acknowledge;
    let known = existing(context, name)?;
    if *stream != known.progress.stream {
        return Err(StoreError::TakenOver);
    }
    check_in_log(context.head.place, *position)?;
    let mut progress = known.progress;
    progress.acknowledged = progress.acknowledged.max(*position);
    let skips = new_skips(context, &known.key, *position, skipped)?;
    progress.skipped += skips.len() as u64;
    if progress.skipped > SKIPPED_EVENTS && !skips.is_empty() {
        let (limit, found) = (SKIPPED_EVENTS, progress.skipped);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Invalid::limit("skipped", "skipped events of the subscription", size(limit), size(found))?;
    }
    if progress == known.progress {
        return Ok(known.unchanged(context));
    }
    let effects = Effects { rows: skips, ..Effects::default() };
    Ok(known.changed(context, WriteOutcome::Updated, progress, effects))
}

/// Returns the least place after which a subscription of the workspace has not acknowledged all.
pub(super) fn held(context: &Context<'_, '_>) -> Result<Option<Place>, StoreError> {
    guarded(Kind::Progress, || {
        let mut least: Option<Place> = None;
        for row in context.state.tables.progress.range::<&[u8]>(borrowed(&of_workspace(context.workspace)))? {
            let (key, row) = row?;
            let Ok(progress) = ProgressRow::read(key.value(), row.value()) else { continue }; // It reads nothing more.
            let place = progress.acknowledged.place();
            least = Some(least.map_or(place, |least| least.min(place)));
        }
        Ok(least)
    })
}

/// Returns what is known of the subscription of a command that was applied before.
pub(super) fn state_of(context: &Context<'_, '_>) -> Result<Option<Box<SubscriptionState>>, StoreError> {
    match (&context.command.change, context.command.change.subscription()) {
        (Change::DeleteSubscription(_), _) | (_, None) => Ok(None),
        (_, Some(name)) => Ok(known(context, name)?.map(|known| known.state(known.progress))),
    }
}

impl Known {
    fn state(&self, progress: ProgressRow) -> Box<SubscriptionState> {
        let ProgressRow { acknowledged, stream, skipped } = progress;
        Box::new(SubscriptionState { settings: self.settings.clone(), acknowledged, stream, skipped })
    }

    fn unchanged(&self, context: &Context<'_, '_>) -> Verdict {
        let subscription = Some(self.state(self.progress));
        Verdict { subscription, ..Verdict::unchanged(None, context.head.place, None) }
    }

    fn changed(
        &self,
        context: &Context<'_, '_>,
        outcome: WriteOutcome,
        progress: ProgressRow,
        mut effects: Effects,
    ) -> Verdict {
        let (table, key) = (RowTable::Progress, self.key.clone());
        let row = Some(progress.encode(&key));
        effects.rows.push(RowWrite { table, key, row });
        if progress.stream > self.progress.stream {
            effects.ended = Some(ended(context, &self.name, progress.stream, false));
        }
        Verdict { effects, outcome, subscription: Some(self.state(progress)), ..self.unchanged(context) }
    }
}

impl ProgressRow {
    fn next_stream(self) -> Self {
        Self { stream: self.stream + 1, ..self }
    }

    pub(super) fn without_skipped(self, count: usize) -> Self {
        Self { skipped: self.skipped.saturating_sub(count as u64), ..self }
    }
}

fn known(context: &Context<'_, '_>, name: &SubscriptionName) -> Result<Option<Known>, StoreError> {
    if !context.exists {
        return Ok(None);
    }
    let (tables, key) = (context.state.tables, subscription_key(context.workspace, name));
    let found = tables::subscription(&tables.subscriptions, &tables.progress, &key)?;
    Ok(found.map(|(settings, progress)| Known { name: name.clone(), key, settings, progress }))
}

fn existing(context: &Context<'_, '_>, name: &SubscriptionName) -> Result<Known, StoreError> {
    known(context, name)?.ok_or_else(|| StoreError::SubscriptionNotFound { name: name.clone() })
}

fn ended(context: &Context<'_, '_>, name: &SubscriptionName, below: u64, deleted: bool) -> EndedStreams {
    EndedStreams { workspace: context.command.workspace.clone(), name: name.clone(), below, deleted }
}

fn settings_write(key: &[u8], settings: &Subscription) -> RowWrite {
    let row = Some(SettingsRow::encode(key, settings));
    RowWrite { table: RowTable::Settings, key: key.to_vec(), row }
}

pub(super) fn removal(table: RowTable, key: Vec<u8>) -> RowWrite {
    RowWrite { table, key, row: None }
}

pub(super) fn of_workspace(workspace: WorkspaceId) -> KeyRange {
    with_prefix(&workspace.0.to_be_bytes(), None)
}

fn count(tables: &Tables<'_>, workspace: WorkspaceId) -> Result<usize, StoreError> {
    guarded(Kind::Subscription, || Ok(tables.subscriptions.range::<&[u8]>(borrowed(&of_workspace(workspace)))?.count()))
}

fn resolve(context: &Context<'_, '_>, begin: Begin) -> Result<Position, StoreError> {
    let head = context.head.place;
    let position = match begin {
        Begin::Now => head.into(),
        Begin::Earliest => context.head.floor.into(),
        Begin::Snapshot => Position::Snapshot { of: head, after: None },
        Begin::At(position) => position,
        Begin::Since(place) => place.max(context.head.floor).into(),
    };
    check_in_log(head, position)?;
    if position.place() < context.head.floor { Err(expired(context)) } else { Ok(position) }
}

/// Refuses a position past the end of the log.
pub(in crate::store) fn check_in_log(head: Place, position: Position) -> Result<(), StoreError> {
    let in_future = || Invalid::from(CursorError::InFuture { field: "cursor", head });
    if position.place() > head { Err(in_future().into()) } else { Ok(()) }
}

fn expired(context: &Context<'_, '_>) -> StoreError {
    let (floor, head) = (context.head.floor, context.head.place);
    let oldest = floor.checked_next().filter(|_| floor < head);
    let time = |sequence| context.state.tables.event(context.workspace, sequence, |row| Ok(row.time)).ok().flatten();
    StoreError::Expired { floor, head, oldest_time: oldest.and_then(time) }
}

/// Returns the rows of the skipped events that are not listed yet.
fn new_skips(
    context: &Context<'_, '_>,
    subscription: &[u8],
    position: Position,
    skipped: &[(Sequence, String)],
) -> Result<Vec<RowWrite>, StoreError> {
    let (mut seen, mut rows) = (BTreeSet::new(), Vec::new());
    for (index, (sequence, reason)) in skipped.iter().enumerate() {
        let place = Place::from(*sequence);
        if place > position.place() {
            let problem = "must be an event at or before the cursor";
            return Err(Invalid::field(format_args!("skipped[{index}].sequence"), problem).into());
        }
        if place <= context.head.floor {
            continue; // Retention has removed the event, and would remove it from the list.
        }
        let key = skipped_key(subscription, sequence.get());
        let is_listed = guarded(Kind::Skipped, || Ok(context.state.tables.skipped.get(&*key)?.is_some()))?;
        if is_listed || !seen.insert(*sequence) {
            continue;
        }
        let row = SkippedRow { time: context.now(), reason: reason.clone() }.encode(&key);
        rows.push(RowWrite { table: RowTable::Skipped, key, row: Some(row) });
    }
    Ok(rows)
}

/// Returns the keys of a subscription's skipped events after a place and up to another.
pub(super) fn skipped(
    tables: &Tables<'_>,
    subscription: &[u8],
    after: Place,
    through: Place,
    most: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    guarded(Kind::Skipped, || {
        let (after, to) = (skipped_key(subscription, after.get()), skipped_key(subscription, through.get()));
        let range = (Bound::Excluded(&*after), Bound::Included(&*to));
        let keys = tables.skipped.range::<&[u8]>(range)?.take(most);
        keys.map(|row| Ok(row?.0.value().to_vec())).collect()
    })
}
