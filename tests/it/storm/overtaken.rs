//! The part of the validator that knows retention: where streams start, or end, that it has overtaken.

use std::ops::RangeInclusive;

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;

use super::recording::{Acknowledged, Connection};
use super::retention::{Expired, HELD_BYTES, KEPT_BYTES};
use super::validator::{Place, Validator};
use super::violation::Violation;

/// The place where a stream starts that wants to start after a sequence, or with the oldest event. If retention removed
/// events in the meantime, there are several that are right.
pub fn as_held(wanted: u64, connection: &Connection, opened: &Opened) -> u64 {
    let floors = &connection.floors;
    let (first, last) = (wanted.max(*floors.start()), wanted.max(*floors.end().min(&opened.head_sequence)));
    opened.after_sequence.min(last).max(first)
}

impl Validator<'_> {
    /// A stream that was refused.
    pub fn refusal(&self, connection: &Connection) -> Result<(), Violation> {
        let Some(expired) = &connection.expired else { return Ok(()) };
        match (&connection.start, &connection.acknowledged) {
            (Some(Start::Cursor(cursor)), _) if !cursor.is_empty() => {
                self.expired(connection, expired, self.place(cursor)?.sequence())
            }
            (Some(Start::Subscription(_)), Some(acknowledged)) => self.lost(connection, expired, acknowledged),
            // Every other start is in the log, wherever that begins.
            _ => Err(Violation::ExpiredEarly { place: expired.head, floor: expired.floor() }),
        }
    }

    /// A stream that was at a place was told that the log no longer holds what comes next.
    pub fn expired(&self, connection: &Connection, expired: &Expired, place: u64) -> Result<(), Violation> {
        self.ends(connection, expired)?;
        let floor = expired.floor();
        if place >= floor {
            return Err(Violation::ExpiredEarly { place, floor });
        }
        self.is_over(expired, KEPT_BYTES)
    }

    /// A durable stream was refused.
    fn lost(&self, connection: &Connection, expired: &Expired, acknowledged: &Acknowledged) -> Result<(), Violation> {
        let place = self.first_acknowledged(acknowledged)?;
        if acknowledged.on_expired != OnExpired::Unspecified {
            return Err(Violation::ExpiredEarly { place, floor: expired.floor() });
        }
        self.expired(connection, expired, place)?;
        self.is_over(expired, HELD_BYTES)
    }

    /// Where a durable stream starts: at an acknowledged place, or where its settings say if the log does not reach back.
    pub fn at_acknowledged(&self, connection: &Connection, at: Place, opened: &Opened) -> Result<Place, Violation> {
        let Some(acknowledged) = &connection.acknowledged else { return Ok(at) };
        let places = self.places(acknowledged)?;
        let may_be_lost = places.iter().any(|place| place.sequence() < *connection.floors.end());
        let from = acknowledged.floor;
        let elsewhere = |allowed: RangeInclusive<u64>| may_be_lost && allowed.contains(&at.sequence());
        let is_right = places.contains(&at)
            || match (acknowledged.on_expired, at) {
                (OnExpired::Earliest, Place::Log(_)) => elsewhere(from..=*connection.floors.end()),
                (OnExpired::Snapshot, Place::Snapshot { after: None, .. }) => elsewhere(from..=opened.head_sequence),
                _ => false,
            };
        if is_right {
            return Ok(at);
        }
        let acknowledged = places.into_iter().map(Place::sequence).collect();
        Err(Violation::WrongPlace { acknowledged, opened: at.sequence() })
    }

    fn places(&self, acknowledged: &Acknowledged) -> Result<Vec<Place>, Violation> {
        acknowledged.places.iter().map(|cursor| self.place(cursor)).collect()
    }

    fn first_acknowledged(&self, acknowledged: &Acknowledged) -> Result<u64, Violation> {
        let places = self.places(acknowledged)?.into_iter().map(Place::sequence);
        Ok(places.min().expect("a subscription has a place"))
    }

    /// What the refusal says of the log.
    fn ends(&self, connection: &Connection, expired: &Expired) -> Result<(), Violation> {
        let Expired { oldest, head, ref oldest_time, floor_after } = *expired;
        let written = self.place(&connection.written)?.sequence();
        let time = self.log.event(oldest).and_then(|version| version.event.time).filter(|_| oldest <= head);
        let time = time.map(|time| time.to_string()).unwrap_or_default();
        let checks = [
            ("oldest_sequence", (*connection.floors.start()..=floor_after).contains(&expired.floor())),
            ("head_sequence", (written..=self.log.head()).contains(&head)),
            ("oldest_time", time == *oldest_time),
        ];
        let wrong = checks.into_iter().find(|(_, holds)| !holds);
        wrong.map_or(Ok(()), |(what, _)| Err(Violation::WrongEnds { oldest, head, what }))
    }

    /// The log had been larger than retention leaves it.
    fn is_over(&self, expired: &Expired, bytes: u64) -> Result<(), Violation> {
        let (floor, head) = (expired.floor(), expired.head);
        if expired.exceeds(self.log, bytes) { Ok(()) } else { Err(Violation::TrimmedEarly { floor, head }) }
    }
}
