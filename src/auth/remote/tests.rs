use super::*;
use crate::auth::Unauthenticated;
use crate::auth::tests::source::{Reply, Source, pass};
use crate::auth::tests::{Signer, set};
use jsonwebtoken::Algorithm;

const HOUR: Duration = Duration::from_secs(3_600);

fn keys(kid: &str) -> Reply {
    Reply::Keys(set(&[Signer::ed().jwk(kid)]))
}

fn remote(source: &Source) -> Arc<Remote> {
    Remote::new(Fetcher::new(source.url.clone()).unwrap(), HOUR, ReloadMetrics::default())
}

/// A remote that has fetched the key `old`.
async fn fetched() -> (Source, Arc<Remote>) {
    let source = Source::start(keys("old")).await;
    let remote = remote(&source);
    refresh(&remote).await;
    assert!(knows(&remote, "old"));
    (source, remote)
}

fn knows(remote: &Remote, kid: &str) -> bool {
    remote.keys().is_some_and(|keys| keys.1.find(Some(kid), Algorithm::EdDSA).is_ok())
}

/// Does what is due, and waits for its end.
async fn refresh(remote: &Arc<Remote>) {
    let mut ended = remote.ended.subscribe();
    remote.refresh_if_due();
    if remote.state().is_running {
        ended.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_with_an_unknown_key_has_the_keys_fetched() {
    let (source, remote) = fetched().await;
    source.reply(keys("new"));
    remote.ask(|| true).await.unwrap();
    assert!(knows(&remote, "new") && !knows(&remote, "old"));
    assert_eq!(source.requests(), 2);
}

#[tokio::test]
async fn a_set_that_has_not_changed_makes_nothing_stale() {
    let (source, remote) = fetched().await;
    let before = remote.keys().unwrap();
    remote.ask(|| true).await.unwrap();
    assert!(source.requests() == 2 && Arc::ptr_eq(&before, &remote.keys().unwrap()));
}

#[tokio::test]
async fn the_keys_stay_while_the_source_is_down_or_says_something_else() {
    let (source, remote) = fetched().await;
    let before = remote.keys().unwrap();
    let too_large = format!("{{\"keys\": [], \"padding\": \"{}\"}}", "x".repeat(1 << 20));
    for reply in [
        Reply::Status(503),
        Reply::Status(404),
        Reply::Status(204),
        Reply::Redirect(set(&[Signer::ed().jwk("new")])),
        Reply::Keys("<html>".to_owned()),
        Reply::Keys(set(&[])),
        Reply::Keys(too_large),
    ] {
        source.reply(reply);
        pass(HOUR).await;
        let requests = source.requests();
        refresh(&remote).await;
        assert_eq!(source.requests(), requests + 1, "a redirect is not followed");
        assert!(knows(&remote, "old"));
    }
    assert!(Arc::ptr_eq(&before, &remote.keys().unwrap()));
    source.reply(keys("new"));
    pass(HOUR).await;
    refresh(&remote).await;
    assert!(knows(&remote, "new"));
}

#[tokio::test]
async fn a_set_of_one_mebibyte_is_the_largest() {
    let padded = |bytes: usize| {
        let keys = set(&[Signer::ed().jwk("new")]);
        Reply::Keys(format!("{keys}{}", " ".repeat(bytes - keys.len())))
    };
    let (source, remote) = fetched().await;
    for (bytes, is_taken) in [((1 << 20) + 1, false), (1 << 20, true)] {
        source.reply(padded(bytes));
        pass(HOUR).await;
        refresh(&remote).await;
        assert_eq!(knows(&remote, "new"), is_taken, "{bytes}");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_in_ten_seconds() {
    let (source, remote) = fetched().await;
    let flood = || futures_util::future::join_all((0..1_000).map(|_| remote.ask(|| true)));
    flood().await;
    assert_eq!(source.requests(), 2, "all wait for the same fetch");
    flood().await;
    assert_eq!(source.requests(), 2);
    pass(ASK_GAP / 10 * 7).await;
    flood().await;
    assert_eq!(source.requests(), 2);
    pass(ASK_GAP / 10 * 3).await;
    flood().await;
    assert_eq!(source.requests(), 3);
}

/// A call that is cancelled while it waits does not end the fetch, which others wait for.
#[tokio::test]
async fn a_call_waits_no_longer_than_a_fetch_may_take() {
    let (source, remote) = fetched().await;
    source.reply(Reply::Silence);
    let asks = [0, 1].map(|_| {
        let remote = remote.clone();
        tokio::spawn(async move { remote.ask(|| true).await })
    });
    source.asked(2).await;
    asks[0].abort();
    assert!(remote.state().is_running && !asks[1].is_finished());
    pass(FETCH_TIMEOUT).await;
    let [_, waiting] = asks;
    waiting.await.unwrap().unwrap();
    while remote.state().is_running {
        tokio::task::yield_now().await;
    }
    assert!(knows(&remote, "old"));
    assert_eq!(source.requests(), 2);
}

/// Whether there is room is asked only if there is something to wait for: the answer takes the room.
#[tokio::test]
async fn a_call_for_which_there_is_no_room_does_not_wait() {
    let (source, remote) = fetched().await;
    source.reply(Reply::Silence);
    let waiting = tokio::spawn({
        let remote = remote.clone();
        async move { remote.ask(|| true).await }
    });
    source.asked(2).await;
    assert_eq!(remote.ask(|| false).await, Err(Unauthenticated::Crowded));
    pass(FETCH_TIMEOUT).await;
    waiting.await.unwrap().unwrap();
    while remote.state().is_running {
        tokio::task::yield_now().await;
    }
    assert_eq!(remote.ask(|| unreachable!("no fetch runs")).await, Ok(()));
    assert_eq!(source.requests(), 2);
}

#[tokio::test]
async fn a_source_that_is_down_at_the_start_is_asked_again() {
    let source = Source::start(Reply::Status(500)).await;
    let remote = remote(&source);
    refresh(&remote).await;
    assert!(remote.keys().is_none());
    source.reply(keys("new"));
    refresh(&remote).await;
    assert_eq!(source.requests(), 1, "not at once");
    pass(FIRST_RETRY).await;
    refresh(&remote).await;
    assert!(knows(&remote, "new"));
    pass(HOUR / 60 * 59).await;
    refresh(&remote).await;
    assert_eq!(source.requests(), 2, "then it is asked as often as the settings say");
    pass(HOUR / 60).await;
    refresh(&remote).await;
    assert_eq!(source.requests(), 3);
}

#[test]
fn the_waits_between_attempts_double_up_to_a_minute() {
    let waits: Vec<_> = (0..8).map(|failures| retry(failures).as_secs()).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(retry(u32::MAX), LAST_RETRY);
}

#[tokio::test]
async fn a_failure_is_a_warning_once_a_minute() {
    let (source, remote) = fetched().await;
    source.reply(Reply::Status(500));
    pass(HOUR).await;
    refresh(&remote).await;
    let first = remote.state().warned.unwrap();
    pass(WARNING_GAP / 60 * 50).await;
    refresh(&remote).await;
    assert_eq!((source.requests(), remote.state().warned), (3, Some(first)));
    pass(WARNING_GAP).await;
    refresh(&remote).await;
    assert_eq!(source.requests(), 4);
    assert!(remote.state().warned.unwrap() >= first + WARNING_GAP);
}

#[tokio::test]
async fn a_query_of_the_url_is_not_logged() {
    let source = Source::start(keys("new")).await;
    let name = Fetcher::new(source.url.clone()).unwrap().name();
    assert_eq!(format!("{name}?key=hidden"), source.url.to_string());
}

#[tokio::test]
async fn a_source_that_does_not_listen_gives_no_keys() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let remote = Remote::new(Fetcher::new(url).unwrap(), HOUR, ReloadMetrics::default());
    remote.ask(|| true).await.unwrap();
    assert!(remote.keys().is_none());
    let refused = remote.keys().ok_or(Unauthenticated::Unavailable).err();
    assert_eq!(refused, Some(Unauthenticated::Unavailable));
}
