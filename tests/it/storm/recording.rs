//! What one subscriber asked for and read, over all its streams.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;

use super::log::Window;
use super::retention::Expired;
use super::view::View;

/// One stream.
#[derive(Debug, Clone)]
pub struct Connection {
    pub start: Option<Start>,
    pub view: View,
    /// The cursor of a write whose response had come before the stream was asked for. Empty if there was none.
    pub written: String,
    /// For a durable stream.
    pub acknowledged: Option<Acknowledged>,
    /// The sequence of the last event that was gone: from before the stream was asked for, to after it was opened.
    pub floors: RangeInclusive<u64>,
    /// When it was asked for, and when the last message of its snapshot had come. The snapshot was read in between.
    pub snapshot_read: Window,
    pub messages: Vec<Received>,
    /// If it was refused, or ended, because retention had removed what comes next.
    pub expired: Option<Expired>,
}

/// A message, and when it had come.
#[derive(Debug, Clone)]
pub struct Received {
    pub response: SubscribeResponse,
    pub at: SystemTime,
}

/// Where a durable subscription is, as its subscriber knows it.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// The last place that was confirmed, and those that were asked for since.
    pub places: Vec<String>,
    /// The last event that was gone before the place was confirmed. A stream that was opened since, and whose response
    /// was lost, may have begun anywhere after it.
    pub floor: u64,
    pub on_expired: OnExpired,
}

/// All streams of one subscriber, in order.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub connections: Vec<Connection>,
    /// The places that acknowledgements returned, in order.
    pub confirmed: Vec<String>,
    /// The cursors from the stream whose acknowledgement the server called a mistake of the client.
    pub refused: Vec<String>,
    /// The places before a snapshot that its subscription was set to without a stream, and their sequences.
    pub snapshots: Vec<(String, u64)>,
}
