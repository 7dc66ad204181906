//! Requests that do not end.

use std::sync::Arc;

use bytes::Bytes;

use super::Ending;
use crate::raw::{Target, header, send};

const MESSAGES: usize = 800;
const CONNECTIONS: usize = 16;
const LARGE: usize = 1 << 20;
/// Small enough to take of the part of the budget that is kept for small messages.
const SMALL: usize = 60 << 10;

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
