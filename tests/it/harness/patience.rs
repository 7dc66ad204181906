//! Deadlines, so that a test which hangs fails. A call has the deadline of its [`channel`], everything else that of
//! [`within`].

use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Far longer than anything in these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`. Panics with the caller's place in the source if that takes longer than [`PATIENCE`].
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let outcome = tokio::time::timeout(PATIENCE, future).await;
        outcome.unwrap_or_else(|_| panic!("{caller}: not done after {PATIENCE:?}"))
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
}

/// A connection on which every call has a deadline.
pub async fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap().timeout(PATIENCE);
    within(endpoint.connect()).await.unwrap()
}
