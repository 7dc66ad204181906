//! A page of stored messages, encoded as it is read.

use std::borrow::Cow;

use prost::DecodeError;

use crate::model::{Limits, wire};

/// A page that is being filled.
pub(super) struct Page {
    /// The number of the field that holds the items.
    field: u32,
    size: usize,
    bytes: usize,
    items: usize,
    message: Vec<u8>,
    corrupt: bool,
}

/// An item does not decode.
pub(super) struct Corrupt;

impl Page {
    pub fn new(field: u32, size: usize, limits: &Limits) -> Self {
        Self { field, size, bytes: limits.answer_bytes, items: 0, message: Vec::new(), corrupt: false }
    }

    /// Adds an item, as a mask has cut it. Whether there is room for another.
    pub fn push(&mut self, item: Result<Cow<'_, [u8]>, DecodeError>) -> bool {
        match item {
            Ok(item) => wire::put_delimited(self.field, &item, &mut self.message),
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
