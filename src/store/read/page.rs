//! The bounds of one page of a list: its items and their bytes, the rows that it reads, matching or not, and its time.

use std::time::{Duration, Instant};

/// The most rows read for one page, matching or not. It bounds a call whose filter matches little.
pub(in crate::store) const ROWS: usize = 10_000;
/// The most time that one page takes, if the disk is slow. It also bounds how long a snapshot is kept.
const TIME: Duration = Duration::from_millis(500);
/// Rows between two looks at the clock.
const ROWS_PER_LOOK: usize = 64;

/// The size of page that a caller asks for.
#[derive(Debug, Clone, Copy)]
pub struct PageSize {
    /// The most profiles or events.
    pub items: usize,
    /// The most bytes of these. The last item may exceed it.
    pub bytes: usize,
}

/// What is left of a page's bounds.
#[derive(Debug)]
pub(super) struct Budget {
    items: usize,
    bytes: usize,
    rows: usize,
    /// The clock is looked at when no more rows than these are left.
    next_look: usize,
    end: Instant,
}

impl Budget {
    pub fn new(size: PageSize) -> Self {
        let next_look = ROWS - ROWS_PER_LOOK;
        Self { items: size.items, bytes: size.bytes, rows: ROWS, next_look, end: Instant::now() + TIME }
    }

    /// Returns whether another row may be read, and counts it.
    pub fn take_row(&mut self) -> bool {
        if self.items == 0 || self.bytes == 0 || self.rows == 0 || self.is_late() {
            return false;
        }
        self.rows -= 1;
        true
    }

    fn is_late(&mut self) -> bool {
        if self.rows > self.next_look {
            return false;
        }
        self.next_look = self.rows.saturating_sub(ROWS_PER_LOOK);
        Instant::now() >= self.end
    }

    /// Counts an item of `bytes` bytes that was delivered. `None` means that the row was skipped.
    pub fn deliver(&mut self, bytes: Option<usize>) {
        if let Some(bytes) = bytes {
            self.items = self.items.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(budget: &mut Budget, bytes: Option<usize>) -> usize {
        let mut rows = 0;
        while budget.take_row() {
            budget.deliver(bytes);
            rows += 1;
        }
        rows
    }

    #[test]
    fn a_page_ends_at_its_items_its_bytes_its_rows_and_its_time() {
        let all = PageSize { items: usize::MAX, bytes: usize::MAX };
        assert_eq!(rows(&mut Budget::new(PageSize { items: 3, ..all }), Some(1)), 3);
        assert_eq!(rows(&mut Budget::new(PageSize { bytes: 10, ..all }), Some(4)), 3, "the last may exceed the bytes");
        assert_eq!(rows(&mut Budget::new(PageSize { items: 1, ..all }), None), ROWS);
        let late = rows(&mut Budget { end: Instant::now(), ..Budget::new(all) }, None);
        assert!(late > 0, "a late page still makes progress");
        assert!(late <= ROWS_PER_LOOK);
    }
}
