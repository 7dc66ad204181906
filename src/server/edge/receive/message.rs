//! One message as it arrives, in chunks.
//!
//! A chunk costs more than its bytes: a place in a list, and the buffer that it was cut from. A client may send chunks
//! of one byte. So small chunks are copied into one buffer, and what a message takes is what counts for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::compression::Encoding;
use crate::grpc::large;
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold, Size};
use crate::server::edge::inflate::{HEADER, inflate, is_compressed};

/// Chunks that are smaller are merged.
const SMALL_CHUNK: usize = 4 << 10;

/// The size of a message of so many bytes.
pub(super) fn size_of_message(bytes: usize) -> Size {
    if bytes > large::SMALL { Size::Large } else { Size::Small }
}

/// Chunks in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    whole: VecDeque<Bytes>,
    /// The small ones that came after those, in one buffer.
    merged: BytesMut,
    len: usize,
}

impl Chunks {
    /// The bytes of all chunks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a chunk as it is.
    pub fn push(&mut self, chunk: Bytes) {
        self.seal();
        self.len += chunk.len();
        self.whole.push_back(chunk);
    }

    /// Adds a chunk. A small one is copied.
    pub fn merge(&mut self, chunk: Bytes) {
        if chunk.len() >= SMALL_CHUNK {
            return self.push(chunk);
        }
        self.len += chunk.len();
        self.merged.extend_from_slice(&chunk);
        if self.merged.len() >= SMALL_CHUNK {
            self.seal();
        }
    }

    /// What was merged becomes a chunk like the others.
    fn seal(&mut self) {
        if !self.merged.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.merged).freeze());
        }
    }

    /// The next chunk that no other is merged with.
    pub fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.whole.pop_front()?;
        self.len -= chunk.len();
        Some(chunk)
    }

    /// The next chunk, when no more will come.
    pub fn pop_last(&mut self) -> Option<Bytes> {
        self.seal();
        self.pop()
    }

    /// Takes the first `length` bytes, or all if there are fewer. They are copied only if they came in several chunks.
    fn take(&mut self, length: usize) -> Bytes {
        self.seal();
        let mut first = self.pop().unwrap_or_default();
        if first.len() >= length {
            self.put_back(first.split_off(length));
            return first;
        }
        let mut taken = Vec::with_capacity(length);
        taken.extend_from_slice(&first);
        while taken.len() < length
            && let Some(mut chunk) = self.pop()
        {
            let missing = chunk.len().min(length - taken.len());
            taken.extend_from_slice(&chunk.split_to(missing));
            self.put_back(chunk);
        }
        taken.into()
    }

    /// Copies what [`take`](Self::take) has left of a chunk, if it is small: it would keep the whole buffer.
    fn merge_rest(&mut self) {
        if self.whole.len() == 1
            && let Some(rest) = self.pop()
        {
            self.merge(rest);
        }
    }

    fn put_back(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.whole.push_front(chunk);
        }
    }

    /// The first bytes, if there are so many.
    fn first<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = self.whole.iter().flatten().chain(&self.merged).copied();
        let mut first = [0; N];
        for byte in &mut first {
            *byte = bytes.next()?;
        }
        Some(first)
    }
}

/// The chunks of one message as they arrive.
#[derive(Debug)]
pub(super) struct Message {
    chunks: Chunks,
    hold: Hold,
}

impl Message {
    pub fn new(account: &Arc<Account>) -> Self {
        Self { chunks: Chunks::default(), hold: account.take(0) }
    }

    /// The bytes that have arrived.
    pub fn arrived(&self) -> usize {
        self.chunks.len()
    }

    /// Adds a chunk. A message that comes in one chunk is not copied.
    pub fn push(&mut self, chunk: Bytes, account: &Account) -> Result<(), Refusal> {
        if chunk.is_empty() {
            return Ok(()); // It may be the end of the request, and needs no room.
        }
        let size = size_of_message(self.arrived() + chunk.len());
        if !account.may_receive(chunk.len(), size) {
            return Err(Refusal::too_much_received());
        }
        self.hold.grow(chunk.len());
        let is_whole =
            self.arrived() == 0 && frame_len(chunk.first_chunk()).is_some_and(|length| chunk.len() >= length);
        if is_whole {
            self.chunks.push(chunk);
        } else {
            self.chunks.merge(chunk);
        }
        Ok(())
    }

    /// The length of the frame, once its header has arrived.
    pub fn frame_len(&self) -> Option<usize> {
        frame_len(self.chunks.first().as_ref())
    }

    /// Takes the frame out, if it is complete. What is left begins the next message.
    pub fn take_frame(&mut self, account: &Arc<Account>) -> Option<Bytes> {
        let length = self.frame_len().filter(|length| self.arrived() >= *length)?;
        let frame = self.chunks.take(length);
        self.hold = account.take(self.arrived());
        if !self.is_complete() {
            self.chunks.merge_rest();
        }
        Some(frame)
    }

    fn is_complete(&self) -> bool {
        self.frame_len().is_some_and(|length| self.arrived() >= length)
    }

    /// Takes a chunk of a message that will not be complete.
    pub fn pop_last(&mut self) -> Option<Bytes> {
        self.chunks.pop_last()
    }

    /// The chunks, and the memory that they take.
    pub fn into_parts(mut self) -> (VecDeque<Bytes>, Hold) {
        self.chunks.seal();
        (self.chunks.whole, self.hold)
    }

    /// Decompresses a complete message, if it is compressed. It counts with what it comes to.
    pub fn inflate(&mut self, encoding: Encoding, account: &Account, limit: usize) -> Result<(), Refusal> {
        if !self.is_complete() || !self.chunks.first::<1>().is_some_and(|first| is_compressed(&first)) {
            return Ok(());
        }
        let frame = self.chunks.take(self.arrived());
        self.push(inflate(encoding, &frame, limit)?, account)
    }
}

/// The length of a frame with this header.
fn frame_len(header: Option<&[u8; HEADER]>) -> Option<usize> {
    let [_, length @ ..] = *header?;
    usize::try_from(u32::from_be_bytes(length)).ok().map(|length| HEADER + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::budget::Budget;
    use crate::server::edge::inflate::frames::plain;
    use crate::telemetry::metrics;

    const MIB: usize = 1 << 20;

    fn account() -> Arc<Account> {
        account_of(1024 * MIB)
    }

    /// An account with a budget of so many bytes.
    fn account_of(bytes: usize) -> Arc<Account> {
        Budget::new(bytes, metrics::Budget::default()).account()
    }

    fn frame(len: usize) -> Vec<u8> {
        plain(&vec![7; len])
    }

    /// The buffers that a message keeps.
    fn buffers(message: &Message) -> usize {
        message.chunks.whole.len() + usize::from(!message.chunks.merged.is_empty())
    }

    #[test]
    fn chunks_of_one_byte_take_what_they_hold() {
        const BYTES: usize = 200_000;
        let (account, source) = (account(), Bytes::from(frame(BYTES)));
        let mut message = Message::new(&account);
        for at in 0..BYTES {
            message.push(source.slice(at..=at), &account).unwrap();
        }
        assert_eq!((message.arrived(), account.held()), (BYTES, BYTES));
        assert!(buffers(&message) <= BYTES / SMALL_CHUNK + 1, "{}", buffers(&message));
    }

    /// Many clients end their request with one.
    #[test]
    fn empty_chunks_take_nothing_and_need_no_room() {
        const LEN: usize = HEADER + 9_000;
        let account = account_of(8 * LEN);
        for arrived in [3, LEN] {
            let mut message = Message::new(&account);
            message.push(Bytes::from(frame(9_000)).slice(..arrived), &account).unwrap();
            for _ in 0..1_000 {
                message.push(Bytes::new(), &account).unwrap();
            }
            assert_eq!((message.arrived(), buffers(&message)), (arrived, 1));
            assert_eq!(message.push(Bytes::from_static(&[0]), &account).is_err(), arrived == LEN, "it has its share");
        }
    }

    #[test]
    fn a_plain_message_stays_as_it_is_although_others_are_compressed() {
        let (account, source) = (account(), Bytes::from(frame(9)));
        let mut message = Message::new(&account);
        message.push(source.clone(), &account).unwrap();
        message.inflate(Encoding::Gzip, &account, MIB).unwrap();
        assert_eq!(account.held(), source.len());
        assert_eq!(message.take_frame(&account).unwrap().as_ptr(), source.as_ptr());
    }

    #[test]
    fn a_message_in_one_chunk_is_not_copied() {
        let (account, source) = (account(), Bytes::from(frame(9)));
        let mut message = Message::new(&account);
        message.push(source.clone(), &account).unwrap();
        assert_eq!(message.take_frame(&account).unwrap().as_ptr(), source.as_ptr());
    }

    /// A large chunk with the end of one message and the beginning of the next must not stay for the few bytes of that.
    #[test]
    fn the_beginning_of_a_message_does_not_keep_a_large_buffer() {
        let (account, first) = (account(), frame(16 << 10));
        let source = Bytes::from([&*first, &[0]].concat());
        let mut message = Message::new(&account);
        message.push(source.clone(), &account).unwrap();
        assert_eq!(message.take_frame(&account).unwrap(), first);
        assert_eq!((message.arrived(), account.held()), (1, 1));
        drop(source.try_into_mut().expect("nothing else holds it"));
    }

    proptest! {
        /// However a stream is cut, its messages are the same.
        #[test]
        fn frames_come_out_as_they_went_in(
            lengths in proptest::collection::vec(0_usize..20_000, 1..8),
            cuts in proptest::collection::vec(prop_oneof![0_usize..4, 0_usize..10_000], 1..40),
        ) {
            let account = account();
            let frames: Vec<_> = lengths.into_iter().map(frame).collect();
            let (mut source, mut cuts) = (Bytes::from(frames.concat()), cuts.into_iter());
            let (mut message, mut found) = (Message::new(&account), Vec::new());
            while !source.is_empty() {
                let cut = cuts.next().unwrap_or(usize::MAX).min(source.len());
                message.push(source.split_to(cut), &account).unwrap();
                while let Some(frame) = message.take_frame(&account) {
                    found.push(frame);
                }
                prop_assert_eq!(account.held(), message.arrived());
            }
            prop_assert_eq!(found, frames);
        }
    }
}
