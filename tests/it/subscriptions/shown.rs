//! What operators are shown: the open stream of a subscription, and the events that it skipped.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn an_open_stream_is_shown_until_it_ends() {
    let (_server, client) = with_events(3).await;
    let begun = from_now(Duration::ZERO).seconds;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 3).await;
    let shown = client.subscription(CRM).await.unwrap().stream.unwrap();
    assert_eq!((shown.number, shown.sent_sequence, &shown.sent_cursor), (number, 3, &cursors[2]));
    assert!((begun..=from_now(Duration::ZERO).seconds).contains(&shown.open_time.unwrap().seconds));
    drop(stream);
    within(async { while client.subscription(CRM).await.unwrap().stream.is_some() {} }).await;
}

#[tokio::test]
async fn pages_of_skipped_events_leave_none_out() {
    const SKIPPED: u64 = 5;
    let (_server, client) = with_events(6).await;
    let (stream, cursors) = read(&mut client.read(CRM).await.unwrap(), 6).await;
    let skipped = (1..=SKIPPED).map(|sequence| Skip { sequence, ..Default::default() }).collect();
    let request = AcknowledgeRequest { stream, cursor: cursors[5].clone(), skipped, ..acknowledge_request() };
    client.acknowledge_with(request).await.unwrap();
    for size in 1..=6 {
        let (mut listed, mut token) = (Vec::new(), String::new());
        loop {
            let page = client.skipped(size, &token).await.unwrap();
            listed.extend(page.skipped_events.iter().map(|event| event.sequence));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, (1..=SKIPPED).collect::<Vec<_>>(), "in pages of {size}");
    }
}

/// One event, with the place after it, of its own workspace, and no more of it than the mask names.
#[tokio::test]
async fn an_event_is_read_by_its_sequence() {
    let (_server, client) = with_events(3).await;
    let workspace: String = OTHER_WORKSPACE.into();
    client.create_with(CreateProfileRequest { workspace: workspace.clone(), ..create_request() }).await.unwrap();
    let get = |workspace: &str, sequence, path: &str| {
        let read_mask = Some(path).filter(|path| !path.is_empty()).and_then(|path| mask(&[path]));
        let request = GetEventRequest { workspace: workspace.into(), sequence, read_mask, ..Default::default() };
        let mut events = client.events.clone();
        async move { events.get_event(request).await.map(tonic::Response::into_inner) }
    };
    let found = get(WORKSPACE, 2, "").await.unwrap();
    assert_eq!(found.event.unwrap(), client.log().await[1]);
    let mut rest = client.subscribe_from(after(&found.cursor)).await;
    assert_eq!(rest.event().await.1.sequence, 3);
    let masked = get(WORKSPACE, 2, "mpid").await.unwrap().event.unwrap().profile;
    assert_eq!(masked, Some(Profile { mpid: ADA, ..Default::default() }));
    let there = get(OTHER_WORKSPACE, 1, "").await.unwrap().event.unwrap();
    assert_ne!(there.mpid, ADA);
    assert_refused(get(OTHER_WORKSPACE, 2, "").await, Code::NotFound, "EVENT_NOT_FOUND", "");
}
