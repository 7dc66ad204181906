//! *Durable before visible.* A response or an event means that the change is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cameo::proto::v1::*;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::*;

const WRITERS: i64 = 64;
/// How often the server is killed.
const ROUNDS: usize = 5;
/// How many writes are acknowledged before each kill, at least.
const WRITES_PER_ROUND: usize = 500;
/// How many of the latest events are compared with the profiles.
const COMPARED: usize = 64;

/// A write that the server acknowledged.
struct Acknowledged {
    request_id: String,
    /// How many visits the response counted.
    visits: f64,
}

/// Lets [`WRITERS`] writers write until the server fails them. Returns the acknowledged writes, and counts them in
/// `written` as they happen.
async fn write_until_failure(client: &Client, written: &Arc<AtomicUsize>, round: usize) -> Vec<Acknowledged> {
    let mut writers = JoinSet::new();
    for mpid in 1..=WRITERS {
        let (client, written) = (client.clone(), Arc::clone(written));
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                let request_id = format!("{round}-{mpid}-{n}");
                let upsert = upsert_request(mpid, increment("visits"));
                let request = UpdateProfileRequest { request_id: request_id.clone(), ..upsert };
                let Ok(response) = client.update_with(request).await else { break };
                written.fetch_add(1, Ordering::Relaxed);
                acknowledged.push(Acknowledged { request_id, visits: number_of(&response.profile.unwrap(), "visits") });
            }
            acknowledged
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

/// Reads events until the stream ends.
async fn watch(mut stream: Stream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(Some(message)) = stream.next().await {
        if let Some(subscribe_response::Message::Event(event)) = message.message {
            events.push(event);
        }
    }
    events
}

/// Asserts that the log has no holes, that it holds what was seen and acknowledged, and that profiles agree with it.
async fn assert_kept(client: &Client, log: &[Event], seen: &[Event], acknowledged: &[Acknowledged]) {
    assert_eq!(sequences_of(log), (1..=log.len() as u64).collect::<Vec<_>>(), "no holes");
    assert_eq!(log[..seen.len()], seen[..], "what a subscriber saw is in the log");
    let by_request: BTreeMap<_, _> = log.iter().map(|event| (event.request_id.as_str(), event)).collect();
    assert_eq!(by_request.len(), log.len(), "one write is one event");
    for Acknowledged { request_id, visits } in acknowledged {
        let event = by_request.get(String::as_str(request_id)).expect("an acknowledged write has its event");
        assert_number(event.profile.as_ref().unwrap(), "visits", *visits);
    }
    for event in log.iter().rev().take(COMPARED) {
        let latest = log.iter().rfind(|other| other.mpid == event.mpid).unwrap();
        assert_eq!(client.get(event.mpid).await.unwrap(), latest.profile.clone().unwrap());
    }
}

/// Durable before visible: what was acknowledged, and what a subscriber saw, is there after a SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_and_their_events_survive_sigkill() {
    let dir = TempDir::new().unwrap();
    let mut seen: Vec<Event> = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..=ROUNDS {
        let mut process = TestProcess::start(dir.path(), &[]).await;
        let client = process.client().await;
        let log = client.log().await;
        assert_kept(&client, &log, &seen, &acknowledged).await;
        if round == ROUNDS {
            break; // The writes before the last kill are kept too.
        }

        seen = log;
        let stream = client.listen().await;
        let watcher = tokio::spawn(watch(stream));
        let written = Arc::new(AtomicUsize::new(0));
        let writers = {
            let (client, written) = (client.clone(), Arc::clone(&written));
            tokio::spawn(async move { write_until_failure(&client, &written, round).await })
        };
        until(|| written.load(Ordering::Relaxed) >= WRITES_PER_ROUND).await;
        process.kill().await;
        acknowledged.extend(writers.await.unwrap());
        seen.extend(watcher.await.unwrap());
    }
    assert!(acknowledged.len() >= ROUNDS * WRITES_PER_ROUND);
}
