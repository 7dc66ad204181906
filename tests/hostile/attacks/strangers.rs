//! Calls of those who have no credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo::proto::v1::GetProfileRequest;
use futures_util::future::join_all;

use super::{Ending, floods};
use crate::logins::{UNKNOWN, forged};
use crate::raw::{Http2, Target, drain};
use crate::store::{ATTACKED, SMALL, by_mpid};

const CALLERS: usize = 64;
/// Connections whose calls all wait, and calls on each: the most that a connection may have.
const CONNECTIONS: usize = 50;
const CALLS: usize = 1_000;
const WINDOW: u32 = 1 << 16;

/// Calls one after another, without a credential or with a JWT that is forged for this key.
pub async fn callers(target: Arc<Target>, kid: Option<&'static str>) -> Ending {
    let (workspace, key) = (ATTACKED.into(), Some(by_mpid(*SMALL.start())));
    let request = Arc::new(GetProfileRequest { workspace, key, ..Default::default() });
    floods::repeat(target, CALLERS, move |mut connection: Http2| {
        let request = Arc::clone(&request);
        async move {
            let call = connection.call_with("ProfileService/GetProfile", kid.map(forged), &*request);
            drain(call.await?.await?.into_body()).await
        }
    })
    .await
}

/// Keeps as many calls begun as the server takes, with JWTs of a key that is not known. Nobody can tell it from a new one.
pub async fn unknown(target: Arc<Target>) -> Ending {
    let ended = Arc::new(AtomicUsize::new(0));
    for _ in 0..CONNECTIONS {
        let mut connection = target.h2(WINDOW).await.map_err(|error| error.to_string())?;
        let (target, ended) = (Arc::clone(&target), Arc::clone(&ended));
        tokio::spawn(async move {
            while !target.enough.is_cancelled() {
                let mut begun = Vec::new();
                for _ in 0..CALLS {
                    let Ok(call) = connection.begin_with("ProfileService/GetProfile", [forged(UNKNOWN)]).await else {
                        return;
                    };
                    begun.push(call);
                }
                let (responses, bodies): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
                ended.fetch_add(join_all(responses).await.len(), Ordering::Relaxed);
                drop(bodies);
            }
        });
    }
    target.hold().await;
    Ok(format!("{} calls ended", ended.load(Ordering::Relaxed)))
}
