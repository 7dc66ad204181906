//! Requests that are small on the wire and large in memory.

use std::sync::Arc;

use bytes::Bytes;
use cameo::compression::Encoding;
use cameo::proto::v1::*;
use prost::Message;

use super::Ending;
use crate::raw::{Http2, Target, drain, header, owned, send};
use crate::store::{ATTACKED, SMALL, by_mpid, set};

const CONNECTIONS: usize = 10;
const IMPORTS: usize = 900;
const BATCHES: usize = 100;
const KEYS: usize = 500_000;
const CALLS: usize = 10_000;
const HEADERS: usize = 150;
/// Just below the limit of a request.
const UNPACKED: usize = 1_000_000;
/// Connections with bodies that do not end, and how many bodies on each.
const BODY_CONNECTIONS: usize = 8;
const BODIES: usize = 1_000;
/// What is sent of each of these bodies: enough for a decoder to begin.
const PART: usize = 300;
/// Numbers in such a body. They compress to more than is sent.
const NUMBERS: usize = 1_000;

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    Encoding::Gzip.compress(bytes, &mut compressed);
    compressed
}

/// A compressed message with its header.
fn pack(message: &[u8]) -> Bytes {
    let packed = compress(message);
    let [_, length @ ..] = header(packed.len());
    [&[1], &length[..], &packed].concat().into()
}

fn gzip() -> [(String, String); 1] {
    [("grpc-encoding", "gzip")].map(owned)
}

async fn connections(target: &Arc<Target>, number: usize) -> Result<Vec<Http2>, String> {
    let mut connections = Vec::new();
    for _ in 0..number {
        connections.push(target.h2(1 << 16).await.map_err(|error| error.to_string())?);
    }
    Ok(connections)
}

/// Imports with one record, and then silence.
pub async fn imports(target: Arc<Target>) -> Ending {
    let mpid = *SMALL.start();
    let patch = Some(set(&[("packed".into(), "0".repeat(UNPACKED))]));
    let record =
        ImportProfilesRequest { workspace: ATTACKED.into(), key: Some(by_mpid(mpid)), patch, ..Default::default() };
    let packed = pack(&record.encode_to_vec());
    let mut connections = connections(&target, CONNECTIONS).await?;
    let mut open = Vec::new();
    for number in 0..IMPORTS {
        let connection = &mut connections[number % CONNECTIONS];
        let Ok((response, mut body)) = connection.begin_with("ProfileService/ImportProfiles", gzip()).await else {
            continue;
        };
        if send(&mut body, packed.clone()).await.is_ok() {
            open.push((response, body));
        }
    }
    target.hold().await;
    Ok(format!("{} imports were sent", open.len()))
}

/// Batches whose keys are empty: two bytes each on the wire, before they are compressed.
pub async fn batches(target: Arc<Target>) -> Ending {
    let mut message = BatchGetProfilesRequest { workspace: ATTACKED.into(), ..Default::default() }.encode_to_vec();
    let key = BatchGetProfilesRequest { keys: vec![ProfileKey::default()], ..Default::default() }.encode_to_vec();
    message.extend(key.repeat(KEYS));
    let packed = pack(&message);
    let mut connections = connections(&target, CONNECTIONS).await?;
    let mut responses = Vec::new();
    for number in 0..BATCHES {
        let connection = &mut connections[number % CONNECTIONS];
        let begun = connection.begin_with("ProfileService/BatchGetProfiles", gzip()).await;
        let Ok((response, mut body)) = begun else { continue };
        if send(&mut body, packed.clone()).await.is_ok() && body.send_data(Bytes::new(), true).is_ok() {
            responses.push(tokio::spawn(async move { drain(response.await?.into_body()).await }));
        }
    }
    target.hold().await;
    let ended = responses.iter().filter(|response| response.is_finished()).count();
    Ok(format!("{ended} of {} calls ended", responses.len()))
}

/// Calls with many headers and no message.
pub async fn heads(target: Arc<Target>) -> Ending {
    let mut connections = connections(&target, CONNECTIONS).await?;
    let mut open = Vec::new();
    for number in 0..CALLS {
        let connection = &mut connections[number % CONNECTIONS];
        let headers = (0..HEADERS).map(|n| (format!("x-{n}"), "1".to_owned()));
        if let Ok(begun) = connection.begin_with("ProfileService/GetProfile", headers).await {
            open.push(begun);
        }
    }
    target.hold().await;
    Ok(format!("{} calls were begun", open.len()))
}

/// Bodies of HTTP that stop after their first bytes.
pub async fn bodies(target: Arc<Target>) -> Ending {
    let path = format!("/userprofile/v1/resolve/{ATTACKED}");
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")].map(owned);
    let numbers: String = (0..NUMBERS).map(|number| number.to_string()).collect();
    let part = Bytes::from(compress(numbers.as_bytes())).slice(..PART);
    let mut open = Vec::new();
    for mut connection in connections(&target, BODY_CONNECTIONS).await? {
        for _ in 0..BODIES {
            let Ok((response, mut body)) = connection.post(&path, headers.clone()).await else { break };
            // It does not wait for the peer's window: the peer need not take the part.
            if body.send_data(part.clone(), false).is_ok() {
                open.push((response, body));
            }
        }
    }
    target.hold().await;
    Ok(format!("{} bodies were begun", open.len()))
}
