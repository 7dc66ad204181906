//! Many profiles in one call: batches and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cameo::proto::v1::batch_get_profiles_result::Result as Found;
use cameo::proto::v1::*;
use futures_util::StreamExt;
use tonic::Code;

use crate::harness::*;

fn code_and_reason(result: &Found) -> (Code, String) {
    match result {
        Found::Found(profile) => panic!("found {profile:?}"),
        Found::Error(error) => (Code::from(error.code), reason_of(error)),
    }
}

fn found(result: &Found) -> &Profile {
    match result {
        Found::Found(profile) => profile,
        Found::Error(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn a_batch_answers_each_key_in_order_with_the_profile_or_its_own_error() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let sample = client.create(sample()).await.unwrap().profile.unwrap();
    let too_early = client.update(ADA, set([("plan", text("pro"))])).await;
    assert!(too_early.is_err(), "Ada has no profile yet");
    let ada = client.create(with_mpid(ADA)).await.unwrap().profile.unwrap();

    let keys = [
        by_mpid(ADA),
        by_identity(identity("email", " example-customer-mxr15@EXAMPLE.com")),
        by_mpid(UNKNOWN_MPID),
        by_identity(email("unknown")),
        by_mpid(0),
        ProfileKey { key: None },
        by_identity(identity("Email", "x")),
        by_mpid(SAMPLE_MPID),
        by_mpid(ADA),
    ];
    let results = client.batch(batch_request(keys)).await.unwrap();

    assert_eq!(results.len(), 9);
    assert_eq!([found(&results[0]), found(&results[8])], [&ada, &ada]);
    assert_eq!([found(&results[1]), found(&results[7])], [&sample, &sample]);
    let not_found = (Code::NotFound, "PROFILE_NOT_FOUND".to_owned());
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!([&results[2], &results[3]].map(code_and_reason), [not_found.clone(), not_found]);
    assert_eq!([&results[4], &results[5], &results[6]].map(code_and_reason), [(); 3].map(|()| invalid.clone()));
    let Found::Error(error) = &results[6] else { panic!("{results:?}") };
    let fields = tonic_types::RpcStatusExt::get_details_bad_request(error).unwrap().field_violations;
    assert_eq!(fields[0].field, "keys[6].identity.type");
}

#[tokio::test]
async fn a_batch_is_masked_as_a_lookup_is() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(sample()).await.unwrap();
    let request = BatchGetProfilesRequest {
        read_mask: mask(&["mpid", "user_attributes"]),
        user_attribute_keys: vec!["ltv".into()],
        ..batch_request([by_mpid(SAMPLE_MPID)])
    };

    let results = client.batch(request).await.unwrap();

    let expected = Profile { user_attributes: Some(map([("ltv", text("342.1"))])), ..with_mpid(SAMPLE_MPID) };
    assert_eq!(found(&results[0]), &expected);
}

/// A batch shows one committed state. A writer moves a token to and fro between Ada and Grace, in one write each time.
/// So in every state exactly one of them has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sees_one_state_of_the_store() {
    const MOVES: usize = 50;
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();
    let token = || identity("other", "token");
    client.update(ADA, take([token()])).await.unwrap();
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        for mpid in [GRACE, ADA].into_iter().cycle() {
            writer.update(mpid, take([token()])).await.unwrap();
        }
    });
    let mut states = Vec::new();
    within(async {
        // Until the token was seen to move often enough.
        while states.windows(2).filter(|pair| pair[0] != pair[1]).count() < MOVES {
            let keys = [by_mpid(ADA), by_mpid(GRACE), by_identity(token())];
            let results = client.batch(batch_request(keys)).await.unwrap();
            let has = |index: usize| !found(&results[index]).user_identities.is_empty();
            assert!(has(0) != has(1), "exactly one has it: {results:?}");
            assert_eq!(found(&results[2]).mpid, if has(0) { ADA } else { GRACE });
            states.push(has(0));
        }
    })
    .await;
    writing.abort();
}

/// A profile that does not fit into the response gets an error of its own, and the caller can ask for it again.
#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    const LIMIT: usize = 10_000;
    /// Two fit into a response, and three do not.
    const VALUE_BYTES: usize = 4_000;
    let server = TestServer::start_with(limits(|limits| limits.response_bytes = LIMIT)).await;
    let client = server.client().await;
    for mpid in 1..=4 {
        client.create(with_attributes(mpid, [("essay", text(&"v".repeat(VALUE_BYTES)))])).await.unwrap();
    }

    let results = client.batch(batch_request((1..=4).map(by_mpid))).await.unwrap();

    assert_eq!([&results[0], &results[1]].map(|result| found(result).mpid), [1, 2]);
    let full = (Code::ResourceExhausted, "LIMIT_EXCEEDED".to_owned());
    assert_eq!([&results[2], &results[3]].map(code_and_reason), [full.clone(), full]);
    let rest = client.batch(batch_request([by_mpid(3), by_mpid(4)])).await.unwrap();
    assert_eq!([&rest[0], &rest[1]].map(|result| found(result).mpid), [3, 4]);
    let page = client.page(page_request()).await.unwrap();
    assert_eq!(page.profiles.len(), 3, "a page ends with the profile that passes the limit");
    assert_eq!(client.all_profiles(0).await.len(), 4);
}

/// Otherwise no batch could ever return it.
#[tokio::test]
async fn a_batch_returns_a_profile_that_alone_passes_the_limit() {
    let server = TestServer::start_with(limits(|limits| limits.response_bytes = 1)).await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();

    let results = client.batch(batch_request([ADA, ADA].map(by_mpid))).await.unwrap();

    assert_eq!(found(&results[0]).mpid, ADA);
    assert_eq!(code_and_reason(&results[1]), (Code::ResourceExhausted, "LIMIT_EXCEEDED".to_owned()));
}

#[tokio::test]
async fn a_list_is_in_the_order_of_mpids_and_passes_over_the_deleted() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(client.page(page_request()).await.unwrap(), ListProfilesResponse::default(), "no workspace yet");
    for mpid in [3, i64::MAX, -1, i64::MIN, 1, 2] {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    client.delete(2).await.unwrap();

    for page_size in [1, 2, 4, 5, 6, 1_000, 0] {
        assert_eq!(
            mpids_of(&client.all_profiles(page_size).await),
            [i64::MIN, -1, 1, 3, i64::MAX],
            "page size {page_size}"
        );
    }
    let page = client.page(ListProfilesRequest { page_size: 2, read_mask: mask(&["mpid"]), ..page_request() }).await;
    assert_eq!(page.unwrap().profiles, [with_mpid(i64::MIN), with_mpid(-1)]);
    let whole = client.page(ListProfilesRequest { page_size: 5, ..page_request() }).await.unwrap();
    assert_eq!(whole.profiles[0], client.get(i64::MIN).await.unwrap());
    assert_eq!(whole.next_page_token, "", "no token to an empty page");
}

/// A profile that exists throughout is listed exactly once, whatever is written between the pages, and across restarts.
#[tokio::test]
async fn a_list_misses_nothing_that_stays_and_repeats_nothing() {
    /// How many profiles stay; their mpids begin with `FIRST` and leave gaps for those that come and go.
    const STAY: i64 = 60;
    const FIRST: i64 = -295;
    const GAP: i64 = 10;
    /// Past the mpids of those that stay, on both sides.
    const FAR: i64 = 1_000;
    let mut server = TestServer::start().await;
    let stays: BTreeSet<i64> = (0..STAY).map(|n| FIRST + n * GAP).collect();
    let client = server.client().await;
    for mpid in &stays {
        client.create(with_mpid(*mpid)).await.unwrap();
    }
    let mut request = ListProfilesRequest { page_size: 7, ..page_request() };
    let mut listed = BTreeMap::new();
    loop {
        let client = server.client().await;
        let page = client.page(request.clone()).await.unwrap();
        for profile in page.profiles {
            *listed.entry(profile.mpid).or_insert(0) += 1;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        // Profiles come and go before, at and after the place that the list has reached. One that stays changes.
        let round = i64::try_from(listed.len()).unwrap();
        for mpid in [-FAR - round, FIRST + round * GAP - 3, FIRST + round * GAP + 3, FAR - round] {
            client.create(with_mpid(mpid)).await.unwrap();
        }
        client.update(FIRST, set([("round", text(&round.to_string()))])).await.unwrap();
        let last_listed = *listed.keys().next_back().unwrap();
        if !stays.contains(&last_listed) {
            client.delete(last_listed).await.unwrap();
        }
        request.page_token = page.next_page_token;
        server = server.restart().await;
    }
    assert!(stays.iter().all(|mpid| listed.get(mpid) == Some(&1)), "{listed:?}");
    assert!(listed.values().all(|times| *times == 1), "{listed:?}");
}

/// The server reads at most 10,000 rows for a page. So a page may be empty, because all its rows are deleted profiles,
/// and yet not be the last.
#[tokio::test]
async fn a_list_goes_on_past_very_many_deleted_profiles() {
    const ROWS_PER_PAGE: i64 = 10_000;
    const IN_FLIGHT: usize = 256;
    let server = TestServer::start().await;
    let client = server.client().await;
    let create = (1..=ROWS_PER_PAGE + 1).map(|mpid| record(by_mpid(mpid), ProfilePatch::default())).collect();
    assert_eq!(client.import(create).await.unwrap().created, ROWS_PER_PAGE + 1);
    let deletes = (1..=ROWS_PER_PAGE).map(|mpid| client.delete(mpid));
    let deleted = futures_util::stream::iter(deletes).buffer_unordered(IN_FLIGHT);
    deleted.for_each(|response| async move { assert!(response.is_ok()) }).await;

    let first = client.page(page_request()).await.unwrap();
    assert_eq!(first.profiles, []);
    assert_ne!(first.next_page_token, "");
    assert_eq!(mpids_of(&client.all_profiles(0).await), [ROWS_PER_PAGE + 1]);
}

/// One thread reads, and most callers go away before or while it is their turn. The others still get theirs.
#[tokio::test(flavor = "multi_thread")]
async fn lists_whose_callers_go_away_leave_their_turn_to_others() {
    const CALLS: usize = 200;
    let server = TestServer::start_with(|config| config.store.read_concurrency = 1).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let calls: Vec<_> = (0..CALLS)
        .map(|nth| {
            let (client, workspace) = (client.clone(), [WORKSPACE, OTHER_WORKSPACE][nth % 2].to_owned());
            tokio::spawn(async move { client.page(ListProfilesRequest { workspace, ..page_request() }).await })
        })
        .collect();
    for (nth, call) in calls.into_iter().enumerate() {
        if nth % 10 < 8 {
            call.abort();
        } else {
            let page = within(call).await.unwrap().unwrap();
            assert_eq!(mpids_of(&page.profiles), [ADA][nth % 2..]);
        }
    }
}

#[tokio::test]
async fn an_expired_membership_is_in_no_batch_and_no_list() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let membership = member(5, Some(from_now(Duration::from_millis(300))));
    client.create(Profile { audience_memberships: vec![membership], ..with_mpid(ADA) }).await.unwrap();

    // Until it has ended: the test waits for the clock.
    within(async { while !client.get(ADA).await.unwrap().audience_memberships.is_empty() {} }).await;

    assert_eq!(found(&client.batch(batch_request([by_mpid(ADA)])).await.unwrap()[0]).audience_memberships, []);
    assert_eq!(client.all_profiles(0).await[0].audience_memberships, []);
}
