//! The reader that makes the truth: it sees every event before retention may remove it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cameo::proto::v1::seek_subscription_request::To;
use cameo::proto::v1::*;
use futures_util::future::try_join_all;
use tonic::Status;

use super::audiences::Change;
use super::draw::{PROFILES, SHARD_COUNTS};
use super::gone::is_gone;
use super::log::{Erasure, Log, is_unseen};
use super::run::{Shared, connect, next_server};
use super::violation::Violation;
use crate::harness::*;

/// The subscription that holds the log for it. Nothing opens a stream of it.
const SUBSCRIPTION: &str = "truth";
/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The log as far as it was read.
pub struct Truth {
    log: Log,
    cursor: String,
    /// The profiles of all events so far.
    mpids: BTreeSet<i64>,
}

/// Why a look ended early.
enum Stop {
    Failed(Status),
    Found(Violation),
}

impl Truth {
    /// Creates all profiles.
    pub async fn begin(client: &Client) -> Result<Self, Violation> {
        let cursor = client.list(list_request()).await.unwrap().cursor;
        let mut truth = Self { log: Log::new(cursor.clone()), cursor, mpids: BTreeSet::new() };
        let subscription = Some(Subscription { name: SUBSCRIPTION.into(), ..Subscription::default() });
        let workspace = WORKSPACE.into();
        let request = CreateSubscriptionRequest { workspace, subscription, ..CreateSubscriptionRequest::default() };
        client.events.clone().create_subscription(request).await.unwrap();
        for mpid in 1..=PROFILES {
            client.create(with_mpid(mpid)).await.unwrap();
        }
        truth.read_now(client).await?;
        Ok(truth)
    }

    /// Reads all that there is, of a server that stays and whose audiences do not change.
    pub async fn read_now(&mut self, client: &Client) -> Result<(), Violation> {
        match self.read_on(client, Vec::new).await {
            Ok(()) => Ok(()),
            Err(Stop::Found(violation)) => Err(violation),
            Err(Stop::Failed(status)) => panic!("{status:?}"),
        }
    }

    /// Reads until nothing more is read, over the restarts of the server.
    pub async fn read_all(mut self, shared: Shared) -> Result<Log, Violation> {
        let mut stages = shared.stages.subscribe();
        let mut client = connect(&mut stages);
        loop {
            let (is_over, writes) = (shared.is_read.load(Ordering::SeqCst), *shared.writes.borrow());
            match self.read_on(&client, || shared.changes()).await {
                Ok(()) if is_over && self.log.audiences.is_settled() => {
                    return self.finish(&client, shared.erasures()).await;
                }
                Ok(()) => {
                    shared.known.send_replace(writes);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Stop::Failed(status)) => {
                    assert!(is_gone(&status), "{status:?}");
                    client = next_server(&mut stages).await;
                }
                Err(Stop::Found(violation)) => {
                    shared.known.send_replace(usize::MAX); // No writer waits any longer.
                    return Err(violation);
                }
            }
        }
    }

    async fn read_on(&mut self, client: &Client, changes: impl Fn() -> Vec<Change>) -> Result<(), Stop> {
        loop {
            let start = page_after(&self.cursor);
            let page = client.list(ListEventsRequest { start, page_size: LARGEST_PAGE, ..list_request() }).await?;
            self.log.audiences.learn(changes()); // After the page: whoever joined an audience found it changed.
            let found = page.events.iter().map(|event| get_event(client, event.sequence));
            for (event, found) in page.events.iter().zip(try_join_all(found).await?) {
                // The end of a membership may be erased right after it was written.
                let is_erased = found.event.as_ref().is_some_and(is_unseen);
                if found.event.as_ref() != Some(event) && !is_erased {
                    let got = Box::new(found.event.unwrap_or_default());
                    return Err(Stop::Found(Violation::Altered { got, was: vec![event.clone()] }));
                }
                if !self.mpids.contains(&event.mpid) {
                    self.learn_shards(client, event.mpid).await?;
                    self.mpids.insert(event.mpid);
                }
                self.log.push(event, found.cursor.clone())?;
                self.cursor = found.cursor;
            }
            self.let_go(client).await?;
            if page.caught_up {
                return Ok(());
            }
        }
    }

    /// Asks which shards the profile of the next event is in, before retention may remove the event.
    async fn learn_shards(&mut self, client: &Client, mpid: i64) -> Result<(), Stop> {
        for count in SHARD_COUNTS {
            let mut indexes = Vec::new();
            for index in 0..count {
                let (start, filter) = (page_after(&self.cursor), of_profiles(&[mpid]));
                let shard = Some(Shard { index, count });
                let page = client.list(ListEventsRequest { start, filter, shard, ..list_request() }).await?;
                indexes.extend((!page.events.is_empty()).then_some(index));
            }
            self.log.learn_shards(count, mpid, &indexes)?;
        }
        Ok(())
    }

    /// Notes what erasures have left of the log, and compares it with what the log holds at last.
    pub async fn finish(mut self, client: &Client, erasures: Vec<Erasure>) -> Result<Log, Violation> {
        for erasure in erasures {
            self.log.erase(erasure)?;
        }
        self.log.check_restored()?;
        let rest = client.list(ListEventsRequest { page_size: LARGEST_PAGE, ..list_request() }).await.unwrap();
        self.log.check_rest(&rest.events)?;
        Ok(self.log)
    }

    /// Lets retention remove what was read.
    async fn let_go(&self, client: &Client) -> Result<(), Status> {
        let request = SeekSubscriptionRequest {
            workspace: WORKSPACE.into(),
            name: SUBSCRIPTION.into(),
            to: Some(To::Cursor(self.cursor.clone())),
            ..SeekSubscriptionRequest::default()
        };
        client.events.clone().seek_subscription(request).await.map(|_| ())
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Found(violation)
    }
}

async fn get_event(client: &Client, sequence: u64) -> Result<GetEventResponse, Status> {
    let request = GetEventRequest { workspace: WORKSPACE.into(), sequence, ..GetEventRequest::default() };
    Ok(client.events.clone().get_event(request).await?.into_inner())
}
