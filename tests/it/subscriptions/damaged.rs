//! A damaged event ends the stream of a subscription. A name is no cursor, so the reader moves the subscription past it.

use super::*;

/// A subscription whose third and fourth event are damaged, and its stream, which has ended there. Its number, and the
/// cursor behind the damage.
async fn at_damage() -> (TestServer, Client, u64, String) {
    let (server, _) = with_events(6).await;
    let dir = server.stop().await;
    edit(&dir, |transaction| [3, 4].iter().for_each(|event| damage_event(transaction, *event)));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, _) = read(&mut stream, 2).await;
    let ended = stream.failure().await;
    assert_eq!((ended.code(), &*reason(&ended)), (Code::DataLoss, "RECORD_CORRUPT"));
    (server, client, number, metadata(&ended, "cursor"))
}

async fn next_event(client: &Client) -> u64 {
    client.read(CRM).await.unwrap().event().await.1.sequence
}

#[tokio::test]
async fn a_subscription_goes_on_past_damage_once_the_cursor_of_the_error_is_acknowledged() {
    let (_server, client, number, past) = at_damage().await;
    client.acknowledge(number, &past).await.unwrap();
    assert_eq!(next_event(&client).await, 5);
}

/// For a program that has not kept the number of its stream.
#[tokio::test]
async fn a_subscription_goes_on_past_damage_after_a_seek_to_the_cursor_of_the_error() {
    let (_server, client, _, past) = at_damage().await;
    client.seek(seek_subscription_request::To::Cursor(past), false).await.unwrap();
    assert_eq!(next_event(&client).await, 5);
}

#[tokio::test]
async fn a_subscription_that_is_not_moved_past_damage_ends_there_again() {
    let (_server, client, ..) = at_damage().await;
    let mut again = client.read(CRM).await.unwrap();
    read(&mut again, 2).await;
    assert_eq!(reason(&again.failure().await), "RECORD_CORRUPT");
}
