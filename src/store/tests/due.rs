//! Which logs are trimmed, and when: the look at all of them, and trims between writes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::damage::ID;
use super::disk::Disk;
use super::harness::*;
use super::retention::{store_with, trim};
use super::script::WORKSPACES;
use crate::command::{Change, Command, Create, Trim};
use crate::model::{Filter, Micros, Workspace};
use crate::store::LogBounds;
use crate::store::retention::{Due, Oldest};

/// The look remembers the time of the oldest event until the floor moves.
#[tokio::test]
async fn a_log_is_due_by_its_oldest_event_also_after_a_trim() {
    let store = store_with(&Disk::default(), 10).await;
    let mut oldest = Oldest::default();
    let mut due = |second: i64, trim: Trim| {
        oldest.due(&store.snapshot().unwrap(), ID, log(&store), &trim, Micros::new(second * SECOND))
    };
    let age = trim_by_age(5_000_000);
    assert_eq!([5, 6, 7].map(|second| due(second, age)), [Due::No, Due::Yes, Due::Far]);
    assert_eq!(trim(&store, 8, age).await, 3);
    assert_eq!([8, 9, 10].map(|second| due(second, age)), [Due::No, Due::Yes, Due::Far]);
    let bytes = log(&store).bytes;
    assert_eq!([bytes - 1, bytes].map(|most| due(8, trim_by_bytes(most))), [Due::Yes, Due::No]);
    assert_eq!(due(1_000, NO_TRIM), Due::No);
    assert_eq!(trim(&store, 100, age).await, 10);
    assert_eq!(due(1_000, age), Due::No, "there is nothing to remove");
}

/// More workspaces than one look takes.
#[tokio::test]
async fn all_of_many_workspaces_are_trimmed() {
    const WORKSPACES: usize = 2_100;
    let store = Arc::new(store());
    let names = (0..WORKSPACES).map(|n| Workspace::parse(&format!("a/b/{n:04}")).unwrap());
    let names: Vec<_> = names.collect();
    let create = async |name: &Workspace| {
        let command = Command { workspace: name.clone(), ..command(SECOND, create(ADA)) };
        store.import(command).await.unwrap().await.unwrap()
    };
    join_all(names.iter().map(create)).await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&store).retain(config(), stop.clone())); // The events are of 1970.
    let is_empty = |name: &Workspace| {
        let log = store.snapshot().unwrap().log_bounds(store.workspace_id(name).unwrap()).unwrap();
        log.floor == log.head
    };
    let all = async {
        while !names.iter().all(is_empty) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    stop.cancel();
    task.await.unwrap();
}

/// Events are written and trimmed at the same time, from many tasks. Each log stays whole above its floor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_trimmed_while_it_is_written() {
    let store = Arc::new(store());
    let in_workspace = |name: &str, time: i64, change: Change| Command {
        workspace: Workspace::parse(name).unwrap(),
        ..command(time, change)
    };
    let writers = WORKSPACES.iter().flat_map(|name| {
        (1..=4).map({
            let store = Arc::clone(&store);
            move |mpid| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let profile = create(mpid);
                    store.write(in_workspace(name, SECOND, Change::Create(Create { ..profile }))).await.unwrap();
                    for second in 2..60 {
                        let change = Change::Update(increment(mpid));
                        store.write(in_workspace(name, second * SECOND, change)).await.unwrap();
                        let trim = Trim { most: 5, ..trim_by_age(3_000_000) };
                        let trim = in_workspace(name, second * SECOND, Change::Trim(trim));
                        store.import(trim).await.unwrap().await.unwrap();
                    }
                })
            }
        })
    });
    for written in join_all(writers.collect::<Vec<_>>()).await {
        written.unwrap();
    }
    for name in WORKSPACES {
        let id = store.workspace_id(&Workspace::parse(name).unwrap()).unwrap();
        let snapshot = store.snapshot().unwrap();
        let LogBounds { floor, head, .. } = snapshot.log_bounds(id).unwrap();
        assert_eq!(head.get(), 4 * 59);
        assert!(floor.get() > 100, "{floor}");
        let page = snapshot.events(id, floor, head, &Filter::default(), EVERYTHING, |_| Ok(Some(1))).unwrap();
        assert!(page.complete);
    }
}
