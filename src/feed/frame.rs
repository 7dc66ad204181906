//! Encoded `SubscribeResponse`s, each with the prefix that gRPC puts before a message: so a stream sends them as they
//! are, however many streams there are. The frame of an event is built from the stored bytes, without decoding them.

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::model::cursor::{CursorSpace, LOG_TEXT};
use crate::model::{Position, Sequence, wire};
use crate::proto::field::event::MATCH;
use crate::proto::field::subscribe_response::{
    CAUGHT_UP, CURSOR, EVENT, HEARTBEAT, OPENED, SNAPSHOT_COMPLETE, SNAPSHOT_PROFILE,
};
use crate::proto::v1::FilterMatch;

/// Bytes of the prefix: whether the message is compressed, and its length.
pub const PREFIX: usize = 1 + 4;
const PLAIN: u8 = 0;

/// A message of the stream other than an event.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The first message.
    Opened(crate::proto::v1::Opened),
    /// Every profile of the snapshot has been delivered.
    SnapshotComplete(crate::proto::v1::SnapshotComplete),
    /// Everything up to the head has been delivered.
    CaughtUp(crate::proto::v1::CaughtUp),
    /// Nothing was sent for the heartbeat interval.
    Heartbeat(crate::proto::v1::Heartbeat),
}

/// Appends the frame of an event. The event comes last in it.
pub fn put_event(cursors: CursorSpace, sequence: Sequence, event: &[u8], frames: &mut Vec<u8>) {
    put(cursors, sequence.into(), EVENT, &[event], frames);
}

/// Appends the frame of an event with its `match`.
pub fn put_matched(cursors: CursorSpace, sequence: Sequence, event: &[u8], matched: FilterMatch, frames: &mut Vec<u8>) {
    let mut field = Vec::with_capacity(2);
    if matched != FilterMatch::Unspecified {
        prost::encoding::int32::encode(MATCH, &i32::from(matched), &mut field);
    }
    put(cursors, sequence.into(), EVENT, &[event, &field], frames);
}

/// Appends the frame of a profile of a snapshot.
pub fn put_profile(cursors: CursorSpace, position: Position, profile: &[u8], frames: &mut Vec<u8>) {
    put(cursors, position, SNAPSHOT_PROFILE, &[profile], frames);
}

/// The frame of a notice, with the cursor of a position.
#[must_use]
pub fn notice(cursors: CursorSpace, position: Position, notice: &Notice) -> Bytes {
    let (tag, message) = match notice {
        Notice::Opened(opened) => (OPENED, opened.encode_to_vec()),
        Notice::SnapshotComplete(complete) => (SNAPSHOT_COMPLETE, complete.encode_to_vec()),
        Notice::CaughtUp(caught_up) => (CAUGHT_UP, caught_up.encode_to_vec()),
        Notice::Heartbeat(heartbeat) => (HEARTBEAT, heartbeat.encode_to_vec()),
    };
    let mut frame = Vec::new();
    put(cursors, position, tag, &[&message], &mut frame);
    frame.into()
}

/// The bytes of the frame of an event that has so many itself.
#[must_use]
pub fn event_len(event: usize) -> usize {
    PREFIX + wire::delimited_len(CURSOR, LOG_TEXT) + wire::delimited_len(EVENT, event)
}

/// Appends a frame. The parts together are the value of the field `tag`.
fn put(cursors: CursorSpace, position: Position, tag: u32, parts: &[&[u8]], frames: &mut Vec<u8>) {
    let cursor = cursors.at(position).encode();
    let value = parts.iter().map(|part| part.len()).sum();
    let length = wire::delimited_len(CURSOR, cursor.len()) + wire::delimited_len(tag, value);
    frames.reserve(PREFIX + length);
    frames.put_u8(PLAIN);
    frames.put_u32(u32::try_from(length).expect("a profile is far smaller"));
    wire::put_delimited(CURSOR, &cursor, frames);
    wire::put_delimited_header(tag, value, frames);
    for part in parts {
        frames.extend_from_slice(part);
    }
}

/// The messages in a run of frames.
#[cfg(test)]
#[must_use]
pub fn messages(mut frames: &[u8]) -> Vec<crate::proto::v1::SubscribeResponse> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = frames.split_first_chunk::<PREFIX>() {
        let [PLAIN, length @ ..] = *prefix else { panic!("a frame is plain") };
        let (message, rest) = rest.split_at(u32::from_be_bytes(length) as usize);
        messages.push(crate::proto::v1::SubscribeResponse::decode(message).unwrap());
        frames = rest;
    }
    assert!(frames.is_empty());
    messages
}
