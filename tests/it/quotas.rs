//! How much one client may ask for.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;

/// The longest that a client is told to wait besides what it would have to.
const SPREAD: Duration = Duration::from_millis(300);

fn assert_rate_limited(status: &Status) {
    assert_eq!((status.code(), reason(status)), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    let longest = Duration::from_secs(1) + SPREAD;
    assert!(retry >= SPREAD / 3 && retry <= longest, "not all come back at the same moment: {retry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_begin_so_many_calls_in_a_second_and_others_as_many() {
    let callers = CallersFile::new();
    let [noisy, quiet] = [callers.add("noisy", &["reader"]).await, callers.add("quiet", &["reader"]).await];
    let server = callers.server_with(|config| config.quotas.max_call_rate_per_client = 2).await;
    let (noisy, quiet) =
        (Client::connect_with(server.addr, &noisy).await, Client::connect_with(server.addr, &quiet).await);
    let refused = within(async {
        loop {
            match noisy.get(ADA).await.unwrap_err() {
                status if status.code() == Code::NotFound => {}
                status => break status,
            }
        }
    })
    .await;
    assert_rate_limited(&refused);
    assert_eq!(quiet.get(ADA).await.unwrap_err().code(), Code::NotFound);
    tokio::time::sleep(refused.get_details_retry_info().unwrap().retry_delay.unwrap()).await;
    assert_eq!(noisy.get(ADA).await.unwrap_err().code(), Code::NotFound, "it came again when it was told to");
}

/// A call that is denied costs the server something too.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_caller_may_not_make_count_as_well() {
    let callers = CallersFile::new();
    let writer = callers.add("crm", &["writer"]).await;
    let server = callers.server_with(|config| config.quotas.max_call_rate_per_client = 1).await;
    let writer = Client::connect_with(server.addr, &writer).await;
    let outcomes = join_all((0..20).map(|_| writer.get(ADA))).await;
    let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap_err().code()).collect();
    assert!(codes.contains(&Code::PermissionDenied) && codes.contains(&Code::ResourceExhausted), "{codes:?}");
}

/// Without authentication, a client is an address: whatever it calls, and however.
#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_an_address_has_the_rate() {
    let server = TestServer::start_with(|config| config.quotas.max_call_rate_per_client = 2).await;
    let client = server.client().await;
    let outcomes = join_all((0..20).map(|_| client.get(ADA))).await;
    let refused = outcomes.into_iter().filter_map(Result::err).find(|status| status.code() != Code::NotFound).unwrap();
    assert_rate_limited(&refused);
    let requests = (0..20).map(|_| http(server.addr, "GET", "acme/main/web/1", &[], ""));
    let refused = join_all(requests).await.into_iter().find(|response| response.status == 429).unwrap();
    assert_eq!(refused.json()["reason"], "RATE_LIMITED");
    assert_eq!(refused.header("retry-after"), "1");
}

/// A page costs as much as the lookups that it replaces. It is paid for by the calls after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_counts_as_several_calls() {
    let callers = CallersFile::new();
    let [writer, sender] = [callers.add("writer", &["writer"]).await, callers.add("sender", &["writer"]).await];
    let reader = callers.add("reader", &["reader"]).await;
    let server = callers.server_with(|config| config.quotas.max_call_rate_per_client = 4).await;
    let writer = Client::connect_with(server.addr, &writer).await;
    writer.create(with_mpid(ADA)).await.unwrap();
    let pads = ["a", "b", "c", "d"].map(|key| (key, text(&"p".repeat(60_000))));
    writer.update(ADA, set(pads.clone())).await.unwrap();
    assert_eq!(reason(&writer.delete(ADA).await.unwrap_err()), "RATE_LIMITED", "request and response were large");
    let sender = Client::connect_with(server.addr, &sender).await;
    assert_eq!(sender.update(GRACE, set(pads)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(reason(&sender.delete(ADA).await.unwrap_err()), "RATE_LIMITED", "only the request was large");
    let reader = Client::connect_with(server.addr, &reader).await;
    reader.get(ADA).await.unwrap();
    let refused = reader.get(ADA).await.unwrap_err();
    assert_eq!(reason(&refused), "RATE_LIMITED", "the response counted as 15 calls");
    let retry = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::from_secs(1) && retry < Duration::from_secs(4), "it owes 11 at 4 a second: {retry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_counts_as_several_calls() {
    let server = TestServer::start_with(|config| config.quotas.max_call_rate_per_client = 4).await;
    let large = " ".repeat(100_000);
    let refused = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], &large).await;
    assert_eq!(refused.status, 400, "it is no JSON");
    let next = http(server.addr, "GET", &format!("{WORKSPACE}/1"), &[], "").await;
    assert_eq!(next.json()["reason"], "RATE_LIMITED");
}

/// A client that calls again at once would keep the server busy. Those that wait leave room for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_comes_a_little_later_and_takes_no_room_meanwhile() {
    let callers = CallersFile::new();
    let [hasty, other] = [callers.add("hasty", &["reader"]).await, callers.add("other", &["reader"]).await];
    let server = callers
        .server_with(|config| {
            config.quotas.max_call_rate_per_client = 5;
            config.server.max_calls = 5;
        })
        .await;
    let (hasty, other) =
        (Client::connect_with(server.addr, &hasty).await, Client::connect_with(server.addr, &other).await);
    for _ in 0..5 {
        let _ = hasty.get(ADA).await; // The burst.
    }
    let start = Instant::now();
    let hold = async {
        join_all((0..50).map(|_| hasty.get(ADA))).await.into_iter().filter_map(Result::err).collect::<Vec<_>>()
    };
    let (refused, served) = tokio::join!(hold, other.get(ADA));
    assert_eq!(served.unwrap_err().code(), Code::NotFound);
    assert!(start.elapsed() >= Duration::from_millis(50));
    let reasons: Vec<_> = refused.iter().map(reason).collect();
    assert!(reasons.iter().all(|reason| reason != "OVERLOADED"), "{reasons:?}");
    assert!(reasons.iter().filter(|reason| *reason == "RATE_LIMITED").count() > 40, "{reasons:?}");
}

/// A write that waits for the disk is in flight. Reads are not writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_have_so_many_writes_in_flight() {
    let server = TestServer::start_with(|config| config.quotas.max_writes_per_client = 1).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let outcomes = join_all((0..64).map(|_| client.update(ADA, increment("n")))).await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    for status in &refused {
        assert_rate_limited(status);
    }
    assert!(!refused.is_empty() && refused.len() < 64, "{} of 64 were refused", refused.len());
    let written = u32::try_from(64 - refused.len()).unwrap();
    assert_number(&client.get(ADA).await.unwrap(), "n", written.into());
    client.update(ADA, increment("n")).await.unwrap();
    let reads = join_all((0..64).map(|_| client.get(ADA))).await;
    assert!(reads.iter().all(Result::is_ok), "reads are not writes");
}

/// What is refused or fails has left its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_leaves_its_place_however_it_ends() {
    let server = TestServer::start_with(|config| config.quotas.max_writes_per_client = 1).await;
    let client = server.client().await;
    for _ in 0..3 {
        assert_eq!(client.delete(ADA).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.update(0, increment("n")).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut profiles = client.profiles.clone();
    let records = stream::repeat(record(by_mpid(ADA), increment("n")));
    let import = tokio::spawn(async move { profiles.import_profiles(records).await });
    within(async { while client.get(ADA).await.is_err() {} }).await;
    assert_rate_limited(&client.delete(ADA).await.unwrap_err());
    import.abort();
    within(async { while client.update(ADA, increment("m")).await.is_err() {} }).await;
}

/// The store writes what is queued, also for a client that has gone. Otherwise a client that gives up one write after
/// another would fill the queue.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_their_client_gives_up_keep_their_places_until_they_are_done() {
    const MOST: u8 = 2;
    let callers = CallersFile::new();
    let [hasty, bulk] = [callers.add("hasty", &["writer"]).await, callers.add("bulk", &["writer", "reader"]).await];
    let server = callers
        .server_with(|config| {
            metrics_on(config);
            config.auth.metrics_open = true;
            config.quotas.max_writes_per_client = MOST.into();
        })
        .await;
    let [hasty, bulk] =
        [Client::connect_with(server.addr, &hasty).await, Client::connect_with(server.addr, &bulk).await];
    bulk.create(with_mpid(ADA)).await.unwrap();
    let mut profiles = bulk.profiles.clone();
    let records = stream::iter((GRACE..).map(|mpid| record(by_mpid(mpid), set([("plan", text("pro"))]))));
    let import = tokio::spawn(async move { profiles.import_profiles(records).await }); // Each commit takes a while.
    let flood: Vec<_> = (0..32)
        .map(|_| {
            let hasty = hasty.clone();
            tokio::spawn(async move {
                loop {
                    // Long enough for the write to get into the queue, and shorter than a commit.
                    let _ = tokio::time::timeout(Duration::from_millis(5), hasty.update(ADA, increment("n"))).await;
                }
            })
        })
        .collect();

    let mut queued = Vec::new();
    for _ in 0..50 {
        queued.push(server.metrics().await.value("cameo_queue_commands{lane=\"call\"}"));
    }
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    import.abort();

    assert!(queued.iter().all(|queued| *queued <= MOST.into()), "{queued:?}");
    assert!(attribute(&bulk.get(ADA).await.unwrap(), "n").is_some(), "some were written");
}

/// Nothing is refused: the server reads no faster.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_takes_as_long_as_its_bytes_do() {
    let server = TestServer::start_with(|config| config.quotas.max_import_rate_per_client = 10_000).await;
    let client = server.client().await;
    let records: Vec<_> =
        (1..=30).map(|mpid| record(by_mpid(mpid), set([("pad", text(&"p".repeat(1_000)))]))).collect();
    let start = Instant::now();
    let imported = client.profiles.clone().import_profiles(stream::iter(records)).await.unwrap().into_inner();
    assert_eq!((imported.created, imported.refused), (30, 0));
    assert!(start.elapsed() >= Duration::from_secs(2), "30 kB at 10 kB a second, of which 10 kB are a burst");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_caller_are_counted_wherever_they_come_from() {
    let callers = CallersFile::new();
    let [token, other] = [callers.add("mail", &["subscriber"]).await, callers.add("crm", &["subscriber"]).await];
    let server = callers.server_with(|config| config.feed.max_streams_per_client = 1).await;
    let _first = Client::connect_with(server.addr, &token).await.subscribe_from(None).await;
    let second = Client::connect_with(server.addr, &token).await.subscribe(subscribe_request()).await;
    let Err(refused) = second else { panic!("it has two streams") };
    let _other = Client::connect_with(server.addr, &other).await.subscribe_from(None).await;
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "QUOTA_EXCEEDED".into()));
}
