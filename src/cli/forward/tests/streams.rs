//! Streams that break, and those that another forwarder takes over.

use super::*;

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_nothing_is_delivered_twice() {
    let (url, got) = receiver(|_, _| status(200)).await;
    let fake = Fake { slow: Duration::from_millis(300), ..Fake::of(&[7; 40]) };
    let stalled = Status::with_error_details(
        tonic::Code::ResourceExhausted,
        "",
        ErrorDetails::with_error_info("SUBSCRIBER_STALLED", "", []),
    );
    *fake.breaks.lock().unwrap() =
        vec![(3, Status::unavailable("")), (5, Status::aborted("")), (4, Status::cancelled("")), (9, stalled)];
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error), (40, None));
    assert_eq!(sequences(&got), (1..=40).collect::<Vec<_>>());
    assert_eq!(*fake.streams.lock().unwrap(), 5);
}

/// The server refuses what was sent on the earlier stream. That is not another forwarder.
#[tokio::test]
async fn an_acknowledgement_that_its_own_new_stream_overtakes_does_not_stop_it() {
    let (url, got) = receiver(|_, _| status(200)).await;
    let (slow, opening) = (Duration::from_millis(300), Duration::from_millis(600));
    let fake = Fake { slow, opening, ..Fake::of(&[7; 5]) };
    *fake.breaks.lock().unwrap() = vec![(3, Status::unavailable(""))];
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error, sequences(&got)), (5, None, vec![1, 2, 3, 4, 5]));
    assert_eq!(fake.refused.load(Relaxed), 1, "nothing is acknowledged until the next stream is open");
}

#[tokio::test]
async fn a_stream_that_breaks_while_there_is_no_room_is_opened_again() {
    let fake = Arc::new(Fake::of(&[7; 1_030]));
    *fake.breaks.lock().unwrap() = vec![(1_024, Status::unavailable(""))];
    let of = fake.clone();
    let (url, got) = receiver(move |_, _| status(if *of.streams.lock().unwrap() == 1 { 503 } else { 200 })).await;
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert_eq!((summary.delivered, error, fake.place()), (1_030, None, 1_030));
    assert_eq!(*fake.streams.lock().unwrap(), 2);
    let mut got = sequences(&got);
    got.dedup(); // The first was tried again and again.
    assert_eq!(got, (1..=1_030).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_newer_stream_stops_it() {
    let (url, _) = receiver(|_, _| status(200)).await;
    let fake = Fake { last: u64::MAX, ..Fake::of(&[7; 3]) };
    *fake.breaks.lock().unwrap() = vec![(3, taken_over())];
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert!(error.unwrap().starts_with("another forwarder took over"));
    assert_eq!(fake.place(), summary.delivered, "what was delivered is acknowledged");
}

/// Another forwarder took over while this one has no room and tries one event for ever.
#[tokio::test]
async fn a_newer_stream_stops_one_that_is_stuck() {
    let (url, got) = receiver(|_, _| status(500)).await;
    let fake = Fake::of(&[7; 2_000]);
    *fake.breaks.lock().unwrap() = vec![(1_025, taken_over())];
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    assert!(error.unwrap().starts_with("another forwarder took over"));
    assert_eq!((summary.delivered, fake.place()), (0, 0));
    let posted = got.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(got.lock().unwrap().len(), posted, "it no longer posts");
}

/// The same, but events that there is no room for come before the end of the stream.
#[tokio::test]
async fn one_that_is_stuck_asks_whether_a_newer_stream_took_over() {
    let (url, _) = receiver(|_, _| status(500)).await;
    let fake = Fake::of(&[7; 2_000]);
    let another = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        *fake.streams.lock().unwrap() += 1;
    };
    let ((summary, error), ()) = tokio::join!(forward(&fake, &url, Setup::default()), another);
    assert!(error.unwrap().starts_with("another forwarder took over"));
    assert_eq!((summary.delivered, fake.place()), (0, 0));
}

/// A server with five events, whose third and fourth are damaged.
fn damaged() -> Fake {
    let fake = Fake::of(&[7; 5]);
    let past = [("cursor".to_owned(), "4".to_owned())];
    let details = ErrorDetails::with_error_info("RECORD_CORRUPT", "cameo", past);
    *fake.breaks.lock().unwrap() = vec![(2, Status::with_error_details(tonic::Code::DataLoss, "", details))];
    fake
}

/// What comes before the damage is delivered first, also if the receiver takes a while.
#[tokio::test]
async fn one_that_skips_goes_on_past_damage() {
    let (url, got) = receiver(|_, number| status(if number < 3 { 503 } else { 200 })).await;
    let fake = damaged();
    let (summary, error) = forward(&fake, &url, Setup { attempts: Some(3), ..Setup::default() }).await;
    assert_eq!((summary.delivered, summary.skipped, error), (3, 0, None));
    let mut got = sequences(&got);
    got.dedup();
    assert_eq!(got, [1, 2, 5]);
    let acknowledged = fake.acknowledged.lock().unwrap();
    let passed = acknowledged.iter().find(|one| one.cursor == "4").expect("the damage is passed");
    assert_eq!(passed.stream, 1, "before another stream is open");
}

#[tokio::test]
async fn one_that_does_not_skip_ends_at_damage_and_says_how_to_go_on() {
    let (url, _) = receiver(|_, _| status(200)).await;
    let fake = damaged();
    let (summary, error) = forward(&fake, &url, Setup::default()).await;
    let error = error.unwrap();
    assert!(error.contains("the cursor behind them is `4`") && error.contains("docs/forward.md"), "{error}");
    assert_eq!(fake.place(), summary.delivered, "what was delivered is acknowledged, and the damage is not");
}
