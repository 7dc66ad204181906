//! Encoded `SubscribeResponse`s. The frame of an event is built from the stored bytes, without decoding them.

use bytes::Bytes;
use prost::Message;

use crate::model::cursor::CursorSpace;
use crate::model::{Place, Sequence, wire};
use crate::proto::field::subscribe_response::{CAUGHT_UP, CURSOR, EVENT, HEARTBEAT, OPENED};

/// A message of the stream other than an event.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The first message.
    Opened(crate::proto::v1::Opened),
    /// Everything up to the head has been delivered.
    CaughtUp(crate::proto::v1::CaughtUp),
    /// Nothing was sent for the heartbeat interval.
    Heartbeat(crate::proto::v1::Heartbeat),
}

/// The frame of an event.
#[must_use]
pub fn event(cursors: CursorSpace, sequence: Sequence, event: &[u8]) -> Bytes {
    encode(cursors, sequence.into(), EVENT, event)
}

/// The frame of a notice, with the cursor of a place.
#[must_use]
pub fn notice(cursors: CursorSpace, place: Place, notice: &Notice) -> Bytes {
    let (tag, message) = match notice {
        Notice::Opened(opened) => (OPENED, opened.encode_to_vec()),
        Notice::CaughtUp(caught_up) => (CAUGHT_UP, caught_up.encode_to_vec()),
        Notice::Heartbeat(heartbeat) => (HEARTBEAT, heartbeat.encode_to_vec()),
    };
    encode(cursors, place, tag, &message)
}

fn encode(cursors: CursorSpace, place: Place, tag: u32, message: &[u8]) -> Bytes {
    let cursor = cursors.at(place).encode();
    let length = wire::delimited_len(CURSOR, cursor.len()) + wire::delimited_len(tag, message.len());
    let mut frame = Vec::with_capacity(length);
    wire::put_delimited(CURSOR, &cursor, &mut frame);
    wire::put_delimited(tag, message, &mut frame);
    frame.into()
}
