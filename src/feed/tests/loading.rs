//! Streams that wait until the log is read for them, because it is being read for others.

use std::time::Duration;

use futures_util::StreamExt;

use super::super::frame::messages;
use super::idle::{Service, event};
use crate::model::cursor::Start;
use crate::proto::v1::subscribe_response::Message;

/// A client that hears nothing for long takes its stream for dead.
#[tokio::test]
async fn a_stream_sends_heartbeats_while_it_waits_for_the_log() {
    let service = Service::start().await;
    let held = service.hold_loads();
    let mut frames = service.subscribe_beating(Start::Earliest, Duration::from_millis(5));
    let mut cursors = Vec::new();
    for _ in 0..3 {
        let run = frames.next().await.unwrap().unwrap();
        let [response] = &messages(&run)[..] else { panic!("a notice is a run of its own") };
        let is_expected = matches!(response.message, Some(Message::Opened(_) | Message::Heartbeat(_)));
        assert!(is_expected, "{:?}", response.message);
        cursors.push(response.cursor.clone());
    }
    cursors.dedup();
    assert_eq!(cursors.len(), 1, "nothing has been delivered yet");
    drop(held);
    assert_eq!(event(&mut frames).await.0, 1);
}
