//! What is delivered and what may be acknowledged. Pure: no I/O, no clock.
//!
//! - An acknowledgement is cumulative, so it goes up to the last message before the first unfinished delivery.
//! - One acknowledgement is on its way at a time. What finishes meanwhile goes with the next one.
//! - After a reconnect the stream begins after what was acknowledged. What was finished but not acknowledged comes again,
//!   and is not delivered again.

use std::collections::{HashMap, VecDeque};

use crate::proto::v1::acknowledge_request::Skip;

/// How many skipped events one acknowledgement may name.
const MAX_SKIPS: usize = 100;

/// What is delivered once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The event with this sequence.
    Event(u64),
    /// The profile of a snapshot with this id.
    Profile(String),
}

/// How far a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unfinished,
    Delivered,
    Skipped(String),
}

/// A message of the stream that is not acknowledged.
#[derive(Debug)]
struct Message {
    cursor: String,
    /// None for a message that is only a place, such as a heartbeat.
    key: Option<Key>,
}

/// An acknowledgement to send.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acknowledgement {
    pub stream: u64,
    pub cursor: String,
    pub skipped: Vec<Skip>,
}

/// The messages that are not acknowledged, and their deliveries.
#[derive(Debug, Default)]
pub struct Ledger {
    stream: u64,
    messages: VecDeque<Message>,
    /// The deliveries that are unfinished, or finished and not known to be acknowledged.
    states: HashMap<Key, State>,
    /// How many of the messages the acknowledgement on its way is for.
    sent: Option<usize>,
    /// The last cursor that was acknowledged.
    acknowledged: String,
}

impl Ledger {
    /// A stream begins after the event `after`, or within a snapshot. Its messages follow. An earlier stream is over.
    pub fn open(&mut self, stream: u64, after: Option<u64>) {
        self.stream = stream;
        self.messages.clear();
        self.sent = None;
        let Some(after) = after else { return };
        // What does not come again was acknowledged, although the response was lost.
        self.states.retain(|key, state| *state == State::Unfinished || matches!(key, Key::Event(at) if *at > after));
    }

    /// A message that is to be delivered. Returns whether its delivery has to begin.
    pub fn arrive(&mut self, key: Key, cursor: String) -> bool {
        let begins = !self.states.contains_key(&key);
        if begins {
            self.states.insert(key.clone(), State::Unfinished);
        }
        self.messages.push_back(Message { cursor, key: Some(key) });
        begins
    }

    /// A message that is only a place. Those in a row count as one.
    pub fn pass(&mut self, cursor: String) {
        let unsent = self.messages.len() > self.sent.unwrap_or(0);
        match self.messages.back_mut() {
            Some(last) if last.key.is_none() && unsent => last.cursor = cursor,
            None if self.acknowledged == cursor => {}
            _ => self.messages.push_back(Message { cursor, key: None }),
        }
    }

    /// The receiver has it.
    pub fn delivered(&mut self, key: Key) {
        self.states.insert(key, State::Delivered);
    }

    /// The receiver never gets it.
    pub fn skipped(&mut self, key: Key, reason: String) {
        self.states.insert(key, State::Skipped(reason));
    }

    /// How many messages wait to be acknowledged.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether everything that the stream sent is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The acknowledgement to send now, if there is one. Its outcome goes to [`Self::acknowledged`] or [`Self::refused`].
    pub fn next(&mut self) -> Option<Acknowledgement> {
        if self.sent.is_some() {
            return None;
        }
        let (mut skipped, mut count) = (Vec::new(), 0_usize);
        for message in &self.messages {
            let state = message.key.as_ref().and_then(|key| self.states.get(key).map(|state| (key, state)));
            match state {
                // A profile that was skipped has no sequence to name. The log has a line.
                None | Some((_, State::Delivered) | (Key::Profile(_), State::Skipped(_))) => {}
                Some((_, State::Unfinished)) => break,
                Some((_, State::Skipped(_))) if skipped.len() == MAX_SKIPS => break,
                Some((Key::Event(sequence), State::Skipped(reason))) => {
                    skipped.push(Skip { sequence: *sequence, reason: reason.clone() });
                }
            }
            count += 1;
        }
        let cursor = self.messages.get(count.checked_sub(1)?)?.cursor.clone();
        self.sent = Some(count);
        Some(Acknowledgement { stream: self.stream, cursor, skipped })
    }

    /// The acknowledgement that was sent on this stream is on disk.
    pub fn acknowledged(&mut self, stream: u64) {
        let Some(count) = self.sent.take_if(|_| self.stream == stream) else { return };
        for message in self.messages.drain(..count) {
            self.acknowledged = message.cursor;
            if let Some(key) = message.key {
                self.states.remove(&key);
            }
        }
    }

    /// The acknowledgement that was sent on this stream failed: the next one is for at least as much.
    pub fn refused(&mut self, stream: u64) {
        self.sent.take_if(|_| self.stream == stream);
    }

    /// Whether the stream is the one that is open.
    pub fn is_open(&self, stream: u64) -> bool {
        self.stream == stream
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn cursor(sequence: u64) -> String {
        format!("{sequence:04}")
    }

    fn arrive(ledger: &mut Ledger, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            assert!(ledger.arrive(Key::Event(sequence), cursor(sequence)), "{sequence}");
        }
    }

    #[test]
    fn acknowledgements_are_one_at_a_time_and_coalesced() {
        let mut ledger = Ledger::default();
        ledger.open(3, Some(0));
        arrive(&mut ledger, 1..=4);
        assert_eq!(ledger.next(), None);
        ledger.delivered(Key::Event(1));
        let first = Acknowledgement { stream: 3, cursor: cursor(1), skipped: vec![] };
        assert_eq!((ledger.next(), ledger.next()), (Some(first), None));
        ledger.delivered(Key::Event(3));
        ledger.skipped(Key::Event(2), "HTTP 500".into());
        assert_eq!(ledger.next(), None, "one is on its way");
        ledger.acknowledged(3);
        let skip = Skip { sequence: 2, reason: "HTTP 500".into() };
        let second = Acknowledgement { stream: 3, cursor: cursor(3), skipped: vec![skip] };
        assert_eq!(ledger.next(), Some(second.clone()));
        ledger.refused(3);
        assert_eq!(ledger.next(), Some(second), "and again, with what was skipped");
        ledger.acknowledged(3);
        assert_eq!((ledger.next(), ledger.len()), (None, 1));
    }

    #[test]
    fn a_place_behind_an_unfinished_event_waits_for_it() {
        let mut ledger = Ledger::default();
        arrive(&mut ledger, [1]);
        ledger.pass("a".into());
        ledger.pass("b".into());
        assert_eq!((ledger.next(), ledger.len()), (None, 2));
        ledger.delivered(Key::Event(1));
        assert_eq!(ledger.next().unwrap().cursor, "b");
        ledger.pass("c".into()); // It must not become part of what is on its way.
        ledger.acknowledged(0);
        assert_eq!(ledger.next().unwrap().cursor, "c");
        ledger.acknowledged(0);
        ledger.pass("c".into());
        assert_eq!(ledger.next(), None, "it is acknowledged already");
    }

    #[test]
    fn what_comes_again_after_a_reconnect_is_not_delivered_again() {
        let mut ledger = Ledger::default();
        ledger.open(1, Some(0));
        arrive(&mut ledger, 1..=4);
        for done in [1, 2, 4] {
            ledger.delivered(Key::Event(done));
        }
        assert_eq!(ledger.next().unwrap().cursor, cursor(2));
        ledger.open(2, Some(1));
        ledger.acknowledged(1); // It is of the earlier stream, so it says nothing of this one.
        assert_eq!(ledger.states.len(), 3, "the first event does not come again");
        for again in 2..=4 {
            assert!(!ledger.arrive(Key::Event(again), cursor(again)));
        }
        assert_eq!(ledger.next().unwrap().cursor, cursor(2));
        ledger.acknowledged(2);
        ledger.delivered(Key::Event(3));
        assert_eq!(ledger.next(), Some(Acknowledgement { stream: 2, cursor: cursor(4), skipped: vec![] }));
        ledger.acknowledged(2);
        assert_eq!((ledger.len(), ledger.states.len()), (0, 0));
    }

    #[test]
    fn profiles_of_a_snapshot_are_remembered_while_it_lasts() {
        let mut ledger = Ledger::default();
        let key = || Key::Profile("p".into());
        assert!(ledger.arrive(key(), "a".into()));
        ledger.delivered(key());
        ledger.open(2, None);
        assert!(!ledger.arrive(key(), "a".into()));
        ledger.open(3, Some(7));
        assert_eq!(ledger.states.len(), 0);
    }

    #[test]
    fn an_acknowledgement_names_a_hundred_skipped_events_at_most() {
        let mut ledger = Ledger::default();
        arrive(&mut ledger, 1..=150);
        (1..=150).for_each(|sequence| ledger.skipped(Key::Event(sequence), String::new()));
        for (to, named) in [(100, 100), (150, 50)] {
            let next = ledger.next().unwrap();
            assert_eq!((next.cursor, next.skipped.len()), (cursor(to), named));
            ledger.acknowledged(0);
        }
    }

    proptest! {
        /// Deliveries end in any order, acknowledgements succeed, fail or are lost, streams break: nothing unfinished is
        /// acknowledged, nothing is delivered twice, and in the end everything is acknowledged.
        #[test]
        fn nothing_unfinished_is_acknowledged(steps in prop::collection::vec((0..6_u8, any::<prop::sample::Index>()), 0..200)) {
            let mut ledger = Ledger::default();
            let (mut stream, mut arrived, mut server) = (1, 0, 0);
            let (mut running, mut begun, mut sent) = (BTreeSet::new(), BTreeSet::new(), None);
            let check = |ledger: &mut Ledger, running: &BTreeSet<u64>| {
                let next: u64 = ledger.next()?.cursor.parse().unwrap();
                assert!(running.first().is_none_or(|first| next < *first), "{next} is past {running:?}");
                Some(next)
            };
            ledger.open(stream, Some(0));
            for (step, index) in steps {
                match step {
                    0 | 1 => {
                        arrived += 1;
                        if ledger.arrive(Key::Event(arrived), cursor(arrived)) {
                            assert!(begun.insert(arrived), "{arrived} is delivered twice");
                            running.insert(arrived);
                        }
                    }
                    2 | 3 if !running.is_empty() => {
                        let done = *index.get(&running.iter().copied().collect::<Vec<_>>());
                        running.remove(&done);
                        if step == 2 { ledger.delivered(Key::Event(done)) } else { ledger.skipped(Key::Event(done), String::new()) }
                    }
                    4 => {
                        let Some(cursor) = sent.take().or_else(|| check(&mut ledger, &running)) else { continue };
                        match index.index(3) {
                            0 => { server = server.max(cursor); ledger.acknowledged(stream); }
                            1 => ledger.refused(stream),
                            _ => sent = Some(cursor),
                        }
                    }
                    5 => {
                        if let Some(cursor) = sent.take().filter(|_| index.index(2) == 0) {
                            server = server.max(cursor); // The response was lost.
                        }
                        stream += 1;
                        ledger.open(stream, Some(server));
                        arrived = server;
                    }
                    _ => {}
                }
            }
            while arrived < begun.last().copied().unwrap_or(0) {
                arrived += 1;
                assert!(!ledger.arrive(Key::Event(arrived), cursor(arrived)), "{arrived} is delivered twice");
            }
            ledger.acknowledged(stream);
            for done in std::mem::take(&mut running) {
                ledger.delivered(Key::Event(done));
            }
            while let Some(cursor) = check(&mut ledger, &running) {
                server = cursor;
                ledger.acknowledged(stream);
            }
            prop_assert_eq!((ledger.len(), ledger.states.len()), (0, 0));
            prop_assert!(begun.last().is_none_or(|last| *last <= server.max(arrived)));
        }
    }
}
