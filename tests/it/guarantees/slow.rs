//! *Slow is not an error.* A slow subscriber reads the log at its own pace and costs bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::*;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::harness::*;

const MIB: usize = 1 << 20;

/// Lets 256 writers write, until `written` has gone from where it is to `total`. Each event takes more than 1 kB.
async fn write(client: &Client, written: &Arc<AtomicUsize>, total: usize) {
    const WRITERS: i64 = 256;
    const PAD: usize = 500;
    let mut writers = JoinSet::new();
    for mpid in 1..=WRITERS {
        let (client, written) = (client.clone(), Arc::clone(written));
        writers.spawn(async move {
            let pad = Some(map([("pad", text(&"p".repeat(PAD)))]));
            let patch = ProfilePatch { set_user_attributes: pad, ..increment("visits") };
            let request = upsert_request(mpid, patch);
            while written.fetch_add(1, Ordering::Relaxed) < total {
                client.update_with(request.clone()).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

/// Slow is not an error: a subscriber stops reading for a minute while 100,000 events pass, costs bounded memory, and
/// then gets them all.
#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_an_error() {
    const EVENTS: usize = 100_000;
    /// So many fill the caches.
    const WARM_UP: usize = 10_000;
    const DOES_NOT_READ: Duration = Duration::from_secs(60);
    const MAY_GROW: usize = 48 * MIB;
    /// 16 MiB and 4 MiB: small, so that memory which the subscriber holds would stand out.
    const SMALL_CACHES: [&str; 4] = ["--cache-bytes", "16777216", "--ring-bytes", "4194304"];
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &SMALL_CACHES).await;
    let client = process.client().await;
    let written = Arc::new(AtomicUsize::new(0));
    write(&client, &written, WARM_UP).await;
    written.store(WARM_UP, Ordering::Relaxed);
    let slow = process.client().await; // A connection of its own: a stuck stream holds up others on the same one.
    let mut stream = slow.subscribe_from(None).await;
    let start = stream.opened().await.1.after_sequence;
    let before = process.resident();
    let minute = Instant::now() + DOES_NOT_READ;

    write(&client, &written, EVENTS + WARM_UP).await; // And the subscriber does not read.

    tokio::time::sleep_until(minute).await; // The minute itself, which is the point of the test.
    let grown = process.resident().saturating_sub(before);
    assert!(grown < MAY_GROW, "{} MiB for some 130 MiB of events", grown / MIB);
    for sequence in (start + 1..).take(EVENTS) {
        assert_eq!(stream.event().await.1.sequence, sequence);
    }
}

/// Reads what was sent before the stream ended: the sequence of the last event, and the status.
async fn read_to_the_end(stream: &mut Stream) -> (u64, Status) {
    let mut last = 0;
    within(async {
        loop {
            match stream.next().await {
                Ok(Some(SubscribeResponse { message: Some(subscribe_response::Message::Event(event)), .. })) => {
                    assert_eq!(event.sequence, last + 1);
                    last = event.sequence;
                }
                Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
                Err(status) => return (last, status),
            }
        }
    })
    .await
}

/// The stream of a stalled subscriber ends before its last event, and the rest follows the cursor of the refusal.
async fn assert_ended_with_its_cursor(client: &Client, stream: &mut Stream) {
    let (last, status) = read_to_the_end(stream).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "SUBSCRIBER_STALLED"));
    assert!(last < STALLED_EVENTS.cast_unsigned());
    let mut resumed = client.subscribe_from(after(&metadata(&status, "cursor"))).await;
    for sequence in last + 1..=STALLED_EVENTS.cast_unsigned() {
        assert_eq!(resumed.event().await.1.sequence, sequence);
    }
}

/// Slow is not an error, but taking nothing at all for long is: the stream ends, and says where.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_takes_nothing_is_ended_with_its_cursor() {
    let (server, mut stream) = TestServer::with_stalled_subscriber().await;
    assert_ended_with_its_cursor(&server.client().await, &mut stream).await;
}

/// A window of one byte does not even hold the first message.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_whose_window_is_closed_is_ended_with_its_cursor() {
    const STALL_TIMEOUT: Duration = Duration::from_millis(200);
    let server = TestServer::start_with(|config| config.feed.stall_timeout = STALL_TIMEOUT).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap().initial_stream_window_size(1);
    let mut events = EventServiceClient::new(endpoint.connect().await.unwrap());
    let mut stream = Stream(events.subscribe(subscribe_request()).await.unwrap().into_inner());
    let client = server.client().await;
    for mpid in 1..=STALLED_EVENTS {
        client.create(padded(mpid)).await.unwrap();
    }

    tokio::time::sleep(3 * STALL_TIMEOUT).await; // The stall itself, which takes time.

    assert_ended_with_its_cursor(&client, &mut stream).await;
}

/// Catching up takes the same turns as the streams that nothing reads. They read the store once, and then no more.
#[tokio::test]
async fn subscribers_that_read_nothing_do_not_hold_up_those_that_catch_up() {
    const UNREAD: u16 = 200;
    const EVENTS: i64 = 2_000;
    let server = TestServer::start_with(|config| {
        config.feed.ring_bytes = 0;
        config.store.read_concurrency = 1;
        metrics_on(config);
    })
    .await;
    let client = server.client().await;
    let records = (1..=EVENTS).map(|mpid| record(by_mpid(mpid), increment("n")));
    client.import(records.collect()).await.unwrap();
    client.create_with(CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() }).await.unwrap();
    let filter = of_profiles(&[EVENTS]); // Each of their reads goes through the whole log.
    let subscribe = SubscribeRequest { start: earliest(), filter, ..subscribe_request() };
    let (mut unread, mut streams) = (Unread::open(server.addr).await, Vec::new());
    for _ in 0..UNREAD {
        streams.push(unread.call(SUBSCRIBE, &subscribe).await);
    }
    server.until_metrics(|metrics| metrics.value("cameo_streams") >= UNREAD.into()).await;

    for workspace in [OTHER_WORKSPACE, WORKSPACE] {
        let until_caught_up = SubscribeRequest {
            workspace: workspace.into(),
            start: earliest(),
            until_caught_up: true,
            ..subscribe_request()
        };
        within(async { client.subscribe(until_caught_up).await.unwrap().catch_up().await }).await;
    }
}
