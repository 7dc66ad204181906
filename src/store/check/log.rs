//! The logs: the events of each without holes, and the chain of each profile's events.

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{EventRow, FormerLogs, Head, Kind, ProfileRow};
use super::Store;
use super::report::Problems;
use crate::model::{Micros, Mpid, Place, Sequence};
use crate::proto::v1::Event;

const MISSING: &str = "events that are missing from a log";
const OUTSIDE: &str = "events before the beginning or after the end of their log";
const UNDECODED: &str = "events that cannot be decoded, or are not those of their rows";
const BACKWARDS: &str = "events that are earlier than the event before";
const SIZE: &str = "logs whose size is not that of their events";
const END: &str = "logs whose latest event has another time than the log says";
const FORMER: &str = "former logs that end after the log that continues them";
const NO_EVENT: &str = "chains of events that lead to a missing event";
const STRAY_LINK: &str = "chains of events that lead to an event of another profile, or do not lead back";
const AFTER_END: &str = "profiles whose latest event is after the end of the log";
const UNREACHED: &str = "events that their profile's chain does not reach";

/// The former logs end where they were continued.
pub(super) fn check_former(store: &Store, former: &FormerLogs, problems: &mut Problems) {
    for (workspace, head) in store.logs() {
        if former.of(Some(workspace)).iter().any(|former| former.through > head.place) {
            problems.add_in(FORMER, workspace);
        }
    }
}

/// Each log holds the events from its beginning to its end.
pub(super) fn check(store: &Store, damaged: &dyn Fn(Kind) -> bool, problems: &mut Problems) -> Result<(), StoreError> {
    for (workspace, head) in store.logs() {
        check_log(store, workspace, head, damaged(Kind::Event), problems)?;
    }
    Ok(())
}

/// What was read of a log.
struct Read {
    /// The place after the last event.
    place: Place,
    time: Micros,
    bytes: u64,
    missing: u64,
}

fn check_log(
    store: &Store,
    workspace: WorkspaceId,
    head: Head,
    is_damaged: bool,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let mut read = Read { place: head.floor, time: Micros::new(i64::MIN), bytes: 0, missing: 0 };
    for row in store.events.range((workspace.0, 0)..=(workspace.0, u64::MAX))? {
        let (key, row) = row?;
        let number = key.value().1;
        let Some(sequence) = Sequence::new(number).filter(|_| number > head.floor.get() && number <= head.place.get())
        else {
            problems.add_events(OUTSIDE, workspace, number, 1);
            continue;
        };
        read.skip_to(number, workspace, problems);
        read.bytes += row.value().len() as u64;
        if let Ok(row) = EventRow::read(workspace, sequence, row.value()) {
            read.event(workspace, sequence, &row, problems);
        }
    }
    read.skip_to(head.place.get().saturating_add(1), workspace, problems);
    if read.missing == 0 && !is_damaged {
        read.check_end(workspace, head, problems);
    }
    Ok(())
}

impl Read {
    /// The next event has this number. Reports those before it that were not read.
    fn skip_to(&mut self, number: u64, workspace: WorkspaceId, problems: &mut Problems) {
        let expected = self.place.get().saturating_add(1);
        let missing = number.saturating_sub(expected);
        if missing > 0 {
            self.missing += missing;
            problems.add_events(MISSING, workspace, expected, missing);
        }
        self.place = Place::after(number);
    }

    fn event(&mut self, workspace: WorkspaceId, sequence: Sequence, row: &EventRow<'_>, problems: &mut Problems) {
        let is_right = |event: &Event| event.sequence == sequence.get() && event.mpid == row.mpid.get();
        if !Event::decode(row.event).is_ok_and(|event| is_right(&event)) {
            problems.add_events(UNDECODED, workspace, sequence.get(), 1);
        }
        if row.time < self.time {
            problems.add_events(BACKWARDS, workspace, sequence.get(), 1);
        }
        self.time = row.time;
    }

    /// The log is as long as its head says. Of an empty log the time is that of an event that is gone.
    fn check_end(&self, workspace: WorkspaceId, head: Head, problems: &mut Problems) {
        if self.bytes != head.bytes {
            problems.add_in(SIZE, workspace);
        }
        if head.floor < head.place && self.time != head.time {
            problems.add_in(END, workspace);
        }
    }
}

/// The chains, which begin with the rows of the profiles, reach every event once for each profile that it belongs to.
pub(super) fn check_chains(
    store: &Store,
    damaged: &dyn Fn(Kind) -> bool,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    for (workspace, head) in store.logs() {
        let (mut reached, mut is_whole) = (0, !damaged(Kind::Event) && !damaged(Kind::Profile));
        for row in store.profiles.range((workspace.0, i64::MIN)..=(workspace.0, i64::MAX))? {
            let (key, row) = row?;
            let Some(mpid) = Mpid::new(key.value().1) else { continue };
            let Ok(row) = ProfileRow::read(workspace, mpid, row.value()) else { continue };
            match follow(store, workspace, head, mpid, row.last_event, problems)? {
                Some(count) => reached += count,
                None => is_whole = false,
            }
        }
        let expected = if is_whole { links(store, workspace)? } else { reached };
        if expected > reached {
            let place = problems.shown(workspace);
            problems.add_many(UNREACHED, expected - reached, || place);
        }
    }
    Ok(())
}

/// Follows a chain as far as the log goes back. Returns how many events it has; `None` if it is broken.
fn follow(
    store: &Store,
    workspace: WorkspaceId,
    head: Head,
    mpid: Mpid,
    latest: Sequence,
    problems: &mut Problems,
) -> Result<Option<u64>, StoreError> {
    if Place::from(latest) > head.place {
        problems.add_profile(AFTER_END, workspace, mpid);
        return Ok(None);
    }
    let (mut count, mut next) = (0, Some(latest));
    while let Some(sequence) = next.filter(|sequence| Place::from(*sequence) > head.floor) {
        let Some(row) = store.events.get((workspace.0, sequence.get()))? else {
            problems.add_profile(NO_EVENT, workspace, mpid);
            return Ok(None);
        };
        let Ok(row) = EventRow::read(workspace, sequence, row.value()) else { return Ok(None) };
        let Ok(before) = row.before(mpid, sequence) else {
            problems.add_profile(STRAY_LINK, workspace, mpid);
            return Ok(None);
        };
        (count, next) = (count + 1, before);
    }
    Ok(Some(count))
}

/// How many events the chains of a log have together: that of a merge belongs to two.
fn links(store: &Store, workspace: WorkspaceId) -> Result<u64, StoreError> {
    let mut links = 0;
    for row in store.events.range((workspace.0, 0)..=(workspace.0, u64::MAX))? {
        let (key, row) = row?;
        let Some(sequence) = Sequence::new(key.value().1) else { continue };
        let has_other = EventRow::read(workspace, sequence, row.value()).is_ok_and(|row| row.other.is_some());
        links += 1 + u64::from(has_other);
    }
    Ok(links)
}
