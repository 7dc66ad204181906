//! What each record does, and what the response says of it.

use cameo::proto::v1::*;
use tonic::Code;

use super::*;

/// How many refusals a response tells one by one.
const REFUSALS_TOLD: u64 = 1_000;

/// How many records created a profile, updated one, left one unchanged, and were refused.
fn counts(response: &ImportProfilesResponse) -> [i64; 4] {
    [response.created, response.updated, response.unchanged, response.refused]
}

#[tokio::test]
async fn an_import_creates_updates_and_leaves_alone_and_says_how_many() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_attributes(GRACE, [("visits", number(1.0))])).await.unwrap();
    let visits = |count| set([("visits", number(count))]);
    let records = || {
        vec![
            record(by_mpid(GRACE), visits(2.0)),
            ImportProfilesRequest { workspace: String::new(), ..record(by_mpid(ALAN), visits(2.0)) },
            record(by_identity(email("ada")), visits(2.0)),
            record(by_identity(email("ADA")), set([("size", number(3.0))])), // The record before it created her.
        ]
    };

    let first = client.import(records()).await.unwrap();
    assert_eq!(counts(&first), [2, 2, 0, 0]);
    let log = client.log().await;
    assert_eq!(log.len(), 5);
    let again = client.import(records()).await.unwrap();
    assert_eq!(counts(&again), [0, 0, 4, 0]);
    assert_eq!(client.log().await, log, "existing values make no event");

    let ada = client.get_by(email("ada")).await.unwrap();
    assert_eq!((number_of(&ada, "visits"), number_of(&ada, "size")), (2.0, 3.0));
    let key = Some(by_mpid(GRACE));
    let reading = GetProfileRequest { key, min_cursor: again.cursor.clone(), ..get_request() };
    assert_number(&client.get_with(reading).await.unwrap(), "visits", 2.0);
    let after_all = client.subscribe_from(after(&first.cursor)).await.opened().await.1;
    assert_eq!(after_all.after_sequence, 5, "the cursor is that of the last event");
}

#[tokio::test]
async fn an_import_tells_which_records_it_refused_and_applies_the_others() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let secret = email("secret-value");
    client.create(owner_of(secret.clone(), ADA)).await.unwrap();
    let records = vec![
        visit(GRACE),
        record(by_mpid(UNKNOWN_MPID), add([secret])),
        visit(0),
        ImportProfilesRequest { key: None, ..visit(ALAN) },
        ImportProfilesRequest { patch: None, ..visit(ALAN) },
        ImportProfilesRequest { workspace: OTHER_WORKSPACE.into(), ..visit(UNKNOWN_MPID) },
        record(by_mpid(ALAN), set([("", number(1.0))])),
        visit(ALAN),
    ];

    let response = client.import(records).await.unwrap();

    assert_eq!(counts(&response), [2, 0, 0, 6]);
    let told: Vec<_> = response
        .refusals
        .iter()
        .map(|refusal| (refusal.position, reason_of(refusal.error.as_ref().unwrap())))
        .collect();
    let expected = [
        (1, "IDENTITY_TAKEN"),
        (2, "FIELD_INVALID"),
        (3, "FIELD_INVALID"),
        (4, "FIELD_INVALID"),
        (5, "FIELD_INVALID"),
        (6, "FIELD_INVALID"),
    ];
    assert_eq!(told, expected.map(|(position, reason)| (position, reason.to_owned())));
    assert!(!format!("{response:?}").contains("secret-value"), "no value in an error");
    assert_eq!(mpids_of(&client.all_profiles(0).await), [ADA, GRACE, ALAN]);
}

#[tokio::test]
async fn an_import_counts_every_refusal_and_tells_the_first_thousand() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let refused = |_| record(by_mpid(0), ProfilePatch::default());
    let mut records: Vec<_> = (0..REFUSALS_TOLD).map(refused).collect();
    let at_the_limit = client.import(records.clone()).await.unwrap();
    assert_eq!((at_the_limit.refused, at_the_limit.refusals.len()), (1_000, 1_000));
    assert_eq!(at_the_limit.cursor, "");

    records.insert(0, record(by_mpid(ADA), ProfilePatch::default()));
    records.push(refused(0));
    let response = client.import(records).await.unwrap();

    assert_eq!((response.created, response.refused, response.refusals.len()), (1, 1_001, 1_000));
    let positions: Vec<_> = response.refusals.iter().map(|refusal| refusal.position).collect();
    assert_eq!(positions, (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn silent_records_make_events_that_a_subscriber_may_pass_over() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let omit_silent = EventFilter { omit_silent: true, ..EventFilter::default() };
    let request = SubscribeRequest { filter: Some(omit_silent.clone()), ..subscribe_request() };
    let mut passing_over = client.subscribe(request.clone()).await.unwrap();
    let mut live = client.subscribe_from(None).await;
    passing_over.opened().await;
    live.opened().await;

    let silent = ImportProfilesRequest { silent: true, ..visit(ADA) };
    client.import(vec![silent.clone(), visit(GRACE)]).await.unwrap();
    client.import(vec![visit(ALAN), silent]).await.unwrap();
    client.import(vec![visit(GRACE)]).await.unwrap();

    assert_eq!(live.sequences(5).await, [1, 2, 3, 4, 5]);
    assert_eq!(passing_over.sequences(2).await, [3, 5]);
    let silent: Vec<_> = client.log().await.iter().map(|event| event.silent).collect();
    assert_eq!(
        silent,
        [true, true, false, true, false],
        "a silent first record makes all silent, any other only itself"
    );

    let server = server.restart().await;
    let client = server.client().await;
    let mut from_disk = client.subscribe(SubscribeRequest { start: earliest(), ..request }).await.unwrap();
    assert_eq!(from_disk.sequences(2).await, [3, 5]);
    let listed = client.list(ListEventsRequest { filter: Some(omit_silent.clone()), ..list_request() }).await.unwrap();
    assert_eq!(sequences_of(&listed.events), [3, 5]);
    let history = Some(EventFilter { mpids: vec![ADA], ..omit_silent });
    let history = client.list(ListEventsRequest { filter: history, ..list_request() }).await.unwrap();
    assert_eq!((history.events, history.caught_up), (vec![], true));
}

#[tokio::test]
async fn an_import_that_is_only_checked_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let records = vec![
        ImportProfilesRequest { validate_only: true, ..visit(ADA) },
        visit(GRACE),
        record(by_mpid(ADA), ProfilePatch::default()),
        visit(0),
    ];

    let response = client.import(records).await.unwrap();

    assert_eq!(counts(&response), [1, 1, 1, 1]);
    assert_eq!(response.cursor, "");
    assert_eq!(client.log().await.len(), 1);
}

#[tokio::test]
async fn a_record_with_a_request_id_is_applied_once() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let once = ImportProfilesRequest { request_id: "r1".into(), ..visit(ADA) };
    assert_eq!(client.import(vec![once.clone()]).await.unwrap().created, 1);

    let repeat = ImportProfilesRequest { workspace: String::new(), ..once };
    let later = vec![record(by_mpid(GRACE), ProfilePatch::default()), repeat];
    let response = client.import(later).await.unwrap();

    assert_eq!((response.created, response.updated), (2, 0), "a repeat counts as the first did");
    assert_number(&client.get(ADA).await.unwrap(), "visits", 1.0);
}

#[tokio::test]
async fn an_empty_import_and_one_without_a_workspace() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(client.import(vec![]).await.unwrap(), ImportProfilesResponse::default());
    let nowhere = ImportProfilesRequest { workspace: String::new(), ..record(by_mpid(ADA), ProfilePatch::default()) };
    let status = client.import(vec![nowhere]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "FIELD_INVALID"));
    assert_eq!(metadata(&status, "records"), "0");
}

/// What the first message says for the whole import is part of each record. So a resumed import may begin with any of
/// them.
#[tokio::test]
async fn a_record_is_the_same_wherever_it_stands() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let with_id = |mpid: i64| ImportProfilesRequest { request_id: mpid.to_string(), ..visit(mpid) };
    let silent = |record| ImportProfilesRequest { silent: true, ..record };
    client.import(vec![silent(with_id(ADA)), with_id(GRACE)]).await.unwrap();

    let resumed = client.import(vec![silent(with_id(GRACE)), with_id(ADA)]).await.unwrap();
    assert_eq!((resumed.created, resumed.refused), (2, 0));
    let other = client.import(vec![with_id(GRACE)]).await.unwrap();
    assert_eq!(reason_of(other.refusals[0].error.as_ref().unwrap()), "REQUEST_ID_REUSED", "it is no longer silent");
}

/// The cursor leads past all events of the import, whatever its last record came to.
#[tokio::test]
async fn an_imports_cursor_is_that_of_its_latest_event() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let unchanged = record(by_mpid(ADA), ProfilePatch::default()); // Since event 1.
    let refused = record(by_mpid(0), ProfilePatch::default());
    let only_checked = ImportProfilesRequest { validate_only: true, ..visit(ALAN) };
    for (last, sequence) in [unchanged, refused, only_checked].into_iter().zip(2..) {
        let response = client.import(vec![visit(GRACE), last]).await.unwrap();
        assert_eq!(client.log().await.len() as u64, sequence);
        let resumed = client.subscribe_from(after(&response.cursor)).await.opened().await.1;
        assert_eq!(resumed.after_sequence, sequence);
    }
}

/// Such a record would create its profile anew each time: the patch removes the identity that the record names.
#[tokio::test]
async fn a_record_that_removes_its_own_name_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let remove = ProfilePatch { remove_identities: vec![email("ada")], ..ProfilePatch::default() };
    let response = client.import(vec![record(by_identity(email("ada")), remove)]).await.unwrap();
    assert_eq!(reason_of(response.refusals[0].error.as_ref().unwrap()), "FIELD_INVALID");
    assert_eq!(client.log().await, []);
}
