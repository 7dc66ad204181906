//! Acknowledgements of durable subscriptions: joined, with skipped events, and what retention does to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::disk::Disk;
use super::harness::*;
use super::subscriptions::{
    ack, at, done, in_snapshot, open, position, seek, skip, skipped, skipped_page, store_with, subscribe, trimmed,
    view, write,
};
use crate::command::*;
use crate::model::invalid::CursorError;
use crate::model::limits::SKIPPED_EVENTS;
use crate::model::{Invalid, Limits, Micros, Place};
use crate::proto::v1::{SkippedEvent, WriteOutcome};
use crate::store::apply::FORGOTTEN;
use crate::store::{Store, StoreError};

/// Stops the writer of a store until it is dropped.
struct Brake {
    is_pulled: Arc<AtomicBool>,
    _released: mpsc::Sender<()>,
}

/// A store with so many events, and a subscription from the start whose first stream is open.
async fn with_brake(events: i64) -> (Store, Brake) {
    let is_pulled = Arc::new(AtomicBool::new(false));
    let (released, wait) = mpsc::channel::<()>();
    let stop = Arc::clone(&is_pulled);
    let store = store_on(&Disk::default(), move |_, _| {
        if stop.load(Ordering::Relaxed) {
            let _ = wait.recv();
        }
    });
    for time in 1..=events {
        store.write(command(time, create(time))).await.unwrap();
    }
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    (store, Brake { is_pulled, _released: released })
}

impl Brake {
    /// Stops the writer in the commit of one more event, whose write this returns. What is sent meanwhile is answered later.
    fn pull<'s>(&self, store: &'s Store) -> BoxFuture<'s, ()> {
        self.is_pulled.store(true, Ordering::Relaxed);
        let mut write = store.write(command(SECOND, create(i64::MAX))).map(|written| drop(written.unwrap())).boxed();
        assert!((&mut write).now_or_never().is_none());
        write
    }
}

#[tokio::test]
async fn skipped_events_are_listed_once_and_in_order() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    let store = trimmed(&disk, store, 2).await;
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    let state = done(&store, skip("crm", 1, at(6), [5, 3, 5])).await;
    assert_eq!((state.skipped, state.position), (2, at(6)));
    let (again, older) = (skip("crm", 1, at(6), [3]), skip("crm", 1, at(4), [4]));
    assert_eq!(write(&store, again.clone()).await.unwrap().outcome, WriteOutcome::Unchanged, "it was skipped before");
    assert_eq!(done(&store, older).await.position, at(6), "an older position, but a new skip");
    assert_eq!(skipped(&store, "crm"), [3, 4, 5]);

    for (wrong, through) in [(7, 6), (10, 9)] {
        let refused = write(&store, skip("crm", 1, at(through), [6, wrong])).await;
        let Err(StoreError::Invalid(Invalid::Field { field, .. })) = refused else { panic!("{refused:?}") };
        assert_eq!(field, "skipped[1].sequence");
    }
    assert_eq!((position(&store, "crm"), skipped(&store, "crm")), (at(6), vec![3, 4, 5]), "nothing was written");
    let edges = skip("crm", 1, at(10), [10]);
    assert_eq!(done(&store, edges).await.skipped, 4);

    let reworded = Acknowledge { skipped: vec![(sequence(3), "again".to_owned())], ..again };
    write(&store, reworded).await.unwrap();
    let page = |after: Option<u64>, most| skipped_page(&store, "crm", after, most);
    let event =
        |sequence| SkippedEvent { sequence, reason: "lost".into(), time: Some(Micros::new(SECOND).to_timestamp()) };
    assert_eq!(page(None, 2), (vec![event(3), event(4)], true), "the first reason stays");
    assert_eq!(page(Some(4), 2), (vec![event(5), event(10)], false));
    assert_eq!(page(Some(10), 2), (vec![], false));
}

#[tokio::test]
async fn skips_belong_to_one_subscription() {
    let store = store_with(&Disk::default(), 10).await;
    for (of, events) in [("a", [1, 2]), ("ab", [2, 3]), ("b", [4, 5])] {
        write(&store, subscribe(of, Begin::Earliest)).await.unwrap();
        write(&store, open(of)).await.unwrap();
        write(&store, skip(of, 1, at(9), events)).await.unwrap();
    }
    for (of, events) in [("a", [1, 2]), ("ab", [2, 3]), ("b", [4, 5])] {
        assert_eq!(skipped(&store, of), events);
        assert!(!skipped_page(&store, of, None, 2).1, "there are no more");
    }
}

/// A subscription keeps so many skipped events and no more: one more is refused, and nothing changes.
#[tokio::test]
async fn a_subscription_keeps_only_so_many_skipped_events() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let last = i64::try_from(SKIPPED_EVENTS).unwrap() + 1;
    let imports = (1..=last).map(|mpid| store.import(command(1, create(mpid))));
    for written in futures_util::future::join_all(imports).await {
        written.unwrap().await.unwrap();
    }
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    write(&store, skip("crm", 1, at(SKIPPED_EVENTS), 1..=SKIPPED_EVENTS)).await.unwrap();
    let refused = write(&store, skip("crm", 1, at(SKIPPED_EVENTS + 1), [SKIPPED_EVENTS + 1])).await;
    assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Limit { .. }))), "{refused:?}");
    assert_eq!(position(&store, "crm"), at(SKIPPED_EVENTS));
    assert_eq!(done(&store, ack("crm", 1, at(SKIPPED_EVENTS + 1))).await.position, at(SKIPPED_EVENTS + 1));

    write(&store, seek("crm", Begin::Earliest)).await.unwrap();
    let back = done(&store, seek("crm", Begin::At(at(SKIPPED_EVENTS)))).await;
    assert_eq!(back.skipped, 0, "the way out: the list is empty, and nothing was delivered again");
    done(&store, skip("crm", 3, at(SKIPPED_EVENTS + 1), [SKIPPED_EVENTS + 1])).await;
    assert_eq!(skipped(&store, "crm"), [SKIPPED_EVENTS + 1]);
}

/// What a seek moves back to will be delivered again, so it is skipped no longer.
#[tokio::test]
async fn a_seek_unlists_the_skipped_events_after_its_place() {
    let store = store_with(&Disk::default(), 10).await;
    for of in ["a", "ab", "b"] {
        write(&store, subscribe(of, Begin::Earliest)).await.unwrap();
        write(&store, open(of)).await.unwrap();
        write(&store, skip(of, 1, at(9), [2, 4, 6, 9])).await.unwrap();
    }
    let check = Command { validate_only: true, ..command(1, seek("a", Begin::At(at(4)))) };
    assert_eq!(store.write(check).await.unwrap().subscription.unwrap().skipped, 2);
    assert_eq!(done(&store, seek("a", Begin::Snapshot)).await.skipped, 4, "nothing is delivered again");
    assert_eq!(skipped(&store, "a"), [2, 4, 6, 9]);
    assert_eq!(done(&store, seek("a", Begin::At(at(4)))).await.skipped, 2);
    assert_eq!(done(&store, seek("b", Begin::At(in_snapshot(6, 1)))).await.skipped, 3, "events after the snapshot");
    assert_eq!((skipped(&store, "a"), skipped(&store, "b")), (vec![2, 4], vec![2, 4, 6]));
    assert_eq!(skipped(&store, "ab"), [2, 4, 6, 9]);
}

/// A trim keeps what a subscription has not acknowledged, and forgets the skipped events that the log loses.
#[tokio::test]
async fn retention_keeps_what_is_held_and_forgets_old_skips() {
    let store = store_with(&Disk::default(), 10).await;
    for of in ["a", "b"] {
        write(&store, subscribe(of, Begin::Earliest)).await.unwrap();
        write(&store, open(of)).await.unwrap();
    }
    write(&store, skip("a", 1, at(9), [2, 4, 6])).await.unwrap();
    write(&store, skip("b", 1, in_snapshot(5, 1), [1, 5])).await.unwrap();
    let trim = |hold_bytes| Trim { max_age: None, max_bytes: Some(0), hold_age: None, hold_bytes, most: 100 };
    store.write(command(SECOND, trim(None))).await.unwrap();
    assert_eq!(view(&store, "b").bounds.floor, Place::after(5), "b holds the rest");
    assert_eq!((skipped(&store, "a"), skipped(&store, "b")), (vec![6], vec![]));
    store.write(command(SECOND, trim(Some(0)))).await.unwrap();
    assert_eq!(view(&store, "b").bounds.floor, Place::after(10), "it may hold no more");
    assert_eq!(skipped(&store, "a"), [0; 0]);
    let lost = write(&store, open("b")).await;
    assert!(matches!(lost, Err(StoreError::Expired { .. })), "{lost:?}");
}

/// The bytes of a log without its first events: without none of them, without one, and so on.
async fn bytes_after(store: Store, events: usize) -> Vec<u64> {
    let mut bytes = vec![log(&store).bytes];
    for _ in 0..events {
        store.write(command(SECOND, Trim { most: 1, ..trim_by_bytes(0) })).await.unwrap();
        bytes.push(log(&store).bytes);
    }
    bytes
}

/// More subscriptions have skipped the same events than a trim can tell at once. The log loses an event only when no list
/// names it any more.
#[tokio::test]
async fn no_list_names_an_event_that_the_log_has_lost() {
    let store = store_with(&Disk::default(), 10).await;
    let expected = bytes_after(store_with(&Disk::default(), 10).await, 2).await;
    let names: Vec<_> = (0..=FORGOTTEN).map(|number| format!("s{number}")).collect();
    let limits = Limits { subscriptions: names.len(), ..Limits::default() };
    let changes: [fn(&str) -> Change; 3] =
        [|of| subscribe(of, Begin::Earliest).into(), open, |of| skip(of, 1, at(9), [1, 2, 9]).into()];
    for change in changes {
        let imports = names.iter().map(|name| store.import(Command { limits, ..command(1, change(name)) }));
        for written in join_all(imports).await {
            written.unwrap().await.unwrap();
        }
    }
    let listed = || names.iter().flat_map(|name| skipped(&store, name)).collect::<Vec<_>>();
    let (mut before, mut floors) = (listed().len(), Vec::new());
    let trim = Trim { most: 2, ..trim_by_bytes(expected[2]) };
    while store.write(command(1, trim)).await.unwrap().outcome == WriteOutcome::Updated {
        let (now, log) = (listed(), log(&store));
        assert!(now.iter().all(|event| *event > log.floor.get()));
        assert!(before - now.len() <= FORGOTTEN, "a command is small");
        floors.push(log.floor.get());
        assert_eq!(log.bytes, expected[usize::try_from(log.floor.get()).unwrap()]);
        before = now.len();
    }
    assert_eq!(floors, [0, 1, 1, 2], "each event is in one list more than a command forgets");
    assert!(listed().iter().all(|event| *event == 9), "the log holds it");
    assert_eq!(before, names.len());
}

/// Acknowledgements that come together cost few commands, and each caller gets a place at least as far as it asked for.
#[tokio::test]
async fn acknowledgements_are_joined() {
    let (store, brake) = with_brake(200).await;
    let before = store.metrics.commands_written();
    let stopped = brake.pull(&store);
    let all = (1..=200).map(|place| store.acknowledge(workspace(), ack("crm", 1, at(place)), Limits::default()));
    let mut all = Box::pin(tokio::task::unconstrained(join_all(all)));
    assert!((&mut all).now_or_never().is_none(), "all are there before the writer goes on");
    drop(brake);

    stopped.await;
    for (place, acknowledged) in (1..).zip(all.await) {
        assert!(acknowledged.unwrap() >= at(place));
    }
    assert_eq!(position(&store, "crm"), at(200));
    let commands = store.metrics.commands_written() - before;
    assert_eq!(commands, 3, "the event's, one for the first, and one for those that came meanwhile");
    assert!(store.acknowledgements.is_empty());
}

/// The subscription is moved while acknowledgements wait for their turn. What is sent then belongs to an older stream, and
/// an earlier success does not cover it.
#[tokio::test]
async fn an_acknowledgement_that_follows_a_seek_is_refused_whatever_was_acknowledged_before() {
    for waiting in [4, 8] {
        let (store, brake) = with_brake(10).await;
        let send = |place| Box::pin(store.acknowledge(workspace(), ack("crm", 1, at(place)), Limits::default()));
        let (mut first, mut waits) = (send(5), send(waiting));
        let stopped = brake.pull(&store);
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut waits).now_or_never().is_none(), "it waits for its turn");
        drop(brake);
        stopped.await;
        assert_eq!(first.await.unwrap(), at(5));
        write(&store, seek("crm", Begin::Earliest)).await.unwrap();

        let (_, refused) = tokio::join!(waits, send(3));

        assert!(matches!(refused, Err(StoreError::TakenOver)), "{waiting}: {refused:?}");
        assert_eq!(position(&store, "crm"), at(0));
        assert!(store.acknowledgements.is_empty());
    }
}

/// No caller suffers from what another asks for that is refused, or from one that has gone.
#[tokio::test]
async fn an_acknowledgement_joins_only_what_can_be_and_is_still_wanted() {
    let (store, brake) = with_brake(10).await;
    let send = |place| Box::pin(store.acknowledge(workspace(), ack("crm", 1, at(place)), Limits::default()));
    let (mut first, mut future, mut gone, mut good) = (send(1), send(12), send(8), send(5));
    let stopped = brake.pull(&store);
    assert!((&mut first).now_or_never().is_none());
    let refused = (&mut future).now_or_never();
    let Some(Err(StoreError::Invalid(Invalid::Cursor(CursorError::InFuture { .. })))) = refused else {
        panic!("{refused:?}")
    };
    for waits in [&mut gone, &mut good] {
        assert!(waits.now_or_never().is_none());
    }
    drop((gone, brake));
    stopped.await;
    assert_eq!((first.await.unwrap(), good.await.unwrap()), (at(1), at(5)));
    assert_eq!(position(&store, "crm"), at(5));
}

/// An acknowledgement with skipped events stands for itself: if it is refused, nothing moves, and no other suffers.
#[tokio::test]
async fn an_acknowledgement_with_skips_is_judged_by_itself() {
    let store = std::sync::Arc::new(store_with(&Disk::default(), 10).await);
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    let send = |acknowledge| store.acknowledge(workspace(), acknowledge, Limits::default());
    let (bad, good) = tokio::join!(send(skip("crm", 1, at(9), [10])), send(ack("crm", 1, at(5))));
    assert!(matches!(bad, Err(StoreError::Invalid(_))), "{bad:?}");
    assert_eq!((good.unwrap(), position(&store, "crm")), (at(5), at(5)));
    let (skips, further) = tokio::join!(send(skip("crm", 1, at(6), [6])), send(ack("crm", 1, at(8))));
    assert_eq!((skips.unwrap(), further.unwrap(), skipped(&store, "crm")), (at(6), at(8), vec![6]));
}

/// A caller that goes away cancels no other, and leaves nothing behind.
#[tokio::test]
async fn a_caller_that_goes_away_holds_up_no_other() {
    let store = std::sync::Arc::new(store_with(&Disk::default(), 3).await);
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    let acknowledge = |place, stream| store.acknowledge(workspace(), ack("crm", stream, at(place)), Limits::default());
    let mut gone = Box::pin(acknowledge(1, 1));
    assert!((&mut gone).now_or_never().is_none());
    let waits = acknowledge(3, 1);
    drop(gone);
    assert_eq!(waits.await.unwrap(), at(3));
    assert!(matches!(acknowledge(3, 9).await, Err(StoreError::TakenOver)));
    assert!(store.acknowledgements.is_empty());
}
