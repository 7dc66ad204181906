//! What a storm had in it.

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;

use super::changes::has_ended;
use super::recording::Recording;

/// What the subscribers of a storm read, so that a storm without wind is noticed.
#[derive(Debug, Default)]
pub struct Seen {
    pub streams: usize,
    pub durable_streams: usize,
    pub acknowledgements: usize,
    pub events: usize,
    pub left: usize,
    pub deleted: usize,
    pub merged: usize,
    /// Merges that were told of only because the absorbed profile was one that the subscriber had asked for.
    pub merged_away: usize,
    pub unmerged: usize,
    pub erased: usize,
    pub redacted: usize,
    /// Events and profiles of snapshots that a CEL expression selected.
    pub by_expression: usize,
    /// Events that end a membership that had expired, of streams with a filter by audience.
    pub ended: usize,
    /// Audiences that were deleted, or registered, while they had members.
    pub deleted_audiences: usize,
    pub named_audiences: usize,
    pub snapshots: usize,
    /// Streams that began in the middle of a snapshot.
    pub resumed_snapshots: usize,
    /// Streams that were refused, or ended, because retention had removed what they were to deliver.
    pub expired: usize,
    /// Those of them that were streams of durable subscriptions.
    pub lost: usize,
    /// Streams of durable subscriptions that were lost and began elsewhere, as their settings say.
    pub begun_again: usize,
    pub heartbeats: usize,
}

/// How many kinds of wind a storm must have.
pub const WINDS: usize = 19;

impl Seen {
    /// How much of each there was.
    pub fn winds(&self) -> [usize; WINDS] {
        [
            self.durable_streams,
            self.acknowledgements,
            self.events,
            self.left,
            self.deleted,
            self.merged,
            self.merged_away,
            self.unmerged,
            self.erased,
            self.redacted,
            self.by_expression,
            self.ended,
            self.deleted_audiences,
            self.named_audiences,
            self.snapshots,
            self.resumed_snapshots,
            self.expired,
            self.lost,
            self.begun_again,
        ]
    }

    pub fn count(&mut self, recording: &Recording) {
        self.acknowledgements += recording.confirmed.len();
        for connection in &recording.connections {
            self.streams += 1;
            let is_expired = connection.expired.is_some();
            self.expired += usize::from(is_expired);
            if let Some(acknowledged) = &connection.acknowledged {
                self.durable_streams += 1;
                self.lost += usize::from(is_expired);
                let first = connection.messages.first();
                self.begun_again +=
                    usize::from(first.is_some_and(|opened| !acknowledged.places.contains(&opened.response.cursor)));
            }
            let is_resumed = matches!(connection.start, Some(Start::Cursor(_)));
            for message in connection.messages.iter().filter_map(|received| received.response.message.as_ref()) {
                let is_selected = matches!(message, Message::Event(_) | Message::SnapshotProfile(_));
                self.by_expression += usize::from(is_selected && !connection.view.filter.expression.is_empty());
                match message {
                    Message::Opened(opened) => self.resumed_snapshots += usize::from(opened.snapshot && is_resumed),
                    Message::Event(event) => {
                        self.events += 1;
                        self.left += usize::from(event.r#match() == FilterMatch::Left);
                        let has_audiences = !connection.view.filter.audience_ids.is_empty();
                        self.ended += usize::from(has_audiences && ends_a_membership(event));
                        let is = |kind| usize::from(event.r#type == kind);
                        self.deleted += is("profile.deleted");
                        self.merged += is("profile.merged");
                        let is_left = event.r#match() == FilterMatch::Left;
                        self.merged_away += is("profile.merged") & usize::from(is_left);
                        self.unmerged += is("profile.unmerged");
                        self.erased += is("profile.erased");
                        self.redacted += usize::from(event.redacted);
                    }
                    Message::SnapshotComplete(_) => self.snapshots += 1,
                    Message::Heartbeat(_) => self.heartbeats += 1,
                    Message::SnapshotProfile(_) | Message::CaughtUp(_) => {}
                }
            }
        }
    }
}

fn ends_a_membership(event: &Event) -> bool {
    let mut changed = event.previous.iter().flat_map(|previous| &previous.audience_memberships);
    changed.any(|membership| has_ended(membership, event.time))
}
