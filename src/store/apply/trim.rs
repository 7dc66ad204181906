//! Retention: removes the oldest events of a log.
//!
//! - An event goes if it is too old or the log is too large, unless a subscription still needs it and may hold it.
//! - Events go in order, and the first that may stay ends the command. So the log has no holes.
//! - A damaged event goes with the first later event that goes. Its time is unknown, but it is not after that of the
//!   latest event, so it goes at the latest when even that is too old.
//! - The lists of skipped events lose an event with the log: see `forget`. If a command cannot take it off all of them,
//!   the event stays until the next.
//! - One command removes few events, so that no call waits for it long.

use std::time::Duration;

use bytes::Bytes;
use redb::ReadableTable;

use super::super::effects::Effects;
use super::super::error::StoreError;
use super::super::rows::{EventRow, Head, Kind};
use super::super::tables::guarded;
use super::forget::{self, Forgotten};
use super::state::Context;
use super::{Decision, Written, subscription};
use crate::command::Trim;
use crate::model::{Micros, Place, Sequence};
use crate::proto::v1::WriteOutcome;

/// The bytes of events after which a command removes no other. The last event may exceed it.
pub(in crate::store) const TRIM_BYTES: u64 = 1 << 20;
/// The most damaged events in a row that a command looks at, in search of one that can be read.
const DAMAGED: usize = 4_096;

/// What decides whether an event goes.
struct Rule<'a> {
    trim: &'a Trim,
    now: Micros,
    held: Option<Place>,
}

/// The events that go, while they are counted.
struct Cut {
    /// The place before the oldest event that stays.
    floor: Place,
    /// The bytes of the log after it.
    bytes: u64,
    /// Each with the bytes of the log after it.
    rows: Vec<(Sequence, u64)>,
}

pub(super) fn decide(context: &Context<'_, '_>, trim: &Trim) -> Result<Decision, StoreError> {
    let head = context.head;
    let mut cut = if context.exists { cut(context, trim)? } else { Cut::none(head) };
    let mut effects = Effects::default();
    if cut.floor > head.floor {
        let Forgotten { rows, through } = forget::up_to(context, cut.floor)?;
        cut.end_at(through, head);
        effects = Effects { workspace: Some(context.workspace), rows, ..effects };
    }
    if cut.floor > head.floor {
        effects.head = Some(Head { floor: cut.floor, bytes: cut.bytes, ..head });
        effects.trimmed = cut.rows.into_iter().map(|(sequence, _)| sequence).collect();
    }
    // Something may have been forgotten and no event removed.
    let outcome = if effects.is_empty() { WriteOutcome::Unchanged } else { WriteOutcome::Updated };
    let place = (!context.command.validate_only).then_some(cut.floor);
    let written = Written { outcome, place, mpid: None, profile: None, subscription: None, detail: Bytes::new() };
    if context.command.validate_only {
        return Ok(Decision { written, effects: Effects::default() });
    }
    Ok(Decision { written, effects })
}

/// Finds the events that go.
fn cut(context: &Context<'_, '_>, trim: &Trim) -> Result<Cut, StoreError> {
    let rule = Rule { trim, now: context.now(), held: subscription::held(context)? };
    guarded(Kind::Event, || cut_by(context, &rule))
}

fn cut_by(context: &Context<'_, '_>, rule: &Rule<'_>) -> Result<Cut, StoreError> {
    let (id, head) = (context.workspace, context.head);
    let mut cut = Cut::none(head);
    let Some(first) = head.floor.checked_next().filter(|_| head.floor < head.place) else { return Ok(cut) };
    // Damaged events that go if a later event goes, and the bytes of the log after them.
    let (mut damaged, mut bytes) = (Vec::new(), head.bytes);
    for row in context.state.tables.events.range((id.0, first.get())..=(id.0, head.place.get()))? {
        if cut.is_full(head, rule.trim, damaged.len()) {
            return Ok(cut);
        }
        let (key, row) = row?;
        let sequence = Sequence::new(key.value().1).ok_or(Kind::Event.corrupt())?;
        let time = EventRow::read(id, sequence, row.value()).ok().map(|row| row.time);
        let goes = rule.removes(sequence, time.unwrap_or(head.time), bytes);
        bytes = bytes.saturating_sub(row.value().len() as u64);
        damaged.push((sequence, bytes));
        if goes {
            cut.rows.append(&mut damaged);
            (cut.floor, cut.bytes) = (sequence.into(), bytes);
        } else if time.is_some() {
            return Ok(cut);
        }
    }
    // Rows that are missing at the end go like damaged ones.
    if rule.removes(head.place.last().ok_or(Kind::Head.corrupt())?, head.time, bytes) {
        cut.rows.append(&mut damaged);
        cut.floor = head.place;
    }
    if cut.floor == head.place {
        cut.bytes = 0; // Also if rows were missing.
    }
    Ok(cut)
}

impl Cut {
    fn none(head: Head) -> Self {
        Self { floor: head.floor, bytes: head.bytes, rows: Vec::new() }
    }

    /// Ends the cut at a place, if it goes further.
    fn end_at(&mut self, floor: Place, head: Head) {
        if floor < self.floor {
            self.rows.retain(|(sequence, _)| Place::from(*sequence) <= floor);
            self.bytes = self.rows.last().map_or(head.bytes, |(_, bytes)| *bytes);
            self.floor = floor;
        }
    }

    fn is_full(&self, head: Head, trim: &Trim, damaged: usize) -> bool {
        let removed = head.bytes.saturating_sub(self.bytes);
        let has_most = damaged == 0 && (self.rows.len() >= trim.most || removed >= TRIM_BYTES);
        has_most || damaged >= DAMAGED
    }
}

impl Rule<'_> {
    /// Whether an event goes. `bytes` are those of the log from this event on.
    fn removes(&self, sequence: Sequence, time: Micros, bytes: u64) -> bool {
        let Trim { max_age, max_bytes, hold_age, hold_bytes, .. } = *self.trim;
        let is_over = |age, limit| self.is_as_old(time, age) || is_larger(bytes, limit);
        let is_needed = self.held.is_some_and(|held| Place::from(sequence) > held);
        is_over(max_age, max_bytes) && (!is_needed || is_over(hold_age, hold_bytes))
    }

    fn is_as_old(&self, time: Micros, age: Option<Duration>) -> bool {
        age.is_some_and(|age| time.plus(age) <= self.now)
    }
}

fn is_larger(bytes: u64, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| bytes > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TRIM: Trim = Trim { max_age: None, max_bytes: None, hold_age: None, hold_bytes: None, most: 1 };

    fn removes(trim: Trim, held: Option<u64>, sequence: u64, bytes: u64) -> bool {
        let rule = Rule { trim: &trim, now: Micros::new(10_000_000), held: held.map(Place::after) };
        rule.removes(Sequence::new(sequence).unwrap(), Micros::new(5_000_000), bytes)
    }

    /// The event is 5 s old.
    #[test]
    fn an_event_goes_when_it_is_as_old_as_the_limit_or_the_log_is_larger_than_the_limit() {
        let by_age = |seconds| Trim { max_age: Some(seconds * SECOND), ..TRIM };
        let by_bytes = |bytes| Trim { max_bytes: Some(bytes), ..TRIM };
        assert!(!removes(TRIM, None, 1, u64::MAX), "without a limit");
        assert!(removes(by_age(5), None, 1, 0));
        assert!(!removes(by_age(6), None, 1, u64::MAX));
        assert!(removes(by_bytes(99), None, 1, 100));
        assert!(!removes(by_bytes(100), None, 1, 100));
        assert!(removes(Trim { max_bytes: Some(100), ..by_age(5) }, None, 1, 0), "either is enough");
        assert!(removes(Trim { max_bytes: Some(99), ..by_age(6) }, None, 1, 100));
    }

    #[test]
    fn an_event_that_a_subscription_needs_stays_until_it_may_not_be_held_any_longer() {
        let trim = Trim { max_age: Some(SECOND), max_bytes: Some(10), ..TRIM };
        assert!(removes(trim, Some(7), 7, 50), "acknowledged");
        assert!(!removes(trim, Some(7), 8, 50), "not acknowledged");
        assert!(!removes(trim, Some(0), 1, u64::MAX), "without a limit of the hold");
        assert!(removes(Trim { hold_age: Some(5 * SECOND), ..trim }, Some(7), 8, 50));
        assert!(!removes(Trim { hold_age: Some(6 * SECOND), ..trim }, Some(7), 8, 50));
        assert!(removes(Trim { hold_bytes: Some(49), ..trim }, Some(7), 8, 50));
        assert!(!removes(Trim { hold_bytes: Some(50), ..trim }, Some(7), 8, 50));
        let short = Trim { hold_age: Some(Duration::ZERO), hold_bytes: Some(0), ..TRIM };
        assert!(!removes(short, Some(0), 1, 50), "a hold is never shorter than the retention");
    }
}
