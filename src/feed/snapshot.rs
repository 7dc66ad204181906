//! The snapshot that a stream may begin with: one page of it.

use bytes::Bytes;

use super::frame;
use super::view::View;
use crate::model::cursor::CursorSpace;
use crate::model::{Mpid, Place, Position, Workspace};
use crate::store::{AsOf, PageSize, Store, StoreError};

/// Profiles, as encoded frames in one buffer.
#[derive(Debug)]
pub(super) struct Page {
    frames: Bytes,
    /// The position after each profile, and where its frame ends in the buffer.
    ends: Vec<(Position, usize)>,
    /// Every matching profile up to this position is in the page, or before it.
    through: Position,
}

/// Reads the page after a profile, as of a place in the log.
pub(super) fn read(
    store: &Store,
    workspace: &Workspace,
    cursors: CursorSpace,
    of: Place,
    after: Option<Mpid>,
    view: &View,
    size: PageSize,
) -> Result<Page, StoreError> {
    let (mut frames, mut ends) = (Vec::new(), Vec::new());
    let now = store.now();
    #[cfg(feature = "planted")]
    let of = super::planted::as_of(of);
    let as_of = AsOf { of, after, filter: &view.filter, now };
    let corrupt = || StoreError::corrupt("profile");
    let through = store.profiles_as_of(workspace, as_of, size, |mpid, profile| {
        if !view.filter.selects(profile, now).map_err(|_| corrupt())? {
            return Ok(None);
        }
        #[cfg(feature = "planted")]
        if super::planted::hides(mpid) {
            return Ok(None);
        }
        let (position, before) = (Position::Snapshot { of, after: Some(mpid) }, frames.len());
        let cut = view.mask().snapshot_profile(profile).map_err(|_| corrupt())?;
        frame::put_profile(cursors, position, &cut, &mut frames);
        ends.push((position, frames.len()));
        Ok(Some(frames.len() - before))
    })?;
    Ok(Page { frames: frames.into(), ends, through })
}

impl Page {
    /// The next frames of at most about so many bytes, and the position after them. `from` is how many profiles have
    /// been taken, and is moved. No frames remain at the end of the page.
    pub fn take(&self, from: &mut usize, bytes: usize) -> (Option<Bytes>, Position) {
        let begin = from.checked_sub(1).map_or(0, |last| self.ends[last].1);
        let fitting = self.ends[*from..].iter().take_while(|(_, end)| end - begin <= bytes).count();
        let to = (*from + fitting.max(1)).min(self.ends.len());
        if to == *from {
            return (None, self.through);
        }
        *from = to;
        let (position, end) = self.ends[to - 1];
        (Some(self.frames.slice(begin..end)), position)
    }

    /// The position before the profile that would be taken next.
    pub fn passed(&self, from: usize) -> Position {
        match self.ends.get(from) {
            Some((Position::Snapshot { of, after: Some(next) }, _)) => {
                Position::Snapshot { of: *of, after: next.previous() }
            }
            Some((other, _)) => *other,
            None => self.through,
        }
    }
}
