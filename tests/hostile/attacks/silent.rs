//! Connections and imports that say nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use tokio::io::AsyncReadExt;

use super::Ending;
use crate::raw::{Target, frame, send, write};
use crate::store::{ATTACKED, SMALL, by_mpid, set};

/// Half of how a connection of HTTP/2 begins.
const HALF_A_PREFACE: &[u8] = b"PRI * HTTP/2";
/// A head without its end. It is sent byte by byte.
const HEAD: &[u8] =
    b"GET /userprofile/v1/acme/main/web/1 HTTP/1.1\r\nhost: localhost\r\nuser-agent: slow and never done";
const CONNECTIONS: usize = 300;
const SLOW_HEADS: usize = 200;
/// Time between two bytes of a slow head.
const BYTE: Duration = Duration::from_millis(100);
/// How long the server may take to close a connection that says nothing: some times its handshake timeout.
const CLOSED_WITHIN: Duration = Duration::from_secs(8);
/// Imports on each connection.
const IMPORTS_PER_CONNECTION: usize = 250;

/// Half of the connections send nothing, and half of them half of a preface.
pub async fn connections(target: Arc<Target>) -> Ending {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let target = Arc::clone(&target);
        tasks.spawn(async move {
            let Ok(mut stream) = target.tcp().await else { return Some(Duration::ZERO) };
            let start = Instant::now();
            if number % 2 == 0 {
                write(&mut stream, HALF_A_PREFACE).await;
            }
            let read = tokio::time::timeout(CLOSED_WITHIN, stream.read(&mut [0])).await;
            // An end or an error; a byte would be a greeting.
            read.ok().filter(|read| !matches!(read, Ok(1..))).map(|_| start.elapsed())
        });
    }
    target.hold().await;
    all_closed(tasks.join_all().await)
}

/// Heads of HTTP/1.1 that come byte by byte and do not end.
pub async fn slow_heads(target: Arc<Target>) -> Ending {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..SLOW_HEADS {
        let target = Arc::clone(&target);
        tasks.spawn(async move {
            let Ok(mut stream) = target.tcp().await else { return Some(Duration::ZERO) };
            let start = Instant::now();
            for byte in HEAD {
                if !write(&mut stream, &[*byte]).await {
                    return Some(start.elapsed());
                }
                // The server may say 408 before it closes the connection.
                let read = tokio::time::timeout(BYTE, stream.read(&mut [0; 1_024])).await;
                if matches!(read, Ok(Ok(0) | Err(_))) {
                    return Some(start.elapsed());
                }
            }
            None
        });
    }
    target.hold().await;
    all_closed(tasks.join_all().await)
}

fn all_closed(closed: Vec<Option<Duration>>) -> Ending {
    let (all, slowest) = (closed.len(), closed.iter().flatten().max().copied().unwrap_or_default());
    let closed = closed.into_iter().flatten().count();
    let said = format!("{closed} of {all} connections were closed, the last after {:.1} s", slowest.as_secs_f64());
    if closed == all { Ok(said) } else { Err(said) }
}

/// Opens so many imports, and sends only so many records on each.
pub async fn imports(target: Arc<Target>, imports: usize, records: i64) -> Ending {
    let mut open = Vec::new();
    let mut connection = target.h2(1 << 16).await.map_err(|error| error.to_string())?;
    for number in 1..=imports {
        let begun = connection.begin("ProfileService/ImportProfiles").await;
        let (response, mut body) = begun.map_err(|error| error.to_string())?;
        for mpid in SMALL.take(usize::try_from(records).unwrap_or_default()) {
            let patch = Some(set(&[("silent".into(), mpid.to_string())]));
            let (workspace, key) = (ATTACKED.into(), Some(by_mpid(mpid)));
            let record = ImportProfilesRequest { workspace, key, patch, ..Default::default() };
            send(&mut body, frame(&record)).await.map_err(|error| error.to_string())?;
        }
        open.push((connection.clone(), response, body));
        if number % IMPORTS_PER_CONNECTION == 0 {
            connection = target.h2(1 << 16).await.map_err(|error| error.to_string())?;
        }
    }
    target.hold().await;
    Ok(format!("{} imports were opened", open.len()))
}
