//! The open streams of durable subscriptions: each has at most one, and the newest wins.
//!
//! A stream ends when a newer one is attached, or when the writer publishes a commit that makes it useless. So it ends
//! even if the caller that caused this has gone away.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Feed;
use crate::model::{Micros, Position, SubscriptionName, Workspace};

/// Every open stream of a subscription.
#[derive(Debug, Default)]
pub(super) struct Attachments(Mutex<HashMap<Key, Arc<Attached>>>);

type Key = (Workspace, SubscriptionName);

/// The stream of a subscription, as its subscriber holds it.
pub struct Attachment {
    attachments: Arc<Attachments>,
    attached: Arc<Attached>,
}

#[derive(Debug)]
struct Attached {
    key: Key,
    stream: u64,
    peer: SocketAddr,
    open_time: Micros,
    /// Why it ended, as a number: see [`Detached`]. 0 while it is open.
    ended: AtomicU8,
    sent: Mutex<Position>,
}

/// Why the stream of a subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Detached {
    /// A newer stream took over, or the place or the settings of the subscription have changed.
    TakenOver = 1,
    /// The subscription was deleted.
    Deleted = 2,
}

/// What operators see of the open stream of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedStream {
    /// Its number among those of the subscription.
    pub stream: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was opened.
    pub open_time: Micros,
    /// How far it has been sent.
    pub sent: Position,
}

impl Feed {
    /// Attaches a stream to its subscription. An older stream ends. If a newer one is attached already, this one ends.
    #[must_use]
    pub fn attach(
        &self,
        workspace: &Workspace,
        name: &SubscriptionName,
        stream: u64,
        peer: SocketAddr,
        open_time: Micros,
        from: Position,
    ) -> Attachment {
        let (ended, sent) = (AtomicU8::new(0), Mutex::new(from));
        let key = (workspace.clone(), name.clone());
        let attached = Arc::new(Attached { key, stream, peer, open_time, ended, sent });
        let mut open = self.attachments.open();
        let loser = match open.get(&attached.key) {
            Some(newer) if newer.stream > stream => Some(Arc::clone(&attached)),
            _ => open.insert(attached.key.clone(), Arc::clone(&attached)),
        };
        drop(open);
        if let Some(loser) = loser {
            self.end(workspace, &loser, Detached::TakenOver);
        }
        Attachment { attachments: Arc::clone(&self.attachments), attached }
    }

    /// Ends the open stream of a subscription if its number is below this one.
    pub(super) fn detach(&self, workspace: &Workspace, name: &SubscriptionName, below: u64, why: Detached) {
        let key = (workspace.clone(), name.clone());
        let open = self.attachments.open().get(&key).filter(|open| open.stream < below).cloned();
        if let Some(open) = open {
            self.end(workspace, &open, why);
        }
    }

    /// The open stream of a subscription.
    #[must_use]
    pub fn attached(&self, workspace: &Workspace, name: &SubscriptionName) -> Option<AttachedStream> {
        let key = (workspace.clone(), name.clone());
        let open = self.attachments.open().get(&key).filter(|open| open.ended().is_none()).cloned()?;
        let sent = *open.sent.lock().unwrap_or_else(PoisonError::into_inner);
        Some(AttachedStream { stream: open.stream, peer: open.peer, open_time: open.open_time, sent })
    }

    fn end(&self, workspace: &Workspace, attached: &Attached, why: Detached) {
        // The first reason stays.
        let _ = attached.ended.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
        let channel = self.channels().get(workspace); // The map's lock ends here.
        if let Some(channel) = channel {
            channel.head.send_modify(|_| {}); // Wakes waiting subscribers, which then look at the reason.
        }
    }
}

impl Attachments {
    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<Attached>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attachment {
    /// The number of the stream.
    pub(super) fn stream(&self) -> u64 {
        self.attached.stream
    }

    pub(super) fn name(&self) -> &SubscriptionName {
        &self.attached.key.1
    }

    /// Why the stream must end, if it must.
    pub(super) fn ended(&self) -> Option<Detached> {
        self.attached.ended()
    }

    /// Notes how far the stream is about to be sent. An acknowledgement may go as far.
    pub(super) fn sent(&self, position: Position) {
        *self.attached.sent.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }
}

impl Attached {
    fn ended(&self) -> Option<Detached> {
        match self.ended.load(Ordering::Acquire) {
            0 => None,
            ended if ended == Detached::Deleted as u8 => Some(Detached::Deleted),
            _ => Some(Detached::TakenOver),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut open = self.attachments.open();
        if open.get(&self.attached.key).is_some_and(|open| Arc::ptr_eq(open, &self.attached)) {
            open.remove(&self.attached.key);
        }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attachment").field(&self.attached.key.1).field(&self.attached.stream).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::FeedConfig;
    use crate::model::Place;

    fn attach(feed: &Feed, stream: u64) -> Attachment {
        let (workspace, name) = named();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        feed.attach(&workspace, &name, stream, peer, Micros::new(7), Place::after(3).into())
    }

    fn named() -> (Workspace, SubscriptionName) {
        (Workspace::parse("a/b/c").unwrap(), SubscriptionName::parse("name", "crm").unwrap())
    }

    fn number(feed: &Feed) -> Option<u64> {
        let (workspace, name) = named();
        feed.attached(&workspace, &name).map(|attached| attached.stream)
    }

    #[test]
    fn the_newest_stream_wins_in_whatever_order_they_come() {
        let feed = Feed::new(FeedConfig::default());
        assert_eq!(number(&feed), None);
        let first = attach(&feed, 1);
        assert_eq!((first.ended(), number(&feed)), (None, Some(1)));
        let third = attach(&feed, 3);
        assert_eq!((first.ended(), third.ended()), (Some(Detached::TakenOver), None));
        let second = attach(&feed, 2);
        assert_eq!((second.ended(), third.ended(), number(&feed)), (Some(Detached::TakenOver), None, Some(3)));
        drop((first, second));
        assert_eq!(number(&feed), Some(3), "a stream that has ended takes only itself off the list");
        drop(third);
        assert_eq!(number(&feed), None);
        assert!(feed.attachments.open().is_empty());
    }

    /// A subscription that was deleted and created again counts on.
    #[test]
    fn a_stream_that_has_ended_is_no_rival() {
        let feed = Feed::new(FeedConfig::default());
        let (workspace, name) = named();
        let old = attach(&feed, 5);
        feed.detach(&workspace, &name, 6, Detached::Deleted);
        let new = attach(&feed, 7);
        feed.detach(&workspace, &name, 6, Detached::Deleted);
        assert_eq!((old.ended(), new.ended(), number(&feed)), (Some(Detached::Deleted), None, Some(7)));
    }

    #[test]
    fn a_stream_is_detached_by_what_is_newer() {
        let feed = Feed::new(FeedConfig::default());
        let (workspace, name) = named();
        let stream = attach(&feed, 5);
        feed.detach(&workspace, &name, 5, Detached::TakenOver);
        assert_eq!(stream.ended(), None, "it was opened after the change");
        feed.detach(&workspace, &name, 6, Detached::Deleted);
        feed.detach(&workspace, &name, 7, Detached::TakenOver);
        assert_eq!((stream.ended(), number(&feed)), (Some(Detached::Deleted), None));
    }

    #[test]
    fn an_operator_sees_how_far_a_stream_is() {
        let feed = Feed::new(FeedConfig::default());
        let (workspace, name) = named();
        let stream = attach(&feed, 1);
        let sent = || feed.attached(&workspace, &name).unwrap().sent;
        assert_eq!(sent(), Place::after(3).into());
        stream.sent(Place::after(9).into());
        assert_eq!(sent(), Place::after(9).into());
    }
}
