//! Each guarantee of the API, by name. The first, and what a loss of power does, is also tested in the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use futures_util::future::join_all;
use prost_types::value::Kind;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::*;

/// Answers what each write of many concurrent ones gave, 64 at a time; stops at the first error of each writer.
async fn write_until_failure(client: &Client, written: &Arc<AtomicUsize>, round: usize) -> Vec<(String, f64, String)> {
    let mut writers = JoinSet::new();
    for mpid in 1..=64 {
        let (client, written) = (client.clone(), Arc::clone(written));
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                let request_id = format!("{round}-{mpid}-{n}");
                let request = UpdateProfileRequest {
                    request_id: request_id.clone(),
                    allow_missing: true,
                    patch: Some(increment("n")),
                    ..update_request(mpid)
                };
                match client.update_with(request).await {
                    Ok(answer) => {
                        written.fetch_add(1, Ordering::Relaxed);
                        acknowledged.push((request_id, number_of(&answer.profile.unwrap(), "n"), answer.cursor));
                    }
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

fn assert_no_holes(events: &[Event]) {
    let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
    let expected: Vec<_> = (1..=events.len() as u64).collect();
    assert_eq!(sequences, expected);
}

/// Durable before visible: what was acknowledged, and what a subscriber saw, is there after a SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_and_their_events_survive_sigkill() {
    let dir = TempDir::new().unwrap();
    let mut seen: Vec<Event> = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut process = TestProcess::start(dir.path(), &[]).await;
        let client = process.client().await;
        let log = client.log().await;
        assert_no_holes(&log);
        assert_eq!(log[..seen.len()], seen[..], "what a subscriber saw is in the log");
        let by_request: BTreeMap<_, _> = log.iter().map(|event| (event.request_id.as_str(), event)).collect();
        assert_eq!(by_request.len(), log.len(), "one write is one event");
        for (request_id, n, _) in &acknowledged {
            let event = by_request.get(String::as_str(request_id)).expect("an acknowledged write has its event");
            assert!((number_of(event.profile.as_ref().unwrap(), "n") - n).abs() < f64::EPSILON);
        }
        for event in log.iter().rev().take(64) {
            let latest = log.iter().rfind(|other| other.mpid == event.mpid).unwrap();
            assert_eq!(client.get(event.mpid).await.unwrap(), latest.profile.clone().unwrap());
        }

        seen = log;
        let mut stream = client.subscribe_from(None).await;
        stream.opened().await;
        let watcher = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Ok(Some(message)) = stream.next().await {
                if let Some(subscribe_response::Message::Event(event)) = message.message {
                    events.push(event);
                }
            }
            events
        });
        let written = Arc::new(AtomicUsize::new(0));
        let writers = {
            let (client, written) = (client.clone(), Arc::clone(&written));
            tokio::spawn(async move { write_until_failure(&client, &written, round).await })
        };
        until(|| written.load(Ordering::Relaxed) >= 500).await;
        process.kill().await;
        acknowledged.extend(writers.await.unwrap());
        seen.extend(watcher.await.unwrap());
    }
    assert!(acknowledged.len() >= 2_500);
}

/// Ordered, no holes, and unique: all of 1,000 subscribers see the same sequence.
#[tokio::test(flavor = "multi_thread")]
async fn ordered_without_holes_for_a_thousand_subscribers() {
    const EVENTS: usize = 300;
    let server = TestServer::start().await;
    let mut subscribers = JoinSet::new();
    let mut client = server.client().await;
    for n in 0..1_000 {
        if n % 200 == 0 {
            client = server.client().await;
        }
        let mut stream = client.subscribe_from(None).await;
        stream.opened().await;
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
    for mpid in 1..=10 {
        let client = server.client().await;
        writers.spawn(async move {
            let patch = Some(increment("n"));
            let request = UpdateProfileRequest { allow_missing: true, patch, ..update_request(mpid) };
            for _ in 0..EVENTS / 10 {
                client.update_with(request.clone()).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let seen = subscribers.join_all().await;
    assert_eq!(seen.len(), 1_000);
    let sequences: Vec<_> = seen[0].iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=EVENTS as u64).collect::<Vec<_>>());
    assert!(seen.iter().all(|events| *events == seen[0]));
}

/// Unique: catching up meets live without a gap or a repeat, raced a thousand times, also through the log alone.
#[tokio::test(flavor = "multi_thread")]
async fn unique_where_catching_up_meets_live() {
    for ring_bytes in [0, 20_000, 4 << 20] {
        let server = TestServer::start_with(ring(ring_bytes)).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for mpid in 1..=4 {
            let (client, done) = (server.client().await, Arc::clone(&done));
            writers.spawn(async move {
                let patch = Some(increment("n"));
                let request = UpdateProfileRequest { allow_missing: true, patch, ..update_request(mpid) };
                while !done.load(Ordering::Relaxed) {
                    client.update_with(request.clone()).await.unwrap();
                }
            });
        }
        let client = server.client().await;
        let mut first = client.subscribe_from(earliest()).await;
        let mut place = (first.opened().await.0, 0);
        for race in 0..340 {
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

/// Unique: a stream that is opened during a write shows it, or begins after it, though no other write comes to wake it.
/// Each race is in a workspace of its own, for other streams of one would wake it too.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_write_reaches_a_stream_that_was_opened_during_it() {
    const RACES: u32 = 250;
    let server = TestServer::start().await;
    let mut racers = JoinSet::new();
    for racer in 0..4 {
        let (reader, writer) = (server.client().await, server.client().await);
        racers.spawn(async move {
            let mut took = Duration::ZERO;
            for race in 0..RACES {
                let workspace = format!("acme/{racer}/{race}");
                let profile = Some(with_mpid(1));
                let create = CreateProfileRequest { workspace: workspace.clone(), profile, ..create_request() };
                let created = writer.create_with(create).await.unwrap();
                let update = UpdateProfileRequest {
                    workspace: workspace.clone(),
                    patch: Some(increment("n")),
                    ..update_request(1)
                };
                let start = if race % 2 == 0 { None } else { after(&created.cursor) };
                let subscribe = SubscribeRequest { workspace, start, ..subscribe_request() };

                // Each race opens its stream at another twentieth of the time that the last write took.
                let begun = Instant::now();
                let write = async {
                    writer.update_with(update).await.unwrap();
                    begun.elapsed()
                };
                let open = async {
                    while begun.elapsed() < took * (race % 20) / 20 {
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

/// Unique: whoever reconnects with the last cursor misses nothing and sees nothing twice.
#[tokio::test]
async fn unique_after_a_reconnect_also_to_a_restarted_server() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let (cursor, _) = client.subscribe_from(earliest()).await.event().await;

    client.update(1, increment("n")).await.unwrap(); // While nobody listens.
    let server = server.restart().await;
    let client = server.client().await;
    client.update(1, increment("n")).await.unwrap();

    assert_eq!(client.subscribe_from(after(&cursor)).await.sequences(2).await, [2, 3]);
}

/// Atomic: one write is one event; neither a reader nor a subscriber ever sees half of it.
#[tokio::test(flavor = "multi_thread")]
async fn atomic_writes_are_seen_whole_or_not_at_all() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let mut stream = client.subscribe_from(earliest()).await;
    let whole = |profile: &Profile| {
        let numbers = ["a", "b", "c"].map(|key| number_of(profile, key));
        let member = profile.audience_memberships.len() == 1;
        let odd = profile.is_opted_out;
        assert!(numbers.iter().all(|number| number.to_bits() == numbers[0].to_bits()), "{numbers:?}");
        assert_eq!((numbers[0] % 2.0 > 0.5, numbers[0] % 2.0 > 0.5), (odd, member));
    };
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 1..=300_i32 {
                let odd = n % 2 == 1;
                let membership = AudienceMembership { audience_id: 1, ..Default::default() };
                let patch = ProfilePatch {
                    is_opted_out: Some(odd),
                    increment_user_attributes: ["a", "b", "c"].map(|key| (key.to_owned(), 1.0)).into(),
                    join_audiences: if odd { vec![membership] } else { vec![] },
                    leave_audiences: if odd { vec![] } else { vec![1] },
                    ..Default::default()
                };
                client.update(1, patch).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        whole(&client.get(1).await.unwrap());
    }
    writer.await.unwrap();
    for sequence in 1..=301 {
        let (_, event) = stream.event().await;
        assert_eq!(event.sequence, sequence);
        whole(&event.profile.unwrap());
    }
}

/// Truthful cursors: whichever cursor of a filtered stream one resumes from, nothing that matches is lost.
#[tokio::test]
async fn truthful_cursors_on_every_message() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for n in 0..120 {
        let allow_missing = true;
        let patch = Some(increment("n"));
        client.update_with(UpdateProfileRequest { allow_missing, patch, ..update_request(n % 5 + 1) }).await.unwrap();
    }
    let filter = of_profiles(&[3]);
    let request = SubscribeRequest { start: earliest(), filter, until_caught_up: true, ..subscribe_request() };
    let mut messages = Vec::new();
    let mut stream = client.subscribe(request.clone()).await.unwrap();
    while let Some(message) = stream.next().await.unwrap() {
        messages.push(message);
    }
    let event_of = |message: &SubscribeResponse| match &message.message {
        Some(subscribe_response::Message::Event(event)) => Some(event.sequence),
        _ => None,
    };
    assert_eq!(messages.iter().filter_map(event_of).count(), 24);
    for (at, message) in messages.iter().enumerate() {
        let request = SubscribeRequest { start: after(&message.cursor), ..request.clone() };
        let mut resumed = Vec::new();
        let mut stream = client.subscribe(request).await.unwrap();
        while let Some(message) = stream.next().await.unwrap() {
            resumed.extend(event_of(&message));
        }
        let rest: Vec<_> = messages[at + 1..].iter().filter_map(event_of).collect();
        assert_eq!(resumed, rest, "resumed from message {at}");
    }
}

/// Truthful cursors: also on a heartbeat that comes before the stream has caught up, as one does when the reader holds
/// the stream up for longer than the interval.
#[tokio::test]
async fn truthful_cursors_of_heartbeats_while_catching_up() {
    let server = TestServer::start().await;
    let client = server.client().await;
    // Some 8 MiB that match, in events too large for two to be read at a time, and others between them.
    let pad = text(&"p".repeat(60_000));
    let large = Some(map([("a", pad.clone()), ("b", pad.clone()), ("c", pad)]));
    client.create(Profile { user_attributes: large, ..with_mpid(1) }).await.unwrap();
    client.create(with_mpid(2)).await.unwrap();
    for _ in 0..40 {
        client.update(1, increment("n")).await.unwrap();
        client.update(2, increment("n")).await.unwrap();
    }
    let filter = of_profiles(&[1]);
    let heartbeat_interval = seconds(1);
    let request = SubscribeRequest { start: earliest(), filter, heartbeat_interval, ..subscribe_request() };
    let mut stream = server.client().await.subscribe(request.clone()).await.unwrap();

    tokio::time::sleep(Duration::from_secs(2)).await; // What it is about.

    let (mut sequences, mut heartbeats) = (Vec::new(), Vec::new());
    within(async {
        loop {
            match stream.message().await {
                (_, subscribe_response::Message::Event(event)) => sequences.push(event.sequence),
                (cursor, subscribe_response::Message::Heartbeat(_)) => heartbeats.push((cursor, sequences.len())),
                (_, subscribe_response::Message::CaughtUp(_)) => break,
                _ => {}
            }
        }
    })
    .await;
    let expected: Vec<_> = std::iter::once(1).chain((0..40).map(|n| 3 + 2 * n)).collect();
    assert_eq!(sequences, expected);
    assert!(heartbeats.iter().any(|(_, before)| *before < sequences.len()), "one came while there was more to deliver");
    for (cursor, before) in heartbeats {
        let request = SubscribeRequest { start: after(&cursor), read_mask: mask(&["mpid"]), ..request.clone() };
        let (_, rest) = client.subscribe(request).await.unwrap().catch_up().await;
        let rest: Vec<_> = rest.iter().map(|event| event.sequence).collect();
        assert_eq!(rest, sequences[before..], "resumed from a heartbeat after {before} events");
    }
}

/// Read your writes: by mpid, by identity, with `min_cursor` and in the log, on any connection.
#[tokio::test(flavor = "multi_thread")]
async fn read_your_writes() {
    let server = TestServer::start().await;
    let mut writers = JoinSet::new();
    for mpid in 1..=16 {
        let (writer, reader) = (server.client().await, server.client().await);
        writers.spawn(async move {
            for n in 0..40 {
                let name = identity("customer_id", &format!("{mpid}-{n}"));
                let patch = ProfilePatch { add_identities: vec![name.clone()], ..increment("n") };
                let request = UpdateProfileRequest { allow_missing: true, patch: Some(patch), ..update_request(mpid) };
                let written = writer.update_with(request).await.unwrap();
                let profile = written.profile.unwrap();
                assert_eq!(reader.get(mpid).await.unwrap(), profile);
                assert_eq!(reader.get_by(name).await.unwrap(), profile);
                let key = Some(by_mpid(mpid));
                let request = GetProfileRequest { key, min_cursor: written.cursor.clone(), ..get_request() };
                assert_eq!(reader.get_with(request).await.unwrap(), profile);
                let start = page_after(&written.cursor);
                let filter = of_profiles(&[mpid]);
                let later = reader.list(ListEventsRequest { start, filter, ..list_request() }).await.unwrap();
                assert!(later.events.is_empty(), "the cursor is that of the write's own event");
            }
        });
    }
    writers.join_all().await;
}

/// Slow is not an error: a subscriber stops reading for a minute while 100,000 events pass, costs bounded memory, and
/// then gets them all.
#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_an_error() {
    const EVENTS: u64 = 100_000;
    const MIB: usize = 1 << 20;
    let dir = TempDir::new().unwrap();
    // Small, so that memory which the subscriber holds would stand out.
    let flags = ["--cache-bytes", "16777216", "--ring-bytes", "4194304"];
    let process = TestProcess::start(dir.path(), &flags).await;
    let client = process.client().await;
    let written = Arc::new(AtomicUsize::new(0));
    let write = |total: usize| {
        let mut writers = JoinSet::new();
        for mpid in 1..=256 {
            let (client, written) = (client.clone(), Arc::clone(&written));
            writers.spawn(async move {
                let patch = ProfilePatch {
                    set_user_attributes: Some(map([("pad", text(&"p".repeat(500)))])),
                    ..increment("n")
                };
                let request = UpdateProfileRequest { allow_missing: true, patch: Some(patch), ..update_request(mpid) };
                while written.fetch_add(1, Ordering::Relaxed) < total {
                    client.update_with(request.clone()).await.unwrap();
                }
            });
        }
        writers.join_all()
    };
    write(10_000).await; // So that the caches are full.
    written.store(10_000, Ordering::Relaxed);
    let slow = process.client().await; // A connection of its own, as a stuck one holds up its neighbours.
    let mut stream = slow.subscribe_from(None).await;
    let start = stream.opened().await.1.after_sequence;
    let before = process.resident();
    let minute = tokio::time::Instant::now() + Duration::from_secs(60);

    write(usize::try_from(EVENTS).unwrap() + 10_000).await; // And the subscriber does not read.

    tokio::time::sleep_until(minute).await; // What the test is about: it does not read for so long.
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 48 * MIB, "{} MiB for some 130 MiB of events", grown / MIB);
    for sequence in start + 1..=start + EVENTS {
        assert_eq!(stream.event().await.1.sequence, sequence);
    }
}

/// Slow is not an error, but taking nothing at all for long is: the stream ends, and says where.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_takes_nothing_is_ended_with_its_cursor() {
    let (server, mut stream) = TestServer::with_stalled_subscriber().await;
    let client = server.client().await;
    let mut last = 0;
    let status = loop {
        match stream.next().await {
            Ok(Some(SubscribeResponse { message: Some(subscribe_response::Message::Event(event)), .. })) => {
                assert_eq!(event.sequence, last + 1);
                last = event.sequence;
            }
            Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "SUBSCRIBER_STALLED"));
    assert!(last < 40);
    let mut resumed = client.subscribe_from(after(&metadata(&status, "cursor"))).await;
    assert_eq!(resumed.event().await.1.sequence, last + 1);
}

/// No write is lost silently: 64 writers with etags on one profile lose no update.
#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_among_64_writers_with_etags() {
    const EACH: usize = 4;
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..64 {
        let client = client.clone();
        writers.spawn(async move {
            for _ in 0..EACH {
                while let Err(status) = read_and_add_one(&client).await {
                    assert_eq!(reason(&status), "ETAG_MISMATCH");
                }
            }
        });
    }
    within(writers.join_all()).await;
    let profile = client.get(1).await.unwrap();
    assert!((number_of(&profile, "n") - 64.0 * 4.0).abs() < f64::EPSILON);
    let log = client.log().await;
    assert_eq!(log.len(), 1 + 64 * EACH);
    assert!(
        log.windows(2).all(|pair| pair[1].previous.as_ref().unwrap().etag == pair[0].profile.as_ref().unwrap().etag)
    );
}

/// No write is lost silently: each is answered, also when those that wait are too large for one commit, which takes
/// 8 MiB. Each request here is small, and its profile is large.
#[tokio::test(flavor = "multi_thread")]
async fn writes_too_large_for_one_commit_are_all_answered() {
    const WRITES: i64 = 80;
    let server = TestServer::start().await;
    let client = server.client().await;
    let pad = text(&"p".repeat(60_000));
    for mpid in 1..=8 {
        let large = Some(map([("a", pad.clone()), ("b", pad.clone()), ("c", pad.clone())]));
        client.create(Profile { user_attributes: large, ..with_mpid(mpid) }).await.unwrap();
    }

    let mpids = || (0..WRITES).map(|n| n % 8 + 1);
    let updates = join_all(mpids().map(|mpid| client.update(mpid, increment("n"))));
    let repeats = join_all(mpids().map(|mpid| client.update(mpid, ProfilePatch::default())));
    let import = client.import(mpids().map(|mpid| record(by_mpid(mpid), increment("n"))).collect());
    let (updates, repeats, imported) = tokio::join!(updates, repeats, import);

    assert!(updates.iter().all(|answer| answer.as_ref().unwrap().outcome() == WriteOutcome::Updated));
    assert!(repeats.iter().all(|answer| answer.as_ref().unwrap().outcome() == WriteOutcome::Unchanged));
    assert_eq!(imported.unwrap().updated, WRITES);
    for mpid in 1..=8 {
        let profile = client.get(mpid).await.unwrap();
        assert_eq!(attribute(&profile, "n"), Some(&Kind::NumberValue(20.0)), "ten by calls, ten by the import");
    }
}

async fn read_and_add_one(client: &Client) -> Result<(), Status> {
    let profile = client.get(1).await?;
    let patch = Some(set([("n", number(number_of(&profile, "n") + 1.0))]));
    client.update_with(UpdateProfileRequest { patch, etag: profile.etag, ..update_request(1) }).await.map(|_| ())
}

/// No write is lost silently: on a full disk the caller is told, nothing changed, and reads go on.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let dir = server.stop().await;

    let server = TestServer::reopen_with(dir, full_disk).await;
    let client = server.client().await;
    let refused = client.update(1, increment("n")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "STORAGE_FULL"));
    assert!(number_of(&client.get(1).await.unwrap(), "n").abs() < f64::EPSILON);
    assert_eq!(client.log().await.len(), 1);
    assert_eq!(client.subscribe_from(earliest()).await.sequences(1).await, [1]);
}

/// No write is lost silently, and none is made twice: a repeat gets the first answer, also after a restart.
#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let create = CreateProfileRequest { request_id: "create".into(), ..create_request() };
    let created = client.create_with(create.clone()).await.unwrap();
    let mpid = created.profile.as_ref().unwrap().mpid;
    let update =
        UpdateProfileRequest { request_id: "update".into(), patch: Some(increment("n")), ..update_request(mpid) };
    let updated = client.update_with(update.clone()).await.unwrap();
    client.update(mpid, increment("n")).await.unwrap();
    let delete = DeleteProfileRequest { request_id: "delete".into(), ..delete_request(mpid) };
    let deleted = client.delete_with(delete.clone()).await.unwrap();

    let server = server.restart().await;
    let client = server.client().await;
    assert_eq!(client.create_with(create).await.unwrap(), created);
    assert_eq!(client.update_with(update).await.unwrap(), updated);
    assert_eq!(client.delete_with(delete).await.unwrap(), deleted);
    assert_eq!(client.log().await.len(), 4);
}
