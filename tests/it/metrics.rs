//! What operators and their tools see: `/metrics`, `/healthz` and `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cameo::config::Config;
use cameo::proto::v1::*;
use cameo::telemetry::metrics::WORKSPACES;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::*;

const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md"));
const CREATED: i64 = 20;
const READ_ONLY_PROFILES: i64 = 3;

/// What the load below asks of the server, one call after another.
async fn scripted_load(client: &Client) {
    client.create(owner_of(email("ada"), 1)).await.unwrap();
    for mpid in 2..=CREATED {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    for mpid in 1..=2 {
        client.create(with_mpid(mpid)).await.unwrap_err(); // It exists.
    }
    client.update(1, increment("n")).await.unwrap();
    client.update(1, ProfilePatch::default()).await.unwrap(); // Nothing to change.
    let validated = UpdateProfileRequest { patch: Some(increment("n")), validate_only: true, ..update_request(1) };
    client.update_with(validated).await.unwrap();
    client.delete(2).await.unwrap();
    client.delete(UNKNOWN_MPID).await.unwrap_err();
    let records = [(1, increment("n")), (3, increment("n")), (4, add([email("ada")]))]; // The last is taken.
    let records = records.map(|(mpid, patch)| record(by_mpid(mpid), patch));
    assert_eq!(client.import(records.into()).await.unwrap().refused, 1);
    for mpid in 3..3 + READ_ONLY_PROFILES {
        client.get(mpid).await.unwrap();
    }
    client.get(UNKNOWN_MPID).await.unwrap_err();
}

/// The counter of the calls of a method of `ProfileService`.
fn calls(method: &str, code: &str, reason: &str) -> String {
    format!("cameo_calls_total{{method=\"ProfileService/{method}\",code=\"{code}\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn the_counters_agree_with_a_scripted_load() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    server.metrics().await.assert(&[
        ("cameo_commands_total{outcome=\"written\"}", 0.0),
        ("cameo_events_committed_total", 0.0),
        ("cameo_workspaces", 0.0),
    ]);

    scripted_load(&client).await;

    let metrics = server.metrics().await;
    let events = 24.0; // 20 creations, an update, a deletion, and two records of the import.
    metrics.assert(&[
        ("cameo_commands_total{outcome=\"written\"}", 24.0),
        ("cameo_commands_total{outcome=\"unchanged\"}", 2.0),
        ("cameo_commands_total{outcome=\"refused\"}", 4.0), // Two creations, a deletion, and a record of the import.
        ("cameo_commands_total{outcome=\"overloaded\"}", 0.0),
        ("cameo_commands_total{outcome=\"failed\"}", 0.0),
        ("cameo_batch_commands_sum", 30.0),
        ("cameo_events_committed_total", events),
        ("cameo_log_head_sequence{workspace=\"acme/main/web\"}", events),
        ("cameo_log_oldest_sequence{workspace=\"acme/main/web\"}", 1.0),
        ("cameo_workspaces", 1.0),
        ("cameo_queue_commands{lane=\"call\"}", 0.0),
        ("cameo_queue_bytes{lane=\"call\"}", 0.0),
        ("cameo_queue_commands{lane=\"import\"}", 0.0),
        ("cameo_reads_in_flight", 0.0),
        ("cameo_store_failed", 0.0),
        ("cameo_damaged_records", 0.0),
        (&calls("CreateProfile", "OK", ""), 20.0),
        (&calls("CreateProfile", "ALREADY_EXISTS", "PROFILE_EXISTS"), 2.0),
        (&calls("UpdateProfile", "OK", ""), 3.0),
        (&calls("DeleteProfile", "OK", ""), 1.0),
        (&calls("DeleteProfile", "NOT_FOUND", "PROFILE_NOT_FOUND"), 1.0),
        (&calls("ImportProfiles", "OK", ""), 1.0),
        (&calls("GetProfile", "OK", ""), 3.0),
        (&calls("GetProfile", "NOT_FOUND", "PROFILE_NOT_FOUND"), 1.0),
        ("cameo_call_duration_seconds_count{method=\"ProfileService/GetProfile\"}", 4.0),
        ("cameo_calls_in_flight{method=\"ProfileService/GetProfile\"}", 0.0),
        ("cameo_connections", 1.0),
        ("cameo_request_budget_bytes", 0.0),
    ]);
    // A batch has a caller's write, or as many records of the import as had arrived. Those that changed nothing were
    // not committed.
    let (batches, commits) =
        (metrics.value("cameo_batch_commands_count"), metrics.value("cameo_commit_duration_seconds_count"));
    assert!((28.0..=30.0).contains(&batches), "{batches}");
    assert!((23.0..=24.0).contains(&commits), "{commits}");
    assert!(metrics.value("cameo_commit_duration_seconds_sum") > 0.0);
    let file = std::fs::metadata(store_file(server.dir.path())).unwrap().len();
    #[allow(clippy::cast_precision_loss)]
    metrics.assert(&[("cameo_store_file_bytes", file as f64)]);
    assert!(metrics.value("cameo_disk_free_bytes") > metrics.value("cameo_disk_required_free_bytes"));
}

#[tokio::test]
async fn requests_over_http_count_with_their_status_and_reason() {
    let server = TestServer::start_with(metrics_on).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    for (target, times) in [(format!("{WORKSPACE}/{ADA}"), 3), (format!("{WORKSPACE}/{UNKNOWN_MPID}"), 2)] {
        for _ in 0..times {
            http(server.addr, "GET", &target, &[], "").await;
        }
    }
    let lookups = "cameo_calls_total{method=\"/userprofile/v1/{org}/{account}/{workspace}/{mpid}\"";
    server.metrics().await.assert(&[
        (&format!("{lookups},code=\"200\",reason=\"\"}}"), 3.0),
        (&format!("{lookups},code=\"404\",reason=\"PROFILE_NOT_FOUND\"}}"), 2.0),
    ]);
}

#[tokio::test]
async fn refused_writes_are_counted_by_what_was_in_the_way() {
    let server = TestServer::start_with(|config| {
        metrics_on(config);
        full_disk(config);
    })
    .await;
    server.client().await.create(with_mpid(ADA)).await.unwrap_err();
    server.metrics().await.assert(&[
        ("cameo_commands_total{outcome=\"disk_full\"}", 1.0),
        ("cameo_commands_total{outcome=\"written\"}", 0.0),
    ]);
    server.stop().await;

    let server = TestServer::start_with(|config| {
        metrics_on(config);
        queue_of_one(config);
    })
    .await;
    let client = server.client().await;
    let (mut written, mut overloaded) = (0.0, 0.0);
    within(async {
        while overloaded == 0.0 {
            for result in join_all((1..=50).map(|_| client.create(Profile::default()))).await {
                *if result.is_ok() { &mut written } else { &mut overloaded } += 1.0;
            }
        }
    })
    .await;
    server.metrics().await.assert(&[
        ("cameo_commands_total{outcome=\"written\"}", written),
        ("cameo_commands_total{outcome=\"overloaded\"}", overloaded),
        ("cameo_queue_limit_commands{lane=\"call\"}", 1.0),
    ]);
}

#[tokio::test]
async fn lookups_are_served_from_the_cache_once_it_has_the_pages() {
    let server = TestServer::start_with(|config| {
        metrics_on(config);
        config.store.scrub_rate = 0;
    })
    .await;
    let client = server.client().await;
    for mpid in 1..=READ_ONLY_PROFILES {
        client.create(padded(mpid)).await.unwrap(); // So large that each has a page of its own, below the root.
    }
    client.get(1).await.unwrap();
    let (hits, misses) = ("cameo_cache_hits_total", "cameo_cache_misses_total");
    let first = server.metrics().await;
    let before = server.metrics().await;
    let of_a_scrape = before.value(hits) - first.value(hits); // A scrape reads the ends of the logs.
    client.get(1).await.unwrap();
    let after = server.metrics().await;
    assert!(after.value(hits) > before.value(hits) + of_a_scrape, "the lookup read a page from the cache");
    after.assert(&[(misses, before.value(misses))]);
    assert!(after.value("cameo_cache_bytes") > 0.0);
}

/// A stream that was read to the head has no lag. One that is not read lies behind, by no more than the log.
#[tokio::test]
async fn subscribers_and_their_lag_show_by_workspace() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    let mut reader = server.client().await.listen().await;
    let stuck = server.client().await.listen().await; // Never read from again.
    let streams = "cameo_subscribers{workspace=\"acme/main/web\"}";
    let lag_max = "cameo_subscriber_lag_max_events{workspace=\"acme/main/web\"}";
    let lag_sum = "cameo_subscriber_lag_sum_events{workspace=\"acme/main/web\"}";
    server.metrics().await.assert(&[(streams, 2.0), (lag_max, 0.0), (lag_sum, 0.0)]);

    for mpid in 1..=STALLED_EVENTS {
        client.create(padded(mpid)).await.unwrap();
        reader.event().await;
    }
    let metrics = server.metrics().await;
    let lag = metrics.value(lag_max);
    let all = f64::from(u32::try_from(STALLED_EVENTS).unwrap());
    assert!(lag > 0.0 && lag < all, "{lag}: some fit into the windows of its connection");
    metrics.assert(&[(lag_sum, lag), (streams, 2.0), ("cameo_streams", 2.0), ("cameo_streams_opened_total", 2.0)]);
    metrics.assert(&[("cameo_stream_events_sent_total", all + all - lag)]);
    assert!(metrics.value("cameo_ring_bytes") > 0.0, "recent events are kept for them");
    assert!(metrics.value("cameo_stream_loads_total{source=\"ring\"}") >= all);

    drop((stuck, reader));
    gone(&server).await;
    let metrics = server.metrics().await;
    metrics.assert(&[("cameo_streams_ended_total{reason=\"client\"}", 2.0), ("cameo_ring_bytes", 0.0)]);
    assert_eq!(metrics.family("cameo_subscribers"), BTreeMap::new());
}

/// Waits until the server knows that its streams have ended.
async fn gone(server: &TestServer) {
    within(async { while server.metrics().await.value("cameo_streams") > 0.0 {} }).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_counted_by_its_reason() {
    let (server, mut stalled) = TestServer::with_stalled_subscriber_and(metrics_on).await;
    stalled.failure().await;
    let client = server.client().await;
    let caught_up = SubscribeRequest { start: earliest(), until_caught_up: true, ..subscribe_request() };
    let mut stream = client.subscribe(caught_up).await.unwrap();
    stream.catch_up().await;
    assert_eq!(stream.next().await.unwrap(), None);
    gone(&server).await;
    server.metrics().await.assert(&[
        ("cameo_streams_ended_total{reason=\"stalled\"}", 1.0),
        ("cameo_streams_ended_total{reason=\"caught_up\"}", 1.0),
        ("cameo_streams_ended_total{reason=\"client\"}", 0.0),
        ("cameo_streams_opened_total", 2.0),
    ]);
}

#[tokio::test]
async fn a_stream_that_the_server_ends_is_counted_with_what_it_was_sent() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    for _ in 0..3 {
        client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap();
    }
    let subscription = Some(Subscription { name: "crm".into(), ..Default::default() });
    let request = CreateSubscriptionRequest { workspace: WORKSPACE.into(), subscription, ..Default::default() };
    client.events.clone().create_subscription(request).await.unwrap();
    let read = || client.subscribe_from(Some(subscribe_request::Start::Subscription("crm".into())));
    let (mut older, _newer) = (read().await, read().await);
    assert_eq!(reason(&older.failure().await), "SUBSCRIPTION_TAKEN_OVER");
    assert_eq!(client.subscribe_from(earliest()).await.sequences(3).await, [1, 2, 3], "which are one run");
    server.metrics().await.assert(&[
        ("cameo_streams_ended_total{reason=\"taken_over\"}", 1.0),
        ("cameo_streams_ended_total{reason=\"caught_up\"}", 0.0),
        ("cameo_stream_events_sent_total", 3.0),
    ]);

    let aging = |config: &mut Config| {
        metrics_on(config);
        config.feed.max_stream_age = Duration::from_millis(50);
    };
    let server = TestServer::start_with(aging).await;
    let mut stream = server.client().await.subscribe_from(None).await;
    assert_eq!(reason(&stream.failure().await), "STREAM_TOO_OLD");
    server.metrics().await.assert(&[("cameo_streams_ended_total{reason=\"too_old\"}", 1.0)]);
}

/// A workspace with a subscriber is always among them. Its name is the last.
#[tokio::test]
async fn no_more_than_a_thousand_workspaces_are_labels() {
    const MORE: usize = 5;
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    let names = (0..WORKSPACES + MORE - 1).map(|n| format!("acme/main/{n:04}")).chain(["zoo/main/last".to_owned()]);
    let create = |workspace| client.create_with(CreateProfileRequest { workspace, ..create_request() });
    let names: Vec<_> = names.collect();
    for names in names.chunks(100) {
        join_all(names.iter().cloned().map(create)).await.into_iter().for_each(|created| drop(created.unwrap()));
    }
    let heads = server.metrics().await;
    let heads = heads.family("cameo_log_head_sequence");
    assert_eq!(heads.len(), WORKSPACES);
    assert!(!heads.contains_key("cameo_log_head_sequence{workspace=\"zoo/main/last\"}"));

    let last = SubscribeRequest { workspace: "zoo/main/last".into(), ..subscribe_request() };
    let mut stream = client.subscribe(last).await.unwrap();
    stream.opened().await;

    let metrics = server.metrics().await;
    let heads = metrics.family("cameo_log_head_sequence");
    assert_eq!(heads.len(), WORKSPACES);
    assert_eq!(heads.get("cameo_log_head_sequence{workspace=\"zoo/main/last\"}"), Some(&1.0));
    let all = u32::try_from(WORKSPACES + MORE).unwrap();
    metrics.assert(&[("cameo_workspaces", f64::from(all))]);
    assert_eq!(metrics.family("cameo_subscribers").len(), 1);
}

/// The table of `docs/operations.md`: the type of each metric, by its name. Every row has a meaning and an alert.
fn documented() -> BTreeMap<String, String> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `cameo_"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, meaning, alert] = cells[..] else { panic!("four cells: {line}") };
        assert!(!meaning.is_empty() && !alert.is_empty(), "{line}");
        (name.split(['`', '{']).nth(1).unwrap().to_owned(), kind.to_owned())
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_document_lists_every_metric_with_its_type() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    let _stream = client.listen().await;
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(documented(), server.metrics().await.types);
}

/// By the rules of Prometheus, as far as a program can check them. `.ci/metrics` runs Prometheus' own check.
#[tokio::test]
async fn names_and_labels_follow_the_rules() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    let _stream = client.listen().await;
    scripted_load(&client).await;
    let metrics = server.metrics().await;
    for (name, kind) in &metrics.types {
        assert!(name.starts_with("cameo_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        for series in metrics.family(name).keys() {
            let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let known = ["method", "code", "reason", "outcome", "lane", "source", "what", "workspace", "version"];
                assert!(known.contains(&label.split('=').next().unwrap()), "{series}");
            }
        }
    }
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_asks_for() {
    let server = TestServer::start_with(metrics_on).await;
    let addr = server.metrics_addr.unwrap();
    let plain = ops(addr, "GET", "/metrics", &[]).await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let open = ops(addr, "GET", "/metrics", &[("accept", accept)]).await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = String::from_utf8(open.body.into()).unwrap();
    assert!(open.ends_with("# EOF\n") && open.matches("# EOF").count() == 1, "{open}");
    assert!(open.contains("# TYPE cameo_events_committed counter\n"), "{open}");
}

async fn status_and_body(addr: SocketAddr, path: &str) -> (u16, String) {
    let response = ops(addr, "GET", path, &[]).await;
    (response.status, String::from_utf8(response.body.into()).unwrap())
}

#[tokio::test]
async fn a_server_on_a_full_disk_is_alive_and_not_ready() {
    let server = TestServer::start_with(metrics_on).await;
    let addr = server.metrics_addr.unwrap();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status_and_body(addr, path).await, (200, "ok\n".to_owned()));
    }
    let full = TestServer::start_with(|config| {
        metrics_on(config);
        full_disk(config);
    })
    .await;
    let addr = full.metrics_addr.unwrap();
    assert_eq!(status_and_body(addr, "/healthz").await, (200, "ok\n".to_owned()));
    let (status, body) = status_and_body(addr, "/readyz").await;
    assert!(status == 503 && body.starts_with("writes are refused: the disk has "), "{status} {body}");
}

#[tokio::test]
async fn operators_have_three_paths_to_read() {
    let server = TestServer::start_with(metrics_on).await;
    let addr = server.metrics_addr.unwrap();
    for path in ["/metrics", "/healthz", "/readyz"] {
        let head = ops(addr, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(ops(addr, method, path, &[]).await.status, 405, "{method} {path}");
        }
    }
    assert_eq!(ops(addr, "GET", "/", &[]).await.status, 404);
    let api = format!("/userprofile/v1/{WORKSPACE}/{ADA}");
    assert_eq!(ops(addr, "GET", &api, &[]).await.status, 404, "the API is elsewhere");
    assert_eq!(ops(server.addr, "GET", "/metrics", &[]).await.status, 404, "and so are the metrics");
    let foreign = ops(addr, "GET", "/metrics", &[("host", "evil.example")]).await;
    assert_eq!((foreign.status, &foreign.json()["reason"]), (403, &"PERMISSION_DENIED".into()));
}

/// They are far more than there are places, and new ones come all the time.
#[tokio::test]
async fn connections_that_say_nothing_do_not_shut_operators_out() {
    const CONNECTIONS: usize = 600;
    let server = TestServer::start_with(metrics_on).await;
    let addr = server.metrics_addr.unwrap();
    let silent = join_all((0..CONNECTIONS).map(|_| TcpStream::connect(addr))).await;
    assert!(silent.iter().all(Result::is_ok));
    let more = tokio::spawn(async move {
        let mut more = Vec::new();
        loop {
            more.push(TcpStream::connect(addr).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(within(status_and_body(addr, "/healthz")).await.0, 200);
    assert_eq!(within(ops(addr, "GET", "/metrics", &[])).await.status, 200);
    more.abort();
}

async fn connect_from(peer: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((peer, 0).into()).unwrap();
    socket.connect(addr).await.unwrap()
}

/// The flood takes all the places again and again while the request arrives piece by piece.
#[tokio::test]
async fn a_flood_from_one_address_closes_no_connection_of_another() {
    let server = TestServer::start_with(metrics_on).await;
    let addr = server.metrics_addr.unwrap();
    let flood = tokio::spawn(async move {
        let mut flood = Vec::new();
        loop {
            flood.push(connect_from([127, 0, 0, 2], addr).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..2 {
        let mut scraper = connect_from([127, 0, 0, 1], addr).await;
        for piece in ["GET /healthz ", "HTTP/1.1\r\n", "host: local", "host\r\n", "\r\n"] {
            scraper.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let mut response = String::new();
        within(scraper.read_to_string(&mut response)).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    }
    assert!(!flood.is_finished(), "it went on all the time");
    flood.abort();
}

/// What a server says that does not start with this address for operators.
async fn refusal_of(addr: &str) -> String {
    let dir = TempDir::new().unwrap();
    let mut command = binary();
    command.args(["--addr", "127.0.0.1:0", "--metrics-addr", addr, "--data-dir"]).arg(dir.path());
    let refused = output(&mut command).await;
    assert!(!refused.status.success());
    String::from_utf8(refused.stderr).unwrap()
}

#[tokio::test]
async fn an_address_for_metrics_that_cannot_be_used_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let refusal = refusal_of(&addr).await;
    assert!(refusal.contains(&addr) && refusal.contains("--metrics-addr off"), "{refusal}");
    let refusal = refusal_of("0.0.0.0:0").await;
    assert!(refusal.contains("--metrics-addr 0.0.0.0:0") && refusal.contains("--insecure"), "{refusal}");
    let refusal = refusal_of("somewhere").await;
    assert!(refusal.contains("--metrics-addr"), "{refusal}");
}

/// A subscriber that takes nothing keeps the drain open, so that it can be seen.
#[tokio::test]
async fn a_server_that_drains_is_alive_and_not_ready() {
    let dir = TempDir::new().unwrap();
    let mut command = binary();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags = ["--drain-timeout", "3600", "--metrics-addr", &port.to_string()];
    let mut process = TestProcess::start_as(&mut command, dir.path(), &flags).await;
    let client = process.client().await;
    let stuck = client.listen().await; // Never read from again.
    for mpid in 1..=STUCK_EVENTS {
        client.create(padded(mpid)).await.unwrap();
    }
    assert_eq!(status_and_body(port, "/readyz").await.0, 200);

    process.terminate();

    within(async { while status_and_body(port, "/readyz").await.0 == 200 {} }).await;
    let not_ready = (503, "the server is shutting down\n".to_owned());
    assert_eq!(status_and_body(port, "/readyz").await, not_ready);
    assert_eq!(status_and_body(port, "/healthz").await.0, 200);
    drop(stuck);
    process.kill().await;
}

/// So many events of 60 kB do not fit into the windows of a connection.
const STUCK_EVENTS: i64 = 199;
