//! Callers without a valid credential, many of them: others must not notice.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tonic::Code;

use crate::harness::*;

/// How long a refused login waits.
const HOLD: Duration = Duration::from_millis(50);
const MOST_CALLS: usize = 8;
/// The part of the calls that may wait besides for keys.
const UNKNOWN: usize = MOST_CALLS / 4;

/// A server that has fetched a key and takes few calls, and a client with a token of that key.
async fn server_with_key(source: &KeyServer, known: &SigningKey, most_calls: usize) -> (TestServer, Client) {
    let require = source.require();
    let server = TestServer::start_with(|config| {
        require(config);
        config.server.max_calls = most_calls;
    })
    .await;
    until(|| source.requests() == 1).await; // The server's own fetch, so that the next unknown key causes another.
    let client = Client::connect_with(server.addr, &known.token(&["reader", "subscriber"])).await;
    assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::NotFound);
    (server, client)
}

/// Everybody can make a token that names an unknown key. While the source of the keys is down, a call with one waits for
/// seconds.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_unknown_keys_take_no_room_of_known_callers_while_the_source_is_down() {
    let (known, unknown) = (SigningKey::new("october"), SigningKey::new("november"));
    let source = KeyServer::start(&[&known]).await;
    let (server, client) = server_with_key(&source, &known, MOST_CALLS).await;
    source.fall_silent();

    let stranger = Client::connect_with(server.addr, &unknown.token(&["reader"])).await;
    let mut calls: FuturesUnordered<_> = (0..3 * MOST_CALLS).map(|_| stranger.get(ADA)).collect();
    for _ in UNKNOWN..3 * MOST_CALLS {
        let refused = calls.next().await.unwrap().unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "AUTHENTICATION_UNAVAILABLE".into()));
    }

    assert!(calls.next().now_or_never().is_none(), "the others wait for the keys");
    for lookup in join_all((0..MOST_CALLS).map(|_| client.get(ADA))).await {
        assert_eq!(lookup.unwrap_err().code(), Code::NotFound, "a caller whose key is known has all the room");
    }
    assert_eq!(source.requests(), 2);
}

/// Otherwise calls that have waited would be more than the server takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_waited_for_its_key_counts_as_a_call() {
    let (known, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let source = KeyServer::start(&[&known]).await;
    let (server, client) = server_with_key(&source, &known, 1).await;
    source.publish(&[&known, &new]);
    let mut stream = Client::connect_with(server.addr, &new.token(&["subscriber"]))
        .await
        .subscribe(subscribe_request())
        .await
        .unwrap();
    stream.opened().await;
    assert_eq!(source.requests(), 2, "it had its key fetched");
    assert_eq!(reason(&client.get(ADA).await.unwrap_err()), "OVERLOADED");
}

/// A client that calls again at once would keep the server busy, and no quota bounds one that is not known. Those that
/// wait leave room for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_comes_a_little_later_and_takes_no_room_meanwhile() {
    let callers = CallersFile::new();
    let token = callers.add("crm", &["reader"]).await;
    let server = callers.server_with(|config| config.server.max_calls = MOST_CALLS).await;
    let client = Client::connect_with(server.addr, &token).await;
    for stranger in [server.client().await, Client::connect_with(server.addr, "not-a-token").await] {
        let start = Instant::now();
        let strangers = join_all((0..10 * MOST_CALLS).map(|_| stranger.get(ADA)));
        let (refused, served) = tokio::join!(strangers, client.get(ADA));
        assert_eq!(served.unwrap_err().code(), Code::NotFound);
        assert!(start.elapsed() >= HOLD);
        for refused in refused {
            assert_eq!(reason(&refused.unwrap_err()), "UNAUTHENTICATED");
        }
    }
}

/// One caller that may not make a call is known, so its quota bounds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_caller_is_refused_at_once() {
    let callers = CallersFile::new();
    let token = callers.add("crm", &["writer"]).await;
    let server = callers.server_with(|_| ()).await;
    let client = Client::connect_with(server.addr, &token).await;
    let refusal = async || {
        let start = Instant::now();
        assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::PermissionDenied);
        start.elapsed()
    };
    within(async { while refusal().await >= HOLD {} }).await; // A busy machine may take as long by itself.
}
