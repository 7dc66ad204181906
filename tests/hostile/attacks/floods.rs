//! More work than there is time for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo::proto::v1::*;

use super::Ending;
use crate::raw::{Http2, Target, drain};
use crate::store::{ATTACKED, SMALL, by_mpid, set};

const UPDATERS: usize = 17;
/// Attributes of a large update, and the size of each: near 1 MiB together, and so more than a profile may hold.
const ATTRIBUTES: usize = 950;
const VALUE: usize = 1 << 10;
const READERS: usize = 64;
const PAGE_WINDOW: u32 = 1 << 20;
/// Streams that are opened and reset before the attacker looks again whether the connection is still there.
const RESETS: usize = 200;

/// Updates that are as large as a request may be, and are always refused in the end.
pub async fn large_updates(target: Arc<Target>) -> Ending {
    let attributes: Vec<_> = (0..ATTRIBUTES).map(|n| (format!("k{n}"), "v".repeat(VALUE))).collect();
    let request = UpdateProfileRequest {
        workspace: ATTACKED.into(),
        key: Some(by_mpid(*SMALL.start())),
        patch: Some(set(&attributes)),
        ..Default::default()
    };
    let request = Arc::new(request);
    repeat(target, UPDATERS, move |mut connection: Http2| {
        let request = Arc::clone(&request);
        async move { drain(connection.call("ProfileService/UpdateProfile", &*request).await?.await?.into_body()).await }
    })
    .await
}

/// Reads pages of large profiles as fast as they come.
pub async fn pages(target: Arc<Target>) -> Ending {
    let request = ListProfilesRequest { workspace: ATTACKED.into(), page_size: 1_000, ..Default::default() };
    let request = Arc::new(request);
    repeat(target, READERS, move |mut connection: Http2| {
        let request = Arc::clone(&request);
        async move { drain(connection.call("ProfileService/ListProfiles", &*request).await?.await?.into_body()).await }
    })
    .await
}

/// Makes one call after another on each of the connections, until it is enough.
pub(super) async fn repeat<F>(
    target: Arc<Target>,
    connections: usize,
    call: impl Fn(Http2) -> F + Clone + Send + Sync + 'static,
) -> Ending
where
    F: Future<Output = Result<usize, h2::Error>> + Send,
{
    let ended = Arc::new(AtomicUsize::new(0));
    for _ in 0..connections {
        let mut connection = target.h2(PAGE_WINDOW).await.map_err(|error| error.to_string())?;
        let (target, ended, call) = (Arc::clone(&target), Arc::clone(&ended), call.clone());
        tokio::spawn(async move {
            while !target.enough.is_cancelled() {
                if call(connection.clone()).await.is_ok() {
                    ended.fetch_add(1, Ordering::Relaxed);
                } else if let Ok(next) = target.h2(PAGE_WINDOW).await {
                    connection = next;
                }
            }
        });
    }
    target.hold().await;
    Ok(format!("{} calls ended", ended.load(Ordering::Relaxed)))
}

/// Begins calls and resets them at once, on a new connection when the server has closed the last.
pub async fn resets(target: Arc<Target>) -> Ending {
    let request = ListProfilesRequest { workspace: ATTACKED.into(), page_size: 1_000, ..Default::default() };
    let (mut resets, mut connections) = (0, 0);
    target.in_place.cancel();
    while !target.enough.is_cancelled() {
        let mut connection = target.h2(0).await.map_err(|error| error.to_string())?;
        connections += 1;
        while !connection.closed.is_cancelled() && !target.enough.is_cancelled() {
            for _ in 0..RESETS {
                let Ok(response) = connection.call("ProfileService/ListProfiles", &request).await else { break };
                drop(response); // h2 resets a stream whose response is not wanted.
                resets += 1;
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(format!("{resets} resets on {connections} connections"))
}
