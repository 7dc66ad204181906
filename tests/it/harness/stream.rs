//! What a subscriber reads.

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use tonic::{Status, Streaming};

use super::within;

/// A stream of events.
pub struct Stream(pub Streaming<SubscribeResponse>);

impl Stream {
    /// The next message; `None` when the stream ended with OK.
    pub async fn next(&mut self) -> Result<Option<SubscribeResponse>, Status> {
        within(self.0.message()).await
    }

    /// The next message, and its cursor.
    pub async fn message(&mut self) -> (String, Message) {
        let response = self.next().await.unwrap().expect("the stream goes on");
        (response.cursor, response.message.unwrap())
    }

    /// The first message, and its cursor.
    pub async fn opened(&mut self) -> (String, Opened) {
        match self.message().await {
            (cursor, Message::Opened(opened)) => (cursor, opened),
            (_, other) => panic!("the first message is {other:?}"),
        }
    }

    /// The next event, and its cursor. Skips all other messages.
    pub async fn event(&mut self) -> (String, Event) {
        within(async {
            loop {
                if let (cursor, Message::Event(event)) = self.message().await {
                    return (cursor, event);
                }
            }
        })
        .await
    }

    /// The sequences of the next `count` events.
    pub async fn sequences(&mut self, count: usize) -> Vec<u64> {
        let mut sequences = Vec::with_capacity(count);
        while sequences.len() < count {
            sequences.push(self.event().await.1.sequence);
        }
        sequences
    }

    /// The events before `caught_up`, and the cursor of that.
    pub async fn catch_up(&mut self) -> (String, Vec<Event>) {
        let mut events = Vec::new();
        within(async {
            loop {
                match self.message().await {
                    (_, Message::Event(event)) => events.push(event),
                    (cursor, Message::CaughtUp(_)) => return (cursor, events),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Reads until the stream fails.
    pub async fn failure(&mut self) -> Status {
        within(async {
            loop {
                match self.next().await {
                    Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
                    Err(status) => return status,
                }
            }
        })
        .await
    }
}
