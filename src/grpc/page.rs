//! A page of stored messages, encoded as it is read.

use std::borrow::Cow;

use prost::DecodeError;

use crate::model::{Limits, wire};

/// The field of the items in all of our pages.
const ITEMS: u32 = 1;

/// A page that is being filled.
pub(super) struct Page {
    size: usize,
    bytes: usize,
    items: usize,
    message: Vec<u8>,
    corrupt: bool,
}

/// An item does not decode.
pub(super) struct Corrupt;

impl Page {
    pub fn new(size: usize, limits: &Limits) -> Self {
        Self { size, bytes: limits.answer_bytes, items: 0, message: Vec::new(), corrupt: false }
    }

    /// Adds an item, as a mask has cut it. Whether there is room for another.
    pub fn push(&mut self, item: Result<Cow<'_, [u8]>, DecodeError>) -> bool {
        match item {
            Ok(item) => wire::put_delimited(ITEMS, &item, &mut self.message),
            Err(_) => self.corrupt = true,
        }
        self.items += 1;
        self.items < self.size && self.message.len() < self.bytes
    }

    /// The response so far; its other fields are for the caller to append.
    pub fn finish(self) -> Result<Vec<u8>, Corrupt> {
        if self.corrupt { Err(Corrupt) } else { Ok(self.message) }
    }
}
