//! The one validator: what a subscriber recorded, compared with the log.
//!
//! It shares no code with the server. It knows the API: where a stream must start, what a filter selects, what a
//! snapshot holds and what a cursor says.
//!
//! What retention has overtaken is checked in [`super::overtaken`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;

use super::log::{Log, Version, Window};
use super::overtaken::as_held;
use super::recording::{Connection, Received, Recording};
use super::snapshot::{Choices, snapshot};
use super::violation::Violation;

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the snapshot as of a sequence, after a profile.
    Snapshot { of: u64, after: Option<i64> },
    /// After the event with this sequence.
    Log(u64),
}

/// Compares the streams of one subscriber with the log.
pub fn validate(log: &Log, recording: &Recording) -> Result<(), Violation> {
    let snapshots = recording.snapshots.iter().cloned();
    let snapshots = snapshots.map(|(cursor, of)| (cursor, Place::Snapshot { of, after: None })).collect();
    let mut validator = Validator { log, snapshots };
    for connection in &recording.connections {
        validator.connection(connection)?;
    }
    validator.acknowledgements(&recording.confirmed)?;
    let refused = recording.refused.first().cloned();
    refused.map_or(Ok(()), |cursor| Err(Violation::AcknowledgementRefused { cursor }))
}

pub struct Validator<'a> {
    pub log: &'a Log,
    /// The places in snapshots whose cursors this subscriber was sent.
    snapshots: HashMap<String, Place>,
}

impl Validator<'_> {
    fn connection(&mut self, connection: &Connection) -> Result<(), Violation> {
        let Some((first, rest)) = connection.messages.split_first() else {
            return self.refusal(connection);
        };
        let Some(Message::Opened(opened)) = &first.response.message else {
            return Err(out_of_phase(&first.response));
        };
        is_in_order(rest)?;
        let at = self.opened(connection, &first.response.cursor, opened)?;
        let delivered = rest.iter().filter_map(event_of).map(|event| event.sequence).collect();
        let read = *connection.snapshot_read.start()..=first.at;
        let mut walk = Walk { validator: self, connection, opened, delivered, at, is_caught_up: false, read };
        rest.iter().try_for_each(|message| walk.message(message))?;
        let reached = walk.at.sequence();
        connection.expired.as_ref().map_or(Ok(()), |expired| self.expired(connection, expired, reached))
    }

    /// The acknowledged place never goes back.
    fn acknowledgements(&self, confirmed: &[String]) -> Result<(), Violation> {
        let places = confirmed.iter().map(|cursor| self.place(cursor)).collect::<Result<Vec<_>, _>>()?;
        let back = places.windows(2).find(|pair| pair[1].order() < pair[0].order());
        back.map_or(Ok(()), |pair| {
            Err(Violation::AcknowledgedBack { from: pair[0].sequence(), to: pair[1].sequence() })
        })
    }

    pub fn place(&self, cursor: &str) -> Result<Place, Violation> {
        let snapshot = self.snapshots.get(cursor).copied();
        let place = snapshot.or_else(|| self.log.place(cursor).map(Place::Log));
        place.ok_or_else(|| Violation::UnknownCursor { cursor: cursor.into() })
    }

    /// Where the stream starts.
    fn opened(&mut self, connection: &Connection, cursor: &str, opened: &Opened) -> Result<Place, Violation> {
        let written = self.place(&connection.written)?.sequence();
        if opened.head_sequence < written {
            return Err(Violation::HeadBehind { written, head: opened.head_sequence });
        }
        let whole = Place::Snapshot { of: opened.after_sequence, after: None };
        if opened.snapshot && !self.snapshots.contains_key(cursor) {
            self.snapshots.insert(cursor.into(), whole);
        }
        let place = self.place(cursor)?;
        if place.sequence() != opened.after_sequence || opened.snapshot != matches!(place, Place::Snapshot { .. }) {
            return Err(wrong_start(format!("{place:?}, the cursor of `opened`"), opened));
        }
        let head = opened.head_sequence;
        let held = |wanted: u64| Place::Log(as_held(wanted, connection, opened));
        let expected = match &connection.start {
            None => Place::Log(head),
            Some(Start::Earliest(_)) => held(0),
            Some(Start::Cursor(cursor)) if cursor.is_empty() => held(0),
            Some(Start::Cursor(cursor)) => self.place(cursor)?,
            Some(Start::Time(time)) => held(self.log.before(*time).min(head)),
            Some(Start::Snapshot(_)) => Place::Snapshot { of: head, after: None },
            Some(Start::Subscription(_)) => self.at_acknowledged(connection, place, opened)?,
        };
        let (sequence, floor) = (place.sequence(), *connection.floors.start());
        if sequence < floor {
            return Err(Violation::ExpiredLate { place: sequence, floor });
        }
        if place == expected { Ok(place) } else { Err(wrong_start(format!("{expected:?}"), opened)) }
    }
}

/// One stream, read from its second message on.
struct Walk<'v, 'a> {
    validator: &'v mut Validator<'a>,
    connection: &'v Connection,
    opened: &'v Opened,
    /// The sequences of all events of the stream.
    delivered: BTreeSet<u64>,
    at: Place,
    is_caught_up: bool,
    /// When the server read what it sent last: not before the stream was asked for, or before it sent a heartbeat, and
    /// not after the message came.
    read: Window,
}

impl Walk<'_, '_> {
    fn message(&mut self, Received { response, at }: &Received) -> Result<(), Violation> {
        self.read = *self.read.start()..=*at;
        match (&response.message, self.at) {
            (Some(Message::SnapshotProfile(profile)), Place::Snapshot { of, after }) => {
                self.profile(&response.cursor, profile, of, after)
            }
            (Some(Message::SnapshotComplete(complete)), Place::Snapshot { of, after }) => {
                is_complete(&snapshot(self.validator.log, self.connection, of), of, after, None)?;
                is_named(of, complete.sequence)?;
                self.at = Place::Log(of);
                self.moved_to(&response.cursor, of)
            }
            (Some(Message::Event(event)), Place::Log(at)) => {
                self.event(event, at)?;
                self.moved_to(&response.cursor, event.sequence)
            }
            (Some(Message::CaughtUp(caught_up)), Place::Log(at)) if !self.is_caught_up => {
                self.is_caught_up = true;
                is_named(self.opened.head_sequence, caught_up.head_sequence)?;
                let place = self.notice(&response.cursor, at)?;
                if place < self.opened.head_sequence {
                    return Err(Violation::WrongNotice { expected: self.opened.head_sequence, named: place });
                }
                Ok(())
            }
            (Some(Message::Heartbeat(heartbeat)), Place::Log(at)) => {
                self.notice(&response.cursor, at)?;
                // What follows is read after it.
                let sent = heartbeat.time.and_then(|time| SystemTime::try_from(time).ok());
                self.read = sent.unwrap_or(*self.read.start()).max(*self.read.start())..=*self.read.end();
                Ok(())
            }
            (Some(Message::Heartbeat(_)), Place::Snapshot { .. })
                if self.validator.log.place(&response.cursor).is_none() =>
            {
                // It may be the cursor of a profile that does not match: what follows is what follows the last one that does.
                self.validator.snapshots.entry(response.cursor.clone()).or_insert(self.at);
                Ok(())
            }
            _ => Err(out_of_phase(response)),
        }
    }

    /// A profile of the snapshot.
    fn profile(&mut self, cursor: &str, profile: &Profile, of: u64, after: Option<i64>) -> Result<(), Violation> {
        let view = &self.connection.view;
        let snapshot = snapshot(self.validator.log, self.connection, of);
        // A masked profile may have no mpid: it is then the next. Without conditions, the next is certain.
        let next = snapshot.keys().copied().find(|mpid| Some(*mpid) > after);
        let mpid = if profile.mpid == 0 { next.unwrap_or_default() } else { profile.mpid };
        is_complete(&snapshot, of, after, Some(mpid))?;
        let Some(choices) = snapshot.get(&mpid).filter(|_| Some(mpid) > after) else {
            return Err(self.unwanted_profile(of, mpid, after));
        };
        let got = view.cut(profile);
        let is_choice = choices.may_be_other || choices.profiles.iter().any(|choice| view.cut(choice) == got);
        if !is_choice || !is_trimmed(&got, profile) {
            let (got, allowed) = (Box::new(profile.clone()), choices.profiles.clone());
            return Err(Violation::SnapshotAltered { of, got, allowed });
        }
        self.at = Place::Snapshot { of, after: Some(mpid) };
        match self.validator.snapshots.insert(cursor.into(), self.at) {
            Some(other) if other != self.at => Err(Violation::UnknownCursor { cursor: cursor.into() }),
            _ => Ok(()),
        }
    }

    fn event(&mut self, event: &Event, at: u64) -> Result<(), Violation> {
        let sequence = event.sequence;
        if sequence <= at {
            return Err(Violation::Repeated { sequence });
        }
        if let Some(missing) = self.undelivered(at, sequence - 1).next() {
            return Err(self.missing(missing));
        }
        let (log, view) = (self.validator.log, &self.connection.view);
        if log.is_unknown(sequence) {
            return Ok(());
        }
        let got = Event { r#match: 0, ..event.clone() };
        let cut = view.cut_event(&got);
        let is_equal = |version: &&Version| cut == view.cut_event(&version.event);
        let versions: Vec<_> = log.versions(sequence, &self.read).iter().filter(is_equal).collect();
        if versions.is_empty() && log.history(sequence).iter().any(|version| is_equal(&version)) {
            return Err(log.erased_value(&got, sequence));
        }
        if versions.is_empty() || !is_event_trimmed(&cut, &got) {
            return Err(log.altered(&got));
        }
        let matches: Vec<_> = versions.into_iter().filter_map(|version| view.verdict(log, version)).collect();
        match matches.first() {
            None => Err(Violation::Unwanted { sequence }),
            Some(_) if matches.iter().any(|matched| event.r#match == *matched as i32) => Ok(()),
            Some(matched) => Err(Violation::WrongMatch { sequence, expected: *matched as i32, got: event.r#match }),
        }
    }

    fn unwanted_profile(&self, of: u64, mpid: i64, after: Option<i64>) -> Violation {
        let (log, view) = (self.validator.log, &self.connection.view);
        let existed = log.profiles(of).contains_key(&mpid) && view.has_profile(log, mpid) && Some(mpid) > after;
        let next = log.next_of(mpid, of).filter(|_| existed);
        let is_stripped = |next: &u64| {
            log.erased_by(*next).is_some() || log.versions(*next, &self.read).iter().any(Version::is_stripped)
        };
        match next.filter(is_stripped) {
            Some(_) => Violation::ErasedProfile { of, mpid },
            None => Violation::SnapshotUnwanted { of, mpid },
        }
    }

    /// The place of a heartbeat or of `caught_up`: every event that matches up to it has been delivered.
    fn notice(&mut self, cursor: &str, at: u64) -> Result<u64, Violation> {
        let place = match self.validator.place(cursor)? {
            Place::Log(place) if place >= at => place,
            back => return Err(Violation::CursorBack { from: at, to: back.sequence() }),
        };
        if let Some(undelivered) = self.undelivered(at, place).next() {
            let goes_on = self.delivered.iter().any(|sequence| *sequence > undelivered);
            return Err(if goes_on && !self.delivered.contains(&undelivered) {
                self.missing(undelivered)
            } else {
                Violation::CursorAhead { cursor: place, undelivered }
            });
        }
        self.at = Place::Log(place);
        Ok(place)
    }

    /// The cursor of an event, or of the end of a snapshot.
    fn moved_to(&mut self, cursor: &str, sequence: u64) -> Result<(), Violation> {
        self.at = Place::Log(sequence);
        match self.validator.place(cursor)? {
            Place::Log(place) if place == sequence => Ok(()),
            other => Err(Violation::WrongCursor { sequence, cursor: other.sequence() }),
        }
    }

    /// The events that match, after one place and up to another. One that was erased meanwhile matches if it did before
    /// and does since.
    fn undelivered(&self, after: u64, through: u64) -> impl Iterator<Item = u64> {
        let (log, view) = (self.validator.log, &self.connection.view);
        let matches = move |version: &Version| view.verdict(log, version).is_some();
        (after + 1..=through).filter(move |sequence| {
            let versions = log.versions(*sequence, &self.read);
            !versions.is_empty() && versions.iter().all(matches) && !log.is_unknown(*sequence)
        })
    }

    fn missing(&self, sequence: u64) -> Violation {
        let (log, view) = (self.validator.log, &self.connection.view);
        let last = log.versions(sequence, &self.read).last();
        let matched = last.and_then(|version| view.verdict(log, version));
        if matched == Some(FilterMatch::Left) {
            Violation::LeftForgotten { sequence }
        } else {
            Violation::Missing { sequence }
        }
    }
}

impl Place {
    pub fn sequence(self) -> u64 {
        match self {
            Self::Snapshot { of, .. } => of,
            Self::Log(sequence) => sequence,
        }
    }

    /// A snapshot comes before the events that follow it.
    fn order(self) -> (u64, bool, Option<i64>) {
        match self {
            Self::Snapshot { of, after } => (of, false, after),
            Self::Log(sequence) => (sequence, true, None),
        }
    }
}

/// Every profile of the snapshot before this one has been delivered; without one, all have been.
fn is_complete(
    snapshot: &BTreeMap<i64, Choices>,
    of: u64,
    after: Option<i64>,
    before: Option<i64>,
) -> Result<(), Violation> {
    let mut certain = snapshot.iter().filter(|(_, choices)| choices.is_certain).map(|(mpid, _)| *mpid);
    let missing = certain.find(|mpid| Some(*mpid) > after && before.is_none_or(|before| *mpid < before));
    missing.map_or(Ok(()), |mpid| Err(Violation::SnapshotMissing { of, mpid }))
}

/// No event comes twice, or after one that follows it. The rest of the checks may then take the order for granted.
fn is_in_order(messages: &[Received]) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for sequence in messages.iter().filter_map(event_of).map(|event| event.sequence) {
        if let Some(after) = seen.last().copied().filter(|last| *last > sequence && !seen.contains(&sequence)) {
            return Err(Violation::Reordered { sequence, after });
        }
        if !seen.insert(sequence) {
            return Err(Violation::Repeated { sequence });
        }
    }
    Ok(())
}

fn event_of(received: &Received) -> Option<&Event> {
    match &received.response.message {
        Some(Message::Event(event)) => Some(event),
        _ => None,
    }
}

fn is_event_trimmed(cut: &Event, got: &Event) -> bool {
    let profiles = |event: &Event| [event.profile.clone(), event.previous.clone(), event.merged_profile.clone()];
    profiles(cut).iter().zip(&profiles(got)).all(|(cut, got)| match (cut, got) {
        (Some(cut), Some(got)) => is_trimmed(cut, got),
        (None, None) => true,
        _ => false,
    })
}

/// Whether the server had trimmed it as far as a mask does.
fn is_trimmed(cut: &Profile, got: &Profile) -> bool {
    *cut == super::changes::trimmed(got, &[], &[])
}

fn is_named(expected: u64, named: u64) -> Result<(), Violation> {
    if expected == named { Ok(()) } else { Err(Violation::WrongNotice { expected, named }) }
}

fn out_of_phase(response: &SubscribeResponse) -> Violation {
    Violation::OutOfPhase { message: format!("{:?}", response.message) }
}

fn wrong_start(expected: String, opened: &Opened) -> Violation {
    Violation::WrongStart { expected, opened: format!("{opened:?}") }
}
