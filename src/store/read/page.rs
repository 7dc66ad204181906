//! What bounds a list: the rows that it reads, matching or not, the bytes that it delivers, and its time.

use std::time::{Duration, Instant};

/// Rows read for one page, matching or not: what bounds a call whose filter matches little.
pub(super) const ROWS: usize = 10_000;
/// After so long a page ends where it is: rows that the disk gives slowly. Also how long a snapshot is kept.
const TIME: Duration = Duration::from_millis(500);
/// Rows between two looks at the clock.
const ROWS_PER_LOOK: usize = 64;

/// How much a caller wants of a page.
#[derive(Debug, Clone, Copy)]
pub struct PageSize {
    /// Profiles or events.
    pub items: usize,
    /// Their bytes; the last item may pass it.
    pub bytes: usize,
}

/// What is left of a page.
#[derive(Debug)]
pub(super) struct Budget {
    items: usize,
    bytes: usize,
    rows: usize,
    end: Instant,
}

impl Budget {
    pub fn new(size: PageSize) -> Self {
        Self { items: size.items, bytes: size.bytes, rows: ROWS, end: Instant::now() + TIME }
    }

    /// Whether another row may be read.
    pub fn take_row(&mut self) -> bool {
        let late = self.rows.is_multiple_of(ROWS_PER_LOOK) && self.rows < ROWS && Instant::now() >= self.end;
        if self.items == 0 || self.bytes == 0 || self.rows == 0 || late {
            return false;
        }
        self.rows -= 1;
        true
    }

    /// An item of so many bytes was delivered; `None` if the row was passed over.
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
        assert_eq!(rows(&mut Budget::new(PageSize { bytes: 10, ..all }), Some(4)), 3, "the last may pass the bytes");
        assert_eq!(rows(&mut Budget::new(PageSize { items: 1, ..all }), None), ROWS);
        let late = rows(&mut Budget { end: Instant::now(), ..Budget::new(all) }, None);
        assert!(late > 0, "it makes some way");
        assert!(late <= ROWS_PER_LOOK);
    }
}
