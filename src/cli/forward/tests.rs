//! The forwarder between a server that is two functions and a receiver that is a real HTTP server.

mod streams;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use super::deliver::{self, Receiver};
use super::event::{CloudEvents, Mode};
use super::lanes::{Lanes, Summary};
use super::ledger::Acknowledgement;
use super::retry::Policy;
use super::sign::{self, Secrets};
use super::stream;
use crate::config::TraceConfig;
use crate::proto::v1::subscribe_response::Message;
use crate::proto::v1::{Event, Heartbeat, Opened, Profile, SubscribeResponse};
use crate::telemetry::metrics::SpanMetrics;
use crate::telemetry::traces::Traces;

/// What the receiver got.
#[derive(Debug, Clone)]
struct Got {
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn sequence(&self) -> u64 {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["sequence"].as_str().unwrap().parse().unwrap()
    }
}

type Answer = Response<Full<Bytes>>;

fn status(code: u16) -> Answer {
    Response::builder().status(code).body(Full::from("personal data")).unwrap()
}

fn after(code: u16, seconds: &str) -> Answer {
    Response::builder().status(code).header("retry-after", seconds).body(Full::default()).unwrap()
}

/// A receiver. `answer` gets each request with its number among those with the same id, from 1.
async fn receiver(answer: impl Fn(&Got, usize) -> Answer + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<Got>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events?of=cameo", listener.local_addr().unwrap());
    let (got, answer) = (Arc::new(Mutex::new(Vec::<Got>::new())), Arc::new(answer));
    let all = got.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (got, answer) = (got.clone(), answer.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (got, answer) = (got.clone(), answer.clone());
                async move {
                    assert_eq!(
                        (request.method().as_str(), request.uri().to_string()),
                        ("POST", "/events?of=cameo".into())
                    );
                    let (head, body) = request.into_parts();
                    let one = Got { headers: head.headers, body: body.collect().await.unwrap().to_bytes() };
                    let mut all = got.lock().unwrap();
                    all.push(one.clone());
                    let id = &one.headers["webhook-id"];
                    let number = all.iter().filter(|other| other.headers["webhook-id"] == id).count();
                    drop(all);
                    Ok::<_, Infallible>(answer(&one, number))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (url, all)
}

/// A server with one subscription.
#[derive(Default)]
struct Fake {
    /// The mpid of each event.
    mpids: Vec<i64>,
    /// Each stream ends with this after so many events. The last stream stays open.
    breaks: Mutex<Vec<(usize, Status)>>,
    acknowledged: Mutex<Vec<Acknowledgement>>,
    streams: Mutex<u64>,
    /// The forwarder is told to end when this is acknowledged.
    last: u64,
    ending: CancellationToken,
    snapshot: Option<Profile>,
    /// How long an acknowledgement takes.
    slow: Duration,
    /// How long a stream that is open takes to say so.
    opening: Duration,
    /// Whether no more events may be skipped.
    is_full: bool,
    /// How many acknowledgements were refused.
    refused: AtomicUsize,
    acknowledging: AtomicUsize,
    /// How many messages were taken from the streams.
    taken: Arc<AtomicUsize>,
    /// How large each event is.
    padding: usize,
}

#[allow(clippy::unnecessary_wraps)] // What a stream yields.
fn message(sequence: u64, message: Message) -> Result<SubscribeResponse, Status> {
    Ok(SubscribeResponse { cursor: sequence.to_string(), message: Some(message) })
}

impl Fake {
    fn of(mpids: &[i64]) -> Self {
        Self { mpids: mpids.to_vec(), last: mpids.len() as u64, ..Self::default() }
    }

    fn place(&self) -> u64 {
        let all = self.acknowledged.lock().unwrap();
        all.iter().map(|one| one.cursor.parse().unwrap()).max().unwrap_or(0)
    }

    fn skipped(&self) -> Vec<(u64, String)> {
        let all = self.acknowledged.lock().unwrap();
        all.iter().flat_map(|one| &one.skipped).map(|skip| (skip.sequence, skip.reason.clone())).collect()
    }

    fn subscribe(&self) -> impl Stream<Item = Result<SubscribeResponse, Status>> + use<> {
        let mut streams = self.streams.lock().unwrap();
        *streams += 1;
        let after = self.place();
        let opened =
            Opened { after_sequence: after, stream: *streams, snapshot: self.snapshot.is_some(), ..Default::default() };
        let mut sent = vec![message(after, Message::Opened(opened))];
        sent.extend(self.snapshot.clone().map(|profile| message(0, Message::SnapshotProfile(profile))));
        let actor = "x".repeat(self.padding);
        let event = |sequence: u64, mpid| {
            let (id, actor) = (format!("e{sequence}"), actor.clone());
            Event { id, sequence, mpid, actor, ..Default::default() }
        };
        let events = self.mpids.iter().zip(1_u64..).filter(|(_, sequence)| *sequence > after);
        let events = events.map(|(mpid, sequence)| message(sequence, Message::Event(event(sequence, *mpid))));
        let mut breaks = self.breaks.lock().unwrap();
        let ended = if breaks.is_empty() { None } else { Some(breaks.remove(0)) };
        sent.extend(events.take(ended.as_ref().map_or(usize::MAX, |(count, _)| *count)));
        match ended {
            Some((_, status)) => sent.push(Err(status)),
            None => sent.push(message(self.last, Message::Heartbeat(Heartbeat::default()))),
        }
        let taken = self.taken.clone();
        let sent = futures_util::stream::iter(sent).inspect(move |_| _ = taken.fetch_add(1, Relaxed));
        sent.chain(futures_util::stream::pending())
    }

    async fn acknowledge(&self, one: Acknowledgement) -> Result<(), Status> {
        assert_eq!(self.acknowledging.fetch_add(1, Relaxed), 0, "one is on its way at a time");
        tokio::time::sleep(self.slow).await;
        self.acknowledging.fetch_sub(1, Relaxed);
        if one.stream != *self.streams.lock().unwrap() {
            self.refused.fetch_add(1, Relaxed);
            return Err(taken_over());
        }
        if self.is_full && !one.skipped.is_empty() {
            let details = ErrorDetails::with_error_info("LIMIT_EXCEEDED", "cameo", []);
            return Err(Status::with_error_details(tonic::Code::InvalidArgument, "", details));
        }
        self.acknowledged.lock().unwrap().push(one);
        if self.place() >= self.last {
            self.ending.cancel();
        }
        Ok(())
    }
}

fn taken_over() -> Status {
    let details = ErrorDetails::with_error_info("SUBSCRIPTION_TAKEN_OVER", "cameo", []);
    Status::with_error_details(tonic::Code::Aborted, "", details)
}

struct Setup {
    secrets: Secrets,
    mode: Mode,
    attempts: Option<u32>,
    concurrency: usize,
    timeout: Duration,
    traces: Traces,
}

impl Default for Setup {
    fn default() -> Self {
        let (secrets, timeout) = (Secrets::none(), Duration::from_secs(20));
        Self { secrets, mode: Mode::Structured, attempts: None, concurrency: 1, timeout, traces: Traces::default() }
    }
}

/// Runs a forwarder until it ends.
async fn forward(fake: &Fake, url: &str, setup: Setup) -> (Summary, Option<String>) {
    let (min, max) = (Duration::from_millis(1), Duration::from_millis(20));
    let lanes = Lanes {
        receiver: Arc::new(
            Receiver::new(deliver::url(url).unwrap(), setup.secrets, setup.timeout, setup.traces).unwrap(),
        ),
        cloud_events: CloudEvents { workspace: "acme/main/web".into(), mode: setup.mode },
        policy: Policy { min, max, attempts: setup.attempts },
        concurrency: setup.concurrency,
    };
    let (sender, news) = mpsc::unbounded_channel();
    let subscribe = async || {
        let stream = fake.subscribe();
        tokio::time::sleep(fake.opening).await;
        Ok(stream)
    };
    let follow = stream::follow(subscribe, sender, setup.attempts.is_some());
    let run = lanes.run(news, |one| fake.acknowledge(one), &fake.ending);
    let both = async { tokio::join!(follow, run) };
    let (followed, (summary, ended)) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it ends");
    (summary, followed.and(ended).err().map(|error| format!("{error:#}")))
}

fn sequences(got: &Mutex<Vec<Got>>) -> Vec<u64> {
    got.lock().unwrap().iter().map(Got::sequence).collect()
}

#[tokio::test]
async fn both_modes_are_verified_by_the_reference() {
    for mode in [Mode::Structured, Mode::Binary] {
        let (url, got) = receiver(|_, number| status(if number == 1 { 500 } else { 204 })).await;
        let (fake, secret) = (Fake::of(&[7, 8]), sign::fresh());
        let setup = Setup { secrets: Secrets::one(&secret).unwrap(), mode, ..Setup::default() };
        let (summary, error) = forward(&fake, &url, setup).await;
        assert_eq!((summary.delivered, summary.failed_attempts, error), (2, 2, None));
        let got = got.lock().unwrap();
        let ids: Vec<_> = got.iter().map(|one| one.headers["webhook-id"].to_str().unwrap()).collect();
        assert_eq!(ids, ["e1", "e1", "e2", "e2"], "a retry has the id of its event");
        for Got { headers, body } in &*got {
            Webhook::new(&secret).unwrap().verify(body, headers).unwrap();
            assert!(Webhook::new(&sign::fresh()).unwrap().verify(body, headers).is_err());
            assert_eq!(headers.contains_key("ce-id"), mode == Mode::Binary);
        }
    }
}

/// Each attempt has a span of its own in the trace of its delivery, which the receiver is told.
#[tokio::test]
async fn the_receiver_gets_the_trace_of_a_delivery() {
    for (trace_sample, flags) in [(0.0, "00"), (1.0, "01")] {
        let (url, got) = receiver(|_, number| status(if number == 1 { 500 } else { 204 })).await;
        let nowhere = Some("http://127.0.0.1:1".parse().unwrap());
        let config = TraceConfig { otlp_endpoint: nowhere, trace_sample };
        let traces = Traces::begin(&config, "test", &SpanMetrics::default()).unwrap();
        let (summary, error) = forward(&Fake::of(&[7, 8]), &url, Setup { traces, ..Setup::default() }).await;
        assert_eq!((summary.delivered, summary.failed_attempts, error), (2, 2, None));
        let got = got.lock().unwrap();
        let fields = |one: &Got| -> Vec<String> {
            one.headers["traceparent"].to_str().unwrap().split('-').map(str::to_owned).collect()
        };
        let [first, again, other, _] = [0, 1, 2, 3].map(|at| fields(&got[at]));
        assert_eq!((&*first[0], &*first[3]), ("00", flags));
        assert!(first[1] == again[1] && first[2] != again[2], "one trace, two spans: {first:?} {again:?}");
        assert_ne!(first[1], other[1], "another event is another trace");
    }
}

#[tokio::test]
async fn without_a_collector_the_receiver_gets_no_trace() {
    let (url, got) = receiver(|_, _| status(204)).await;
    forward(&Fake::of(&[7]), &url, Setup::default()).await;
    assert!(!got.lock().unwrap()[0].headers.contains_key("traceparent"));
}

#[tokio::test]
async fn secrets_rotate_while_it_runs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (old, new) = (sign::fresh(), sign::fresh());
    std::fs::write(&file, &old).unwrap();
    let (path, both) = (file.path().to_owned(), format!("{new}\n{old}\n"));
    let (url, got) = receiver(move |_, _| {
        std::fs::write(&path, &both).unwrap();
        status(200)
    })
    .await;
    let secrets = Secrets::of_file(file.path().to_owned()).unwrap();
    forward(&Fake::of(&[7, 7]), &url, Setup { secrets, ..Setup::default() }).await;
    let verified = |one: &Got, secret| Webhook::new(secret).unwrap().verify(&one.body, &one.headers).is_ok();
    let got = got.lock().unwrap();
    assert_eq!(
        got.iter().map(|one| (verified(one, &old), verified(one, &new))).collect::<Vec<_>>(),
        [(true, false), (true, true)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // The receiver sleeps.
async fn a_redirect_and_silence_are_failures() {
    let (url, got) = receiver(|_, number| match number {
        1 => Response::builder().status(307).header("location", "/elsewhere").body(Full::default()).unwrap(),
        2 => {
            std::thread::sleep(Duration::from_millis(600));
            status(200)
        }
        _ => status(200),
    })
    .await;
    let setup = Setup { timeout: Duration::from_millis(200), attempts: Some(1), ..Setup::default() };
    let fake = Fake::of(&[7]);
    forward(&fake, &url, setup).await;
    assert_eq!(fake.skipped(), [(1, "HTTP 307 after 1 attempts".to_owned())]);
    let setup = Setup { timeout: Duration::from_millis(200), attempts: Some(1), ..Setup::default() };
    let fake = Fake::of(&[7]);
    forward(&fake, &url, setup).await;
    assert_eq!(fake.skipped(), [(1, "no response within 200ms after 1 attempts".to_owned())]);
    assert_eq!(got.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn retry_after_delays_the_next_attempt() {
    let (url, got) = receiver(|_, number| if number == 1 { after(503, "1") } else { status(200) }).await;
    let started = std::time::Instant::now();
    forward(&Fake::of(&[7]), &url, Setup::default()).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(got.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn gone_stops_it_and_leaves_the_event() {
    let (url, got) = receiver(|one, _| status(if one.sequence() == 2 { 410 } else { 200 })).await;
    let fake = Fake::of(&[7, 7, 7]);
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error.as_deref()), (1, Some("the receiver wants no more events (HTTP 410)")));
    assert_eq!((fake.place(), sequences(&got)), (1, vec![1, 2]));
}

#[tokio::test]
async fn wait_tries_until_it_succeeds_and_skip_gives_up() {
    let answer = |one: &Got, number: usize| status(if one.sequence() == 2 && number < 15 { 500 } else { 200 });
    let (url, got) = receiver(answer).await;
    let fake = Fake::of(&[7, 7, 7]);
    forward(&fake, &url, Setup::default()).await;
    assert_eq!((sequences(&got).len(), fake.skipped(), fake.place()), (17, vec![], 3));

    let (url, got) = receiver(answer).await;
    let fake = Fake::of(&[7, 7, 7]);
    let (summary, error) = forward(&fake, &url, Setup { attempts: Some(10), ..Setup::default() }).await;
    assert_eq!((summary.delivered, summary.skipped, error), (2, 1, None));
    assert_eq!((sequences(&got).len(), fake.place()), (12, 3));
    assert_eq!(fake.skipped(), [(2, "HTTP 500 after 10 attempts".to_owned())]);
}

#[tokio::test]
async fn it_ends_when_no_more_events_may_be_skipped() {
    let (url, _) = receiver(|one, _| status(if one.sequence() == 1 { 200 } else { 500 })).await;
    let fake = Fake { is_full: true, ..Fake::of(&[7, 7, 7]) };
    let (_, error) = forward(&fake, &url, Setup { attempts: Some(1), ..Setup::default() }).await;
    assert!(error.unwrap().starts_with("the list of the subscription's skipped events is full"));
    assert_eq!(fake.place(), 1, "what was not given up is not acknowledged");
}

/// Lanes are served at once, the events of a profile in order, and no acknowledgement is past an unfinished event.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrency_keeps_the_order_of_each_profile() {
    let mpids: Vec<i64> = (0..300).map(|at| 1 + at % 7).collect();
    let of = mpids.clone();
    let (url, got) = receiver(move |one, number| {
        std::thread::sleep(Duration::from_micros(one.sequence() * 7_919 % 3_000));
        let first_of_one = of[usize::try_from(one.sequence()).unwrap() - 1] == 1 && number == 1;
        status(if first_of_one { 500 } else { 200 })
    })
    .await;
    let fake = Fake::of(&mpids);
    let (summary, error) = forward(&fake, &url, Setup { concurrency: 4, ..Setup::default() }).await;
    assert_eq!((summary.delivered, error), (300, None));
    let got = sequences(&got);
    for mpid in 1..=7 {
        let of_one: Vec<_> = got.iter().filter(|at| mpids[usize::try_from(**at).unwrap() - 1] == mpid).collect();
        assert!(of_one.is_sorted(), "{mpid}: {of_one:?}");
    }
    assert!(!got.is_sorted(), "more than one lane delivers");
}

#[tokio::test]
async fn it_finishes_the_request_in_flight_and_another_continues() {
    let fake = Arc::new(Fake::of(&[7, 7, 7]));
    let ending = fake.ending.clone();
    let (url, got) = receiver(move |one, _| {
        if one.sequence() == 2 {
            ending.cancel();
            std::thread::sleep(Duration::from_millis(100));
        }
        status(200)
    })
    .await;
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error, fake.place()), (2, None, 2));
    let again = Fake { acknowledged: Mutex::new(fake.acknowledged.lock().unwrap().clone()), ..Fake::of(&[7, 7, 7]) };
    forward(&again, &url, Setup::default()).await;
    assert_eq!(sequences(&got), [1, 2, 3]);
}

#[tokio::test]
async fn a_snapshot_comes_before_the_events() {
    let (url, got) = receiver(|_, _| status(StatusCode::ACCEPTED.as_u16())).await;
    let profile = Profile { mpid: 7, etag: "x".into(), ..Default::default() };
    forward(&Fake { snapshot: Some(profile), ..Fake::of(&[7]) }, &url, Setup::default()).await;
    let ids: Vec<_> = got.lock().unwrap().iter().map(|one| one.headers["webhook-id"].clone()).collect();
    assert_eq!(ids, ["acme/main/web/0/7", "e1"]);
}

/// A profile whose mpid the `read_mask` leaves out must not arrive after an event of the same profile.
#[tokio::test]
async fn events_wait_for_the_whole_snapshot() {
    let is_profile = |one: &Got| one.headers["webhook-id"].to_str().unwrap().starts_with("acme/");
    let (url, got) = receiver(move |one, number| status(if is_profile(one) && number < 6 { 503 } else { 200 })).await;
    let fake =
        Fake { snapshot: Some(Profile { etag: "x".into(), ..Default::default() }), ..Fake::of(&[1, 2, 3, 4, 5]) };
    let (summary, error) = forward(&fake, &url, Setup { concurrency: 8, ..Setup::default() }).await;
    assert_eq!((summary.delivered, summary.failed_attempts, error), (6, 5, None));
    let got: Vec<_> = got.lock().unwrap().iter().map(is_profile).collect();
    assert_eq!(got, [[true; 6].as_slice(), &[false; 5]].concat());
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_holds_up_the_stream() {
    let (url, _) = receiver(|_, _| after(503, "60")).await;
    let fake = Fake::of(&[7; 2_000]);
    let ending = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fake.ending.cancel();
    };
    let ((summary, error), ()) = tokio::join!(forward(&fake, &url, Setup::default()), ending);
    assert_eq!((summary.delivered, error, fake.place()), (0, None, 0));
    let taken = fake.taken.load(Relaxed);
    assert!((1_000..1_030).contains(&taken), "{taken}");
}

#[tokio::test]
async fn large_events_go_through_the_bound_of_what_waits() {
    let (url, got) = receiver(|_, _| status(200)).await;
    let (summary, error) = forward(&Fake { padding: 4 << 20, ..Fake::of(&[7; 20]) }, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error), (20, None));
    assert_eq!(got.lock().unwrap().len(), 20);
}
