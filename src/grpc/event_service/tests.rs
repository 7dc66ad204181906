//! Where a stream starts is found without work on the threads that serve all calls.

use std::pin::pin;
use std::sync::mpsc;

use futures_util::FutureExt;
use tempfile::TempDir;

use super::*;
use crate::config::{FeedConfig, StoreConfig};
use crate::model::Place;
use crate::store::StoreError;

/// A service on an empty store, which makes one read of a class at a time.
fn events(dir: &TempDir) -> Events {
    let config =
        StoreConfig { data_dir: dir.path().join("data"), scrub_rate: 0, read_concurrency: 1, ..StoreConfig::default() };
    let store = Arc::new(Store::open(&config, |_, _| {}).unwrap());
    Events::new(store, Feed::new(FeedConfig::default()), Limits::default())
}

/// Event times are searched for in the log, and most of that may be on disk.
#[tokio::test]
async fn a_time_is_searched_for_on_the_read_pool() {
    let (dir, workspace) = (TempDir::new().unwrap(), Workspace::parse("a/b/c").unwrap());
    let events = events(&dir);
    let (end, ends) = mpsc::channel::<()>();
    let hold = move |_: &Store| {
        let _ = ends.recv();
        Ok::<_, StoreError>(())
    };
    let mut held = pin!(events.store.on_read_pool(ReadClass::Scan, None, hold));
    assert!((&mut held).now_or_never().is_none());

    let mut of_time = pin!(events.found(&workspace, Start::At(Micros::new(1))));
    let earliest = events.found(&workspace, Start::Earliest).now_or_never();

    assert!((&mut of_time).now_or_never().is_none(), "it waits for its turn");
    assert!(matches!(earliest, Some(Ok(Start::Earliest))), "there is nothing to search for");
    drop(end);
    held.await.unwrap();
    assert_eq!(of_time.await.ok(), Some(Start::Since(Place::START, Micros::new(1))));
}
