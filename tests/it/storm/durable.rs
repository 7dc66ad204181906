//! What the subscriber of a durable subscription does besides.

use cameo::proto::v1::seek_subscription_request::To;
use cameo::proto::v1::*;
use prost_types::FieldMask;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tonic::Code;

use super::clients::Subscriber;
use super::draw::one_in;
use super::gone::is_gone;
use super::recording::Acknowledged;
use super::view::View;
use crate::harness::*;

/// Most say nothing, and are then refused.
const ON_EXPIRED: [OnExpired; 4] =
    [OnExpired::Unspecified, OnExpired::Unspecified, OnExpired::Snapshot, OnExpired::Earliest];

/// A durable subscription, as its subscriber knows it.
pub struct Durable {
    pub stream: u64,
    pub acknowledged: Acknowledged,
    /// What the stream has sent.
    sent: Vec<String>,
}

impl Durable {
    fn at(place: String, floor: u64, on_expired: OnExpired) -> Self {
        Self { stream: 0, acknowledged: Acknowledged { places: vec![place], floor, on_expired }, sent: Vec::new() }
    }

    /// Its stream has begun. `floor` is from before that.
    pub fn opened(&mut self, opened: &Opened, cursor: &str, floor: u64) {
        let on_expired = self.acknowledged.on_expired;
        *self = Self { stream: opened.stream, ..Self::at(cursor.into(), floor, on_expired) };
    }

    pub fn was_sent(&mut self, cursor: &str) {
        self.sent.push(cursor.into());
    }
}

impl Subscriber {
    pub async fn create_subscription(&mut self) {
        let start = match self.rng.random_range(0..3) {
            0 => None,
            1 => Some(create_subscription_request::Start::Earliest(true)),
            _ => Some(create_subscription_request::Start::Snapshot(true)),
        };
        let is_snapshot = matches!(start, Some(create_subscription_request::Start::Snapshot(_)));
        let request = CreateSubscriptionRequest {
            workspace: WORKSPACE.into(),
            subscription: Some(self.drawn_subscription()),
            start,
            request_id: self.name.clone(),
            ..CreateSubscriptionRequest::default()
        };
        let floor = self.shared.floor();
        loop {
            match within(self.client.events.clone().create_subscription(request.clone())).await {
                Ok(created) => return self.is_set_to(&created.into_inner().subscription.unwrap(), is_snapshot, floor),
                Err(status) => self.gone(&status).await,
            }
        }
    }

    fn drawn_subscription(&mut self) -> Subscription {
        let View { filter, mask, keys, shard } = self.view.clone();
        Subscription {
            name: self.name.clone(),
            filter: Some(filter),
            read_mask: Some(FieldMask { paths: mask }),
            user_attribute_keys: keys,
            shard,
            on_expired: (*ON_EXPIRED.choose(&mut self.rng).expect("there are some")).into(),
            ..Subscription::default()
        }
    }

    /// Moves a subscription that is lost to where it can continue.
    pub async fn seek(&mut self) {
        let is_snapshot = one_in(&mut self.rng, 2);
        let request = SeekSubscriptionRequest {
            workspace: WORKSPACE.into(),
            name: self.name.clone(),
            to: Some(if is_snapshot { To::Snapshot(true) } else { To::Earliest(true) }),
            ..SeekSubscriptionRequest::default()
        };
        let floor = self.shared.floor();
        loop {
            match within(self.client.events.clone().seek_subscription(request.clone())).await {
                Ok(sought) => return self.is_set_to(&sought.into_inner().subscription.unwrap(), is_snapshot, floor),
                Err(status) => self.gone(&status).await,
            }
        }
    }

    /// Notes where the next stream starts. `floor` is from before that was decided.
    fn is_set_to(&mut self, subscription: &Subscription, is_snapshot: bool, floor: u64) {
        let (cursor, sequence) = (subscription.acknowledged_cursor.clone(), subscription.acknowledged_sequence);
        if is_snapshot {
            self.recording.snapshots.push((cursor.clone(), sequence));
        }
        self.durable = Some(Durable::at(cursor, floor, subscription.on_expired()));
    }

    /// Acknowledges what it has read, or a part of that, even if it acknowledged more before.
    pub async fn acknowledge(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let back = if one_in(&mut self.rng, 3) { self.rng.random_range(0..durable.sent.len()) } else { 0 };
        let cursor = durable.sent[durable.sent.len() - 1 - back].clone();
        let request = AcknowledgeRequest {
            workspace: WORKSPACE.into(),
            subscription: self.name.clone(),
            stream: durable.stream,
            cursor: cursor.clone(),
            ..AcknowledgeRequest::default()
        };
        match within(self.client.events.clone().acknowledge(request)).await {
            Ok(response) => {
                let place = response.into_inner().acknowledged_cursor;
                durable.acknowledged.places = vec![place.clone()];
                self.recording.confirmed.push(place);
            }
            Err(status) if status.code() == Code::InvalidArgument => self.recording.refused.push(cursor),
            // It may have been committed. The stream ends too, and then the next server is waited for.
            Err(status) => {
                assert!(is_gone(&status), "{}: {status:?}", self.name);
                durable.acknowledged.places.push(cursor);
            }
        }
    }
}
