//! Pages of rows whose keys are a prefix and a number: the audiences of a workspace, the members of an audience.
//!
//! What holds for a list of profiles holds here too: nothing is left out silently. See `profiles`.

use std::ops::Bound;

use redb::ReadOnlyTable;

use super::super::error::{Past, StoreError};
use super::super::rows::{Kind, sorted};
use super::super::tables::{KeyRange, borrowed, guarded, with_prefix};
use super::page::{Budget, PageSize, ROWS};

/// Where a page starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// After this number. `None` means with the first.
    pub after: Option<i64>,
    /// Whether to skip damaged rows at the start. The caller was already told about them.
    pub over_damage: bool,
}

/// The rows. `read` verifies one, and returns its number and its content.
pub(super) struct Numbered<'t, R> {
    pub table: &'t ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub kind: Kind,
    pub prefix: Vec<u8>,
    pub read: R,
}

impl<R, T> Numbered<'_, R>
where
    R: Fn(&[u8], &[u8]) -> Result<(i64, T), StoreError>,
{
    /// Calls `take` with rows in the order of their numbers until the page is full. `take` returns how many bytes it
    /// delivers of a row; `None` means that it skips the row. Returns the number after which the next page begins, or
    /// `None` after the last page. `is_sound` says of a sound row whether what it leads to is sound too.
    pub fn page(
        &self,
        start: Start,
        size: PageSize,
        is_sound: impl Fn(i64) -> bool,
        take: impl FnMut(i64, T) -> Result<Option<usize>, StoreError>,
    ) -> Result<Option<i64>, StoreError> {
        let Start { after, over_damage } = start;
        let first = if over_damage { self.next_sound(after, &is_sound)? } else { None };
        if over_damage && first.is_none() {
            return Ok(None);
        }
        let from = match (first, after) {
            (Some(first), _) => Bound::Included(self.key(first)),
            (None, Some(after)) => Bound::Excluded(self.key(after)),
            (None, None) => Bound::Included(self.prefix.clone()),
        };
        let mut last = after;
        match guarded(self.kind, || self.read_page(start, size, from, &mut last, take)) {
            Ok(more) => Ok(last.filter(|_| more)),
            Err(StoreError::Corrupt { .. }) if last > after => Ok(last), // The next page begins at the damage.
            Err(StoreError::Corrupt { table, .. }) => Err(StoreError::Corrupt { table, past: Some(Past::Profile) }),
            Err(other) => Err(other),
        }
    }

    /// Moves `last` to each row that was read. Returns whether there are more.
    fn read_page(
        &self,
        Start { after, over_damage }: Start,
        size: PageSize,
        from: Bound<Vec<u8>>,
        last: &mut Option<i64>,
        mut take: impl FnMut(i64, T) -> Result<Option<usize>, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut budget = Budget::new(size);
        if !over_damage {
            self.check_before(&from)?;
        }
        // The row behind the last is verified too, because a damaged key could look like the end.
        for row in self.table.range::<&[u8]>(borrowed(&(from, Bound::Unbounded)))? {
            let (key, row) = row?;
            let key = key.value();
            let (number, content) = (self.read)(key, row.value())?;
            let is_within = key.starts_with(&self.prefix);
            if !is_within && *key > *self.prefix {
                return Ok(false);
            }
            if !budget.take_row() {
                return Ok(true);
            }
            if *last == after && is_within && Some(number) <= after {
                continue; // A damaged page above led to rows before the first.
            }
            if !is_within || last.is_some_and(|last| last >= number) {
                return Err(self.kind.corrupt());
            }
            budget.deliver(take(number, content)?);
            *last = Some(number);
        }
        Ok(false)
    }

    /// Checks that the pages above the first row are sound: see `profiles`.
    fn check_before(&self, from: &Bound<Vec<u8>>) -> Result<(), StoreError> {
        let (Bound::Included(from) | Bound::Excluded(from)) = from else { return Ok(()) };
        let before = self.table.range::<&[u8]>(..=&**from)?.next_back().transpose()?;
        let Some((key, row)) = before else { return Ok(()) };
        (self.read)(key.value(), row.value())?;
        if *key.value() <= **from { Ok(()) } else { Err(self.kind.corrupt()) }
    }

    /// Returns the next number whose row is sound.
    fn next_sound(&self, after: Option<i64>, is_sound: &impl Fn(i64) -> bool) -> Result<Option<i64>, StoreError> {
        match guarded(self.kind, || self.walk_to_sound(after, is_sound)) {
            Err(StoreError::Corrupt { .. }) => Ok(self.leap_to_sound(after)),
            walked => walked,
        }
    }

    /// Tries row by row, as far as the pages can be read.
    fn walk_to_sound(&self, after: Option<i64>, is_sound: &impl Fn(i64) -> bool) -> Result<Option<i64>, StoreError> {
        let from = after.map_or_else(|| self.prefix.clone(), |after| self.key(after));
        for row in self.table.range::<&[u8]>(&*from..)?.take(ROWS) {
            let (key, row) = row?;
            let Ok((number, _)) = (self.read)(key.value(), row.value()) else { continue };
            if !key.value().starts_with(&self.prefix) {
                return Ok(None);
            }
            if Some(number) > after && is_sound(number) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Finds the end of an unreadable page by bisection between it and the last row.
    fn leap_to_sound(&self, after: Option<i64>) -> Option<i64> {
        let from = after.unwrap_or(i64::MIN);
        let range = with_prefix(&self.prefix, None);
        let probe = |distance: u64| {
            let at = from.checked_add_unsigned(distance)?;
            let range = (Bound::Included(self.key(at)), range.1.clone());
            self.sound_end(&range, false).filter(|number| *number >= at)
        };
        let last = self.sound_end(&range, true)?;
        let (mut too_near, mut far_enough) = (0, last.abs_diff(from));
        while far_enough.saturating_sub(too_near) > 1 {
            let middle = too_near + (far_enough - too_near) / 2;
            if probe(middle).is_some() { far_enough = middle } else { too_near = middle }
        }
        probe(far_enough).filter(|number| Some(*number) > after)
    }

    /// Returns the number of the first or the last row of a range, if it is sound.
    fn sound_end(&self, range: &KeyRange, last: bool) -> Option<i64> {
        let found = guarded(self.kind, || {
            let mut rows = self.table.range::<&[u8]>(borrowed(range))?;
            let row = if last { rows.next_back() } else { rows.next() }.transpose()?;
            Ok(row.and_then(|(key, row)| (self.read)(key.value(), row.value()).ok()))
        });
        found.ok().flatten().map(|(number, _)| number)
    }

    fn key(&self, number: i64) -> Vec<u8> {
        [&*self.prefix, &sorted(number)].concat()
    }
}
