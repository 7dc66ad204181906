//! What an erasure leaves of an event.

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{EventRow, Kind};
use crate::command::Removal;
use crate::model::{EventKind, IdentityKey, Sequence};
use crate::proto::v1::{Event, Identity};

/// Removes values from the row of an event, and returns the new row.
pub(in crate::store) fn strip(
    workspace: WorkspaceId,
    sequence: Sequence,
    row: &EventRow<'_>,
    what: &Removal,
) -> Result<Vec<u8>, StoreError> {
    let mut event = Event::decode(row.event).map_err(|_| Kind::Event.corrupt())?;
    let mut kind = row.kind;
    match what {
        Removal::All => {
            // Of a merge, a reader still learns that the absorbed profile is gone.
            let is_merge = matches!(kind, EventKind::Merged | EventKind::Erased);
            let merged_mpid = if is_merge { event.merged_mpid } else { 0 };
            kind = EventKind::Erased;
            event = Event {
                id: event.id,
                sequence: event.sequence,
                r#type: kind.name().to_owned(),
                time: event.time,
                mpid: event.mpid,
                merged_mpid,
                silent: event.silent,
                ..Event::default()
            };
        }
        Removal::Profiles => {
            (event.profile, event.merged_profile) = (None, None);
            redact(&mut event);
        }
        Removal::Previous => redact(&mut event),
        Removal::Identities(keys) => {
            for profile in event.profile.iter_mut().chain(&mut event.previous).chain(&mut event.merged_profile) {
                let stays = |identity: &Identity| !keys.contains(&IdentityKey::of(identity));
                profile.device_identities.retain(stays);
                profile.user_identities.retain(stays);
            }
        }
    }
    let event = event.encode_to_vec();
    Ok(EventRow { kind, event: &event, ..*row }.encode(workspace, sequence))
}

fn redact(event: &mut Event) {
    event.previous = None;
    event.redacted = true;
    event.changed_user_attributes.clear();
    event.entered_audience_ids.clear();
    event.exited_audience_ids.clear();
}
