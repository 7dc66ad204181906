//! Which events a reader wants to see.

use super::limits::{FILTER_TYPES, READER_KEYS};
use super::{EventKind, Invalid, Mpid};
use crate::proto::v1::EventFilter;

/// A parsed filter. It tests only what the header of a row holds, so nothing is decoded.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Bit n stands for the kind with number n. `None` means all kinds.
    kinds: Option<u8>,
    /// Sorted. Empty means all profiles.
    mpids: Vec<Mpid>,
    omit_silent: bool,
}

impl Filter {
    /// Parses the filter of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it is malformed or too large, or uses a condition that this version does not support.
    pub fn parse(filter: Option<EventFilter>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        refuse_not_offered("filter.audience_ids", !filter.audience_ids.is_empty())?;
        refuse_not_offered("filter.changed_fields", filter.changed_fields.is_some())?;
        refuse_not_offered("filter.expression", !filter.expression.is_empty())?;
        Invalid::limit("filter.types", "types", FILTER_TYPES, filter.types.len())?;
        Invalid::limit("filter.mpids", "mpids", READER_KEYS, filter.mpids.len())?;

        let mut kinds = 0;
        for (index, name) in filter.types.iter().enumerate() {
            kinds |= 1 << EventKind::parse(format_args!("filter.types[{index}]"), name)? as u8;
        }
        let parse = |(index, mpid)| {
            Mpid::new(mpid).ok_or_else(|| Invalid::filter(format_args!("filter.mpids[{index}]"), "must not be 0"))
        };
        let mut mpids = filter.mpids.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        mpids.sort_unstable();
        mpids.dedup();
        Ok(Self { kinds: (kinds != 0).then_some(kinds), mpids, omit_silent: filter.omit_silent })
    }

    /// Whether to deliver an event.
    #[must_use]
    pub fn matches(&self, kind: EventKind, mpid: Mpid, silent: bool) -> bool {
        !(silent && self.omit_silent)
            && self.kinds.is_none_or(|kinds| kinds >> kind as u8 & 1 == 1)
            && (self.mpids.is_empty() || self.mpids.binary_search(&mpid).is_ok())
    }

    /// The profile that it selects, if it selects exactly one.
    #[must_use]
    pub fn single_mpid(&self) -> Option<Mpid> {
        match self.mpids[..] {
            [mpid] => Some(mpid),
            _ => None,
        }
    }
}

fn refuse_not_offered(field: &'static str, set: bool) -> Result<(), Invalid> {
    if set {
        return Err(Invalid::filter(field, "is not offered by this version"));
    }
    Ok(())
}
