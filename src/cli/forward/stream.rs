//! The stream of the subscription, opened again whenever it breaks.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::Peekable;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::retry::Policy;
use crate::proto::v1::SubscribeResponse;
use crate::proto::v1::subscribe_response::Message;

/// The back-off between streams.
pub const RECONNECT: Policy = Policy { min: Duration::from_millis(200), max: Duration::from_secs(30), attempts: None };
/// The longest wait that the server may ask for.
const MAX_ASKED: Duration = Duration::from_secs(300);
/// A stream that is silent for this many heartbeat intervals is broken.
const SILENT_INTERVALS: u32 = 3;
/// The longest heartbeat interval. It counts until the server has said which is in force.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// What happens to the stream.
#[derive(Debug)]
pub enum News {
    /// The stream sent a message. It sends the next one once the permit is dropped.
    Message(Box<SubscribeResponse>, OwnedSemaphorePermit),
    /// The stream broke and will be opened again. A message that still waits is void: it comes again.
    Broke,
    /// The stream ended before damaged events, and this is the cursor behind them. The next stream is opened once the
    /// permit is dropped.
    Damage(String, OwnedSemaphorePermit),
}

/// Tells what happens to one stream after another. Returns an error if the subscription cannot go on, and OK once the
/// receiver of the news is dropped. With `passes_damage` it goes on behind damaged events.
pub async fn follow<S>(
    mut subscribe: impl AsyncFnMut() -> Result<S, Status>,
    news: mpsc::UnboundedSender<News>, // The permit bounds it.
    passes_damage: bool,
) -> anyhow::Result<()>
where
    S: Stream<Item = Result<SubscribeResponse, Status>>,
{
    let (mut failures, room) = (0, Arc::new(Semaphore::new(1)));
    loop {
        let subscribed = tokio::select! {
            subscribed = subscribe() => subscribed,
            () = news.closed() => return Ok(()),
        };
        let was_open = subscribed.is_ok();
        let broken = match subscribed {
            Ok(stream) => match read(stream, &news, &room, &mut failures).await {
                Some(broken) => broken,
                None => return Ok(()),
            },
            Err(status) => status,
        };
        if let Some(past) = past_damage(&broken).filter(|_| was_open && passes_damage) {
            tracing::error!("damaged events are skipped");
            if !pass(past, &news, &room).await {
                return Ok(());
            }
        } else if let Some(stop) = stop(&broken).filter(|_| !(was_open && may_open_again(&broken))) {
            return Err(stop);
        }
        let _ = news.send(News::Broke); // Whether anyone listens is seen below.
        failures += 1;
        let wait = wait(&broken, failures);
        let (code, reason) = (broken.code(), reason(&broken));
        tracing::warn!(?code, reason, retry_in = ?wait, "the stream broke");
        tokio::select! {
            () = sleep(wait) => {}
            () = news.closed() => return Ok(()),
        }
    }
}

/// Sends the messages of a stream, and returns why the stream ended. `None` if the receiver of the news was dropped.
async fn read<S>(
    stream: S,
    news: &mpsc::UnboundedSender<News>,
    room: &Arc<Semaphore>,
    failures: &mut u32,
) -> Option<Status>
where
    S: Stream<Item = Result<SubscribeResponse, Status>>,
{
    let mut stream = pin!(stream.peekable());
    let mut interval = LONGEST_INTERVAL;
    loop {
        // Room for the message first: while the lanes are full the stream is not read, and is not silent either.
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit.ok()?,
            ended = end(stream.as_mut()) => return Some(ended),
            () = news.closed() => return None,
        };
        let next = tokio::select! {
            next = timeout(interval * SILENT_INTERVALS, stream.next()) => next,
            () = news.closed() => return None,
        };
        let response = match next {
            Ok(Some(Ok(response))) => response,
            Ok(Some(Err(status))) => return Some(status),
            Ok(None) => return Some(ended()),
            Err(_) => return Some(Status::unavailable("the stream is silent")),
        };
        match &response.message {
            Some(Message::Opened(opened)) => {
                let said = opened.heartbeat_interval.and_then(|interval| interval.try_into().ok());
                interval = said.filter(|said: &Duration| !said.is_zero()).unwrap_or(interval).min(LONGEST_INTERVAL);
            }
            _ => *failures = 0,
        }
        news.send(News::Message(Box::new(response), permit)).ok()?;
    }
}

/// Tells of damage, and waits until everything up to the cursor behind it is acknowledged. False if the receiver of the
/// news was dropped.
async fn pass(past: String, news: &mpsc::UnboundedSender<News>, room: &Arc<Semaphore>) -> bool {
    let passed = async {
        let permit = room.clone().acquire_owned().await.ok()?; // The last message has been taken.
        news.send(News::Damage(past, permit)).ok()?;
        room.acquire().await.ok().map(drop)
    };
    tokio::select! {
        passed = passed => passed.is_some(),
        () = news.closed() => false,
    }
}

/// Waits until nothing but the end is left of the stream, and returns why it ended.
async fn end<S>(stream: Pin<&mut Peekable<S>>) -> Status
where
    S: Stream<Item = Result<SubscribeResponse, Status>>,
{
    match stream.peek().await {
        Some(Ok(_)) => std::future::pending().await,
        Some(Err(status)) => status.clone(),
        None => ended(),
    }
}

fn ended() -> Status {
    Status::unavailable("the stream ended")
}

/// The reason that the server gives, as `SUBSCRIBER_STALLED`.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Why the subscription cannot go on after this. None: try again.
pub fn stop(status: &Status) -> Option<anyhow::Error> {
    let reason = reason(status).unwrap_or_default();
    match (status.code(), &*reason) {
        (_, "SUBSCRIPTION_TAKEN_OVER") => Some(anyhow::anyhow!(
            "another forwarder took over the subscription, or its settings or its place were changed"
        )),
        (_, "RECORD_CORRUPT") => Some(anyhow::anyhow!(
            "an event is damaged, or several in a row, and the cursor behind them is `{}`: docs/forward.md says how to go \
             on there",
            past_damage(status).unwrap_or_default()
        )),
        // A proxy or a connection that breaks is one of the last three.
        (Code::Unavailable | Code::Aborted | Code::Cancelled | Code::ResourceExhausted | Code::DeadlineExceeded, _)
        | (Code::Unknown | Code::Internal, "") => None,
        (code, _) => {
            let reason = if reason.is_empty() { format!("{code:?}") } else { reason };
            Some(anyhow::anyhow!("the server refused the subscription: {reason}: {}", status.message()))
        }
    }
}

/// Why the subscription cannot go on after an acknowledgement was refused. None: try again. A token that is refused does
/// not end a stream that is open with another.
pub fn stop_acknowledging(status: &Status) -> Option<anyhow::Error> {
    if is_unauthenticated(status) {
        return None;
    }
    if reason(status).as_deref() != Some("LIMIT_EXCEEDED") {
        return stop(status);
    }
    Some(anyhow::anyhow!(
        "the list of the subscription's skipped events is full, so no event can be given up. Look at ListSkippedEvents \
         and repair the receiver. SeekSubscription to a place before skipped events delivers them again and makes room; \
         docs/forward.md says how to empty the list without that"
    ))
}

/// Whether an open stream that ended so is opened again, although a stream that does not open so is not. After retention
/// overtook it, the subscription's `on_expired` decides. After its token expired, the file of the token has another.
fn may_open_again(ended: &Status) -> bool {
    is_unauthenticated(ended) || reason(ended).as_deref() == Some("CURSOR_EXPIRED")
}

/// The cursor behind the damaged events at which a stream ended.
fn past_damage(ended: &Status) -> Option<String> {
    let info = ended.get_details_error_info().filter(|info| info.reason == "RECORD_CORRUPT")?;
    info.metadata.get("cursor").cloned()
}

fn is_unauthenticated(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
}

/// How long to wait: what the server asks for, or longer.
pub fn wait(status: &Status, failures: u32) -> Duration {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    asked.min(MAX_ASKED).max(RECONNECT.back_off(failures))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::time::Instant;
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::proto::v1::{Heartbeat, Opened};

    fn with(code: Code, reason: &str) -> Status {
        Status::with_error_details(code, "said", ErrorDetails::with_error_info(reason, "cameo", []))
    }

    #[test]
    fn the_server_says_whether_and_when_to_try_again() {
        for (status, stops) in [
            (Status::unavailable(""), false),
            (Status::unknown("transport error"), false),
            (with(Code::ResourceExhausted, "SUBSCRIBER_STALLED"), false),
            (with(Code::Unavailable, "SERVER_DRAINING"), false),
            (with(Code::Aborted, "SUBSCRIPTION_TAKEN_OVER"), true),
            (with(Code::NotFound, "SUBSCRIPTION_NOT_FOUND"), true),
            (with(Code::OutOfRange, "CURSOR_EXPIRED"), true),
            (with(Code::DataLoss, "RECORD_CORRUPT"), true),
            (with(Code::Unauthenticated, "UNAUTHENTICATED"), true),
            (Status::unimplemented(""), true),
        ] {
            assert_eq!(stop(&status).is_some(), stops, "{status:?}");
        }
        let asks = |time| Status::with_error_details(Code::Unavailable, "", ErrorDetails::with_retry_info(Some(time)));
        assert_eq!(wait(&asks(Duration::from_secs(40)), 1), Duration::from_secs(40));
        assert_eq!(wait(&asks(Duration::from_secs(4_000)), 1), MAX_ASKED);
    }

    /// How often a stream is opened, if it ends so twice and is then refused so, and why the forwarder ends.
    async fn openings(end: Status) -> (u32, String) {
        let (sender, _news) = mpsc::unbounded_channel();
        let mut opened = 0;
        let subscribe = async || {
            opened += 1;
            if opened == 3 { Err(end.clone()) } else { Ok(stream::iter([Err(end.clone())])) }
        };
        let ended = follow(subscribe, sender, true).await.unwrap_err();
        (opened, ended.to_string())
    }

    /// Retention overtakes a slow stream. Whether there is another is for the server to say.
    #[tokio::test(start_paused = true)]
    async fn an_expired_stream_is_opened_again_unless_that_is_refused() {
        let (opened, ended) = openings(with(Code::OutOfRange, "CURSOR_EXPIRED")).await;
        assert!(ended.contains("CURSOR_EXPIRED"), "{ended}");
        assert_eq!(opened, 3);
    }

    /// The file of the token may have a new one by then.
    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_token_expired_is_opened_again_unless_that_is_refused() {
        let (opened, ended) = openings(with(Code::Unauthenticated, "UNAUTHENTICATED")).await;
        assert!(ended.contains("UNAUTHENTICATED"), "{ended}");
        assert_eq!(opened, 3);
    }

    /// The end of the stream says whether there is another token.
    #[test]
    fn an_acknowledgement_with_an_expired_token_is_tried_again() {
        assert!(stop_acknowledging(&with(Code::Unauthenticated, "UNAUTHENTICATED")).is_none());
        assert!(stop_acknowledging(&with(Code::PermissionDenied, "PERMISSION_DENIED")).is_some());
    }

    /// A server that is gone without a word is noticed, and messages reset the back-off.
    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_opened_again() {
        let (sender, mut news) = mpsc::unbounded_channel();
        let interval = Some(prost_types::Duration { seconds: 2, nanos: 0 });
        let opened = Message::Opened(Opened { heartbeat_interval: interval, ..Default::default() });
        let sent = [opened, Message::Heartbeat(Heartbeat::default())];
        let sent = sent.map(|message| Ok(SubscribeResponse { message: Some(message), ..Default::default() }));
        let started = Instant::now();
        let follow = follow(async || Ok(stream::iter(sent.clone()).chain(stream::pending())), sender, false);
        let read = async {
            for _ in 0..59 {
                news.recv().await.unwrap(); // Two messages of a stream and its end, twenty times.
            }
            drop(news);
            started.elapsed()
        };
        let (followed, took) = tokio::join!(follow, read);
        assert!(followed.is_ok());
        let (least, most) = (Duration::from_secs(19 * 6), Duration::from_secs(19 * 6 + 4));
        assert!((least..most).contains(&took), "{took:?}");
    }
}
