//! *Ordered, no holes.* A stream shows every matching event, in sequence order.
//!
//! *Unique.* No event comes twice on one stream. After a reconnect, only events after the cursor come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use tokio::task::JoinSet;

use crate::harness::*;

/// Ordered, no holes, and unique: all of 1,000 subscribers see the same sequence.
#[tokio::test(flavor = "multi_thread")]
async fn ordered_without_holes_for_a_thousand_subscribers() {
    const SUBSCRIBERS: usize = 1_000;
    const STREAMS_PER_CONNECTION: usize = 200;
    const WRITERS: usize = 10;
    const EVENTS: usize = 300;
    let server = TestServer::start().await;
    let mut subscribers = JoinSet::new();
    let mut client = server.client().await;
    for n in 0..SUBSCRIBERS {
        if n % STREAMS_PER_CONNECTION == 0 {
            client = server.client().await;
        }
        let mut stream = client.listen().await;
        subscribers.spawn(async move {
            let mut events = Vec::with_capacity(EVENTS);
            while events.len() < EVENTS {
                let (cursor, event) = stream.event().await;
                events.push((cursor, event.sequence, event.id));
            }
            events
        });
    }
    let mut writers = JoinSet::new();
    for mpid in (1..).take(WRITERS) {
        let client = server.client().await;
        writers.spawn(async move {
            for _ in 0..EVENTS / WRITERS {
                client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let seen = subscribers.join_all().await;
    assert_eq!(seen.len(), SUBSCRIBERS);
    let sequences: Vec<_> = seen[0].iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=EVENTS as u64).collect::<Vec<_>>());
    assert!(seen.iter().all(|events| *events == seen[0]));
}

/// Unique: catching up meets live without a gap or a repeat, raced a thousand times, also through the log alone.
#[tokio::test(flavor = "multi_thread")]
async fn unique_where_catching_up_meets_live() {
    /// None, so that every stream reads the log; one that is soon full; and one with room for all.
    const RINGS: [usize; 3] = [0, 20_000, 4 << 20];
    const RACES_PER_RING: u64 = 340;
    const WRITERS: i64 = 4;
    for ring_bytes in RINGS {
        let server = TestServer::start_with(ring(ring_bytes)).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for mpid in 1..=WRITERS {
            let (client, done) = (server.client().await, Arc::clone(&done));
            writers.spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
                }
            });
        }
        let client = server.client().await;
        let mut first = client.subscribe_from(earliest()).await;
        let mut place = (first.opened().await.0, 0);
        for race in 0..RACES_PER_RING {
            // From some way behind the head, to some way past where it was then.
            let mut stream = client.subscribe_from(after(&place.0)).await;
            let (_, opened) = stream.opened().await;
            assert_eq!(opened.after_sequence, place.1);
            let last = opened.head_sequence + race % 20 + 1;
            let mut next = place.1 + 1;
            let stay = next + (last - next) / 2; // Where the next race begins.
            while next <= last {
                let (cursor, event) = stream.event().await;
                assert_eq!(event.sequence, next, "race {race} with a ring of {ring_bytes} bytes");
                if next == stay {
                    place = (cursor, next);
                }
                next += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
        writers.join_all().await;
    }
}

/// Unique: a stream that is opened during a write either shows that write or begins after it, although no later write
/// comes to wake the stream. Each race has a workspace of its own: other streams of the same one would wake it too.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_write_reaches_a_stream_that_was_opened_during_it() {
    const RACERS: usize = 4;
    const RACES: u32 = 250;
    /// Each race opens its stream at another of so many points of the time that a write takes.
    const POINTS: u32 = 20;
    let server = TestServer::start().await;
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let (reader, writer) = (server.client().await, server.client().await);
        racers.spawn(async move {
            let mut took = Duration::ZERO;
            for race in 0..RACES {
                let workspace = format!("acme/{racer}/{race}");
                let profile = Some(with_mpid(ADA));
                let create = CreateProfileRequest { workspace: workspace.clone(), profile, ..create_request() };
                let created = writer.create_with(create).await.unwrap();
                let patch = Some(increment("visits"));
                let update = UpdateProfileRequest { workspace: workspace.clone(), patch, ..update_request(ADA) };
                let start = if race % 2 == 0 { None } else { after(&created.cursor) };
                let subscribe = SubscribeRequest { workspace, start, ..subscribe_request() };

                let begun = Instant::now();
                let write = async {
                    writer.update_with(update).await.unwrap();
                    begun.elapsed()
                };
                let open = async {
                    while begun.elapsed() < took * (race % POINTS) / POINTS {
                        tokio::task::yield_now().await;
                    }
                    reader.subscribe(subscribe).await.unwrap()
                };
                let (written, mut stream) = tokio::join!(write, open);
                took = written;
                if stream.opened().await.1.after_sequence == 1 {
                    assert_eq!(stream.event().await.1.sequence, 2);
                }
            }
        });
    }
    racers.join_all().await;
}

/// Unique: a subscriber that reconnects with its last cursor misses nothing and sees nothing twice.
#[tokio::test]
async fn unique_after_a_reconnect_also_to_a_restarted_server() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let (cursor, _) = client.subscribe_from(earliest()).await.event().await;

    client.update(ADA, increment("visits")).await.unwrap(); // No subscriber is connected.
    let server = server.restart().await;
    let client = server.client().await;
    client.update(ADA, increment("visits")).await.unwrap();

    assert_eq!(client.subscribe_from(after(&cursor)).await.sequences(2).await, [2, 3]);
}
