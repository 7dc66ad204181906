//! Responses that are not read.

use std::sync::Arc;
use std::time::Duration;

use cameo::proto::v1::*;
use h2::client::ResponseFuture;

use super::Ending;
use crate::raw::{Http2, Target, owned, write};
use crate::store::{ATTACKED, LARGE, MEDIUM, by_mpid};

/// Calls on each connection.
const CALLS: usize = 200;
/// Connections that look profiles up, and how many profiles each. A profile has 245 KiB.
const LOOKUP_CONNECTIONS: usize = 100;
const LOOKUPS: usize = 2;
/// Connections that ask for compressed responses.
const COMPRESSED_CONNECTIONS: usize = 2;
/// Connections that ask for what there is not, and the window for each of the responses: less than a response has.
const UNKNOWN_CONNECTIONS: usize = 40;
const UNKNOWN_WINDOW: u32 = 10;
/// GETs on each connection of HTTP/2.
const GETS: usize = 1_000;
const SUBSCRIBERS: usize = 1_000;
const SUBSCRIBERS_PER_CONNECTION: usize = 250;
const HTTP_CONNECTIONS: usize = 100;
/// Requests that each connection of HTTP/1.1 sends without reading.
const PIPELINED: usize = 100;
/// How often an attacker looks whether its connection is still there, and for how long.
const PROBE: Duration = Duration::from_millis(100);
const CLOSED_WITHIN: Duration = Duration::from_secs(8);

/// Calls for pages of large profiles.
pub async fn pages(target: Arc<Target>, connections: usize) -> Ending {
    pages_with(target, connections, []).await
}

/// Calls for the same pages, compressed.
pub async fn compressed_pages(target: Arc<Target>) -> Ending {
    let headers = [("grpc-accept-encoding", "gzip")].map(owned);
    pages_with(target, COMPRESSED_CONNECTIONS, headers).await
}

async fn pages_with<H>(target: Arc<Target>, connections: usize, headers: H) -> Ending
where
    H: IntoIterator<Item = (String, String)> + Clone,
{
    let request = ListProfilesRequest { workspace: ATTACKED.into(), page_size: 1_000, ..Default::default() };
    let (headers, request) = (&headers, &request);
    unread(target, connections, CALLS, 0, move |mut connection| async move {
        connection.call_with("ProfileService/ListProfiles", headers.clone(), request).await
    })
    .await
}

/// Looks a large profile up on many connections, each of which takes little.
pub async fn lookups(target: Arc<Target>) -> Ending {
    let key = Some(by_mpid(*LARGE.start()));
    let request = GetProfileRequest { workspace: ATTACKED.into(), key, ..Default::default() };
    let request = &request;
    unread(target, LOOKUP_CONNECTIONS, LOOKUPS, 0, move |mut connection| async move {
        connection.call("ProfileService/GetProfile", request).await
    })
    .await
}

/// Asks for a profile over HTTP/2, compressed.
pub async fn compressed_gets(target: Arc<Target>) -> Ending {
    let (path, headers) = (&path(MEDIUM), &[("accept-encoding", "zstd")].map(owned));
    unread(target, COMPRESSED_CONNECTIONS, GETS, 0, move |mut connection| async move {
        connection.get(path, headers.clone()).await
    })
    .await
}

/// Asks for what there is not, and lets the server begin to say so.
pub async fn unknown_paths(target: Arc<Target>) -> Ending {
    unread(target, UNKNOWN_CONNECTIONS, GETS, UNKNOWN_WINDOW, |mut connection| async move {
        connection.get("/unknown", []).await
    })
    .await
}

/// Makes as many requests on each of the connections, with a window of so many bytes for each response.
async fn unread<F>(
    target: Arc<Target>,
    connections: usize,
    requests: usize,
    window: u32,
    request: impl Fn(Http2) -> F,
) -> Ending
where
    F: Future<Output = Result<ResponseFuture, h2::Error>>,
{
    let mut open = Vec::new();
    for _ in 0..connections {
        let connection = target.h2(window).await.map_err(|error| error.to_string())?;
        let mut responses = Vec::new();
        for _ in 0..requests {
            // An error means that the connection was closed: that is one way to end it.
            let Ok(response) = request(connection.clone()).await else { break };
            responses.push(response);
        }
        open.push((connection, responses));
    }
    target.hold().await;
    let closed = open.iter().filter(|(connection, _)| connection.closed.is_cancelled()).count();
    Ok(format!("{closed} of {connections} connections were closed"))
}

/// Where HTTP has a profile of the workspace that is attacked.
fn path(mpid: i64) -> String {
    format!("/userprofile/v1/{ATTACKED}/{mpid}")
}

/// Subscribes to a log of large events, from its beginning, with a window of no bytes.
pub async fn subscribers(target: Arc<Target>) -> Ending {
    let start = Some(subscribe_request::Start::Earliest(true));
    let request = SubscribeRequest { workspace: ATTACKED.into(), start, ..Default::default() };
    let mut streams = Vec::new();
    for _ in 0..SUBSCRIBERS / SUBSCRIBERS_PER_CONNECTION {
        let mut connection = target.h2(0).await.map_err(|error| error.to_string())?;
        for _ in 0..SUBSCRIBERS_PER_CONNECTION {
            streams.push(connection.call("EventService/Subscribe", &request).await.map_err(|e| e.to_string())?);
        }
    }
    target.hold().await;
    Ok(format!("{} streams were opened", streams.len()))
}

/// Asks for large profiles over HTTP/1.1 and reads nothing.
pub async fn http1(target: Arc<Target>) -> Ending {
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", path(*LARGE.start()));
    let mut open = Vec::new();
    for _ in 0..HTTP_CONNECTIONS {
        let mut stream = target.tcp_that_reads_nothing().await.map_err(|error| error.to_string())?;
        write(&mut stream, request.repeat(PIPELINED).as_bytes()).await;
        open.push(stream);
    }
    target.hold().await;
    let mut tasks = tokio::task::JoinSet::new();
    for mut stream in open {
        tasks.spawn(async move {
            // A write to a connection that the server has closed fails. One that is open takes it, or makes us wait.
            let writes = async {
                while write(&mut stream, b"\r\n").await {
                    tokio::time::sleep(PROBE).await;
                }
            };
            tokio::time::timeout(CLOSED_WITHIN, writes).await.is_ok()
        });
    }
    let closed = tasks.join_all().await.into_iter().filter(|closed| *closed).count();
    let said = format!("{closed} of {HTTP_CONNECTIONS} connections were closed");
    if closed == HTTP_CONNECTIONS { Ok(said) } else { Err(said) }
}
