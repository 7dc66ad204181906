//! Audiences: they are registered, have members, and say who leaves when.

use std::time::Duration;

use cameo::proto::v1::*;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;

fn adds(audience_id: i64, mpids: impl IntoIterator<Item = i64>) -> AddAudienceMembersRequest {
    let keys = mpids.into_iter().map(by_mpid).collect();
    AddAudienceMembersRequest { audience_id, keys, ..AddAudienceMembersRequest::default() }
}

fn removes(audience_id: i64, mpids: impl IntoIterator<Item = i64>) -> RemoveAudienceMembersRequest {
    let keys = mpids.into_iter().map(by_mpid).collect();
    RemoveAudienceMembersRequest { audience_id, keys, ..RemoveAudienceMembersRequest::default() }
}

fn members_of(audience_id: i64) -> ListAudienceMembersRequest {
    ListAudienceMembersRequest { audience_id, ..ListAudienceMembersRequest::default() }
}

fn joins(audience_id: i64, name: &str) -> ProfilePatch {
    let membership = AudienceMembership { audience_name: name.into(), ..member(audience_id, None) };
    ProfilePatch { join_audiences: vec![membership], ..ProfilePatch::default() }
}

/// A server with the profiles 1 to `people` and audience 7.
async fn server_with(people: i64) -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client().await;
    let people = (1..=people).map(|mpid| record(by_mpid(mpid), ProfilePatch::default()));
    client.import(people.collect()).await.unwrap();
    client.register(7, "crm").await.unwrap();
    (server, client)
}

/// All members of an audience, read in pages of this size.
async fn all_members(client: &Client, audience_id: i64, page_size: i32) -> Vec<i64> {
    let (mut members, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAudienceMembersRequest { page_size, page_token, ..members_of(audience_id) };
        let page = client.list_members(request).await.unwrap();
        assert!(page.members.len() <= usize::try_from(page_size).unwrap());
        members.extend(page.members.iter().map(|member| member.mpid));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return members;
        }
    }
}

/// Waits until the server is done with its work on an audience.
async fn until_active(client: &Client, audience_id: i64) -> Result<Audience, Status> {
    within(async {
        loop {
            match client.audience(audience_id).await {
                Ok(audience) if audience.state() != AudienceState::Active => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                done => return done,
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_audience_is_registered_read_listed_and_deleted() {
    let (_server, client) = server_with(0).await;
    let drawn = client.register(0, "drawn").await.unwrap();
    assert!(drawn.audience_id > 0 && drawn.create_time.is_some());
    assert_eq!((drawn.state(), drawn.member_count, drawn.remaining_members), (AudienceState::Active, 0, 0));
    assert_eq!(client.audience(drawn.audience_id).await.unwrap(), drawn);

    client.register(-5, "negative").await.unwrap();
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAudiencesRequest { page_size: 1, page_token, ..ListAudiencesRequest::default() };
        let page = client.list_audiences(request).await.unwrap();
        names.extend(page.audiences.into_iter().map(|audience| audience.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["negative", "crm", "drawn"], "in the order of the ids, as signed integers");

    let deleted = client.unregister(7).await.unwrap();
    assert_eq!((deleted.audience.as_ref(), deleted.outcome()), (None, WriteOutcome::Deleted));
    assert_refused(client.audience(7).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
    assert_refused(client.unregister(7).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
    let missing = DeleteAudienceRequest { audience_id: 7, allow_missing: true, ..DeleteAudienceRequest::default() };
    assert_eq!(client.unregister_with(missing).await.unwrap().outcome(), WriteOutcome::Unchanged);
}

#[tokio::test]
async fn an_audience_must_have_a_name_and_an_id_of_its_own() {
    let (_server, client) = server_with(0).await;
    let taken = client.register(7, "erp").await.unwrap_err();
    assert_eq!((taken.code(), &*reason(&taken)), (Code::AlreadyExists, "AUDIENCE_EXISTS"));
    let named = taken.get_details_resource_info().unwrap();
    assert_eq!((&*named.resource_type, &*named.resource_name), ("cameo.v1.Audience", "audiences/7"));

    let none = client.register_with(CreateAudienceRequest::default()).await;
    assert_refused(none, Code::InvalidArgument, "FIELD_INVALID", "audience");
    assert_refused(client.register(8, "").await, Code::InvalidArgument, "FIELD_INVALID", "audience.name");
    let long = client.register(8, &"x".repeat(257)).await;
    assert_refused(long, Code::InvalidArgument, "LIMIT_EXCEEDED", "audience.name");
    client.register(8, &"x".repeat(256)).await.unwrap();
    for (bytes, fits) in [(1_024, true), (1_025, false)] {
        let audience = Audience { name: "erp".into(), description: "x".repeat(bytes), ..Audience::default() };
        let audience = Some(audience);
        let made = client.register_with(CreateAudienceRequest { audience, ..Default::default() }).await;
        assert_eq!(made.is_ok(), fits, "{bytes}");
        if !fits {
            assert_refused(made, Code::InvalidArgument, "LIMIT_EXCEEDED", "audience.description");
        }
    }
    assert_refused(client.audience(0).await, Code::InvalidArgument, "FIELD_INVALID", "audience_id");
    assert_refused(client.unregister(0).await, Code::InvalidArgument, "FIELD_INVALID", "audience_id");
    assert_refused(client.list_members(members_of(0)).await, Code::InvalidArgument, "FIELD_INVALID", "audience_id");
}

#[tokio::test]
async fn each_member_has_a_result_and_an_event() {
    let (_server, client) = server_with(3).await;
    client.update(3, add([email("grace")])).await.unwrap();
    let mut request = adds(7, [1, 99, 1]);
    request.keys.extend([by_identity(email("grace")), by_identity(email("nobody"))]);
    let added = client.add_members(request).await.unwrap();
    let outcomes: Vec<_> = added.results.iter().map(|result| (result.mpid, result.outcome())).collect();
    let (updated, unchanged, none) = (WriteOutcome::Updated, WriteOutcome::Unchanged, WriteOutcome::Unspecified);
    assert_eq!(outcomes, [(1, updated), (0, none), (1, unchanged), (3, updated), (0, none)]);
    let errors: Vec<_> = added.results.iter().filter_map(|result| result.error.as_ref()).collect();
    assert_eq!(errors.iter().map(|error| reason_of(error)).collect::<Vec<_>>(), ["PROFILE_NOT_FOUND"; 2]);
    let events = client.log().await;
    let last = events.last().unwrap();
    assert_eq!((last.mpid, &last.entered_audience_ids), (3, &vec![7]));
    assert_eq!(
        client.get(1).await.unwrap().audience_memberships,
        [AudienceMembership { audience_name: "crm".into(), ..member(7, None) }]
    );

    let listed = client.list_members(members_of(7)).await.unwrap();
    assert_eq!(listed.members.iter().map(|member| member.mpid).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(client.audience(7).await.unwrap().member_count, 2);

    let removed = client.remove_members(removes(7, [1, 2, 99])).await.unwrap();
    let outcomes: Vec<_> = removed.results.iter().map(|result| (result.mpid, result.outcome())).collect();
    assert_eq!(outcomes, [(1, updated), (2, unchanged), (0, none)]);
    let events = client.log().await;
    assert_eq!((events.last().unwrap().mpid, &events.last().unwrap().exited_audience_ids), (1, &vec![7]));
    let same = client.remove_members(removes(7, [1])).await.unwrap();
    assert_eq!(same.cursor, removed.cursor, "that of the latest event");
    assert_eq!(all_members(&client, 7, 10).await, [3]);
}

#[tokio::test]
async fn a_change_of_members_is_refused_as_a_whole_for_what_is_wrong_with_it() {
    let (_server, client) = server_with(1).await;
    assert_refused(client.add_members(adds(8, [1])).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
    assert_refused(client.remove_members(removes(8, [1])).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
    assert_refused(client.add_members(adds(0, [1])).await, Code::InvalidArgument, "FIELD_INVALID", "audience_id");
    assert_refused(client.add_members(adds(7, [])).await, Code::InvalidArgument, "FIELD_INVALID", "keys");
    assert_refused(client.add_members(adds(7, [1, 0])).await, Code::InvalidArgument, "FIELD_INVALID", "keys[1].mpid");
    let many = client.add_members(adds(7, 1..=1_001)).await;
    assert_refused(many, Code::InvalidArgument, "LIMIT_EXCEEDED", "keys");
    let many = client.remove_members(removes(7, 1..=1_001)).await;
    assert_refused(many, Code::InvalidArgument, "LIMIT_EXCEEDED", "keys");
    for end in [prost_types::Timestamp { seconds: 1, nanos: 0 }, prost_types::Timestamp { seconds: 1, nanos: -1 }] {
        let past = AddAudienceMembersRequest { expire_time: Some(end), ..adds(7, [1]) };
        assert_refused(client.add_members(past).await, Code::InvalidArgument, "FIELD_INVALID", "expire_time");
    }
    assert_eq!(client.add_members(adds(7, 1..=1_000)).await.unwrap().results.len(), 1_000);
    assert_eq!(client.log().await.len(), 2, "only that of the last call");
}

#[tokio::test]
async fn a_profile_without_room_has_an_error_of_its_own() {
    let server = TestServer::start_with(|config| config.limits.audience_memberships = 1).await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    client.create(Profile { audience_memberships: vec![member(9, None)], ..with_mpid(2) }).await.unwrap();
    client.register(7, "crm").await.unwrap();
    let added = client.add_members(adds(7, [1, 2])).await.unwrap();
    assert_eq!(added.results[0].outcome(), WriteOutcome::Updated);
    assert_eq!(added.results[1].mpid, 2);
    assert_eq!(reason_of(added.results[1].error.as_ref().unwrap()), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_repeat_gets_the_first_response_and_validate_only_changes_nothing() {
    let (_server, client) = server_with(2).await;
    let request_id = || "r".to_owned();
    let preview = AddAudienceMembersRequest { validate_only: true, ..adds(7, [1, 99]) };
    let previewed = client.add_members(preview).await.unwrap();
    assert_eq!((previewed.results[0].outcome(), &*previewed.cursor), (WriteOutcome::Updated, ""));
    assert_eq!(client.audience(7).await.unwrap().member_count, 0);
    let preview = DeleteAudienceRequest { audience_id: 7, validate_only: true, ..DeleteAudienceRequest::default() };
    assert_eq!(client.unregister_with(preview).await.unwrap().outcome(), WriteOutcome::Deleted);
    let audience = Some(Audience { audience_id: 8, name: "erp".into(), ..Audience::default() });
    let create = CreateAudienceRequest { audience, ..CreateAudienceRequest::default() };
    client.register_with(CreateAudienceRequest { validate_only: true, ..create.clone() }).await.unwrap();
    assert_refused(client.audience(8).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");

    let add = AddAudienceMembersRequest { request_id: request_id(), ..adds(7, [1, 99]) };
    let first = client.add_members(add.clone()).await.unwrap();
    client.remove_members(removes(7, [1])).await.unwrap();
    assert_eq!(client.add_members(add.clone()).await.unwrap(), first);
    assert!(all_members(&client, 7, 10).await.is_empty());
    let other = AddAudienceMembersRequest { keys: vec![by_mpid(2)], ..add };
    assert_refused(client.add_members(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED", "");

    let create = CreateAudienceRequest { request_id: "c".into(), ..create };
    let created = client.register_with(create.clone()).await.unwrap();
    let delete = DeleteAudienceRequest { audience_id: 8, request_id: "d".into(), ..DeleteAudienceRequest::default() };
    let deleted = client.unregister_with(delete.clone()).await.unwrap();
    assert_eq!(client.register_with(create).await.unwrap(), created);
    assert_eq!(client.unregister_with(delete).await.unwrap(), deleted);
    assert_refused(client.audience(8).await, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
}

/// After a merge, the mpid of the absorbed profile names the survivor.
#[tokio::test]
async fn the_member_is_the_survivor_of_a_merge() {
    let (_server, client) = server_with(2).await;
    client.merge(1, 2).await.unwrap();
    let added = client.add_members(adds(7, [2, 1])).await.unwrap();
    let outcomes: Vec<_> = added.results.iter().map(|result| (result.mpid, result.outcome())).collect();
    assert_eq!(outcomes, [(1, WriteOutcome::Updated), (1, WriteOutcome::Unchanged)]);
    assert_eq!(all_members(&client, 7, 10).await, [1]);
}

#[tokio::test]
async fn members_and_their_profiles_are_listed_in_pages() {
    let (_server, client) = server_with(25).await;
    client.update(25, joins(8, "patch")).await.unwrap();
    client.add_members(adds(7, (1..=25).filter(|mpid| mpid % 2 == 1))).await.unwrap();
    let odd: Vec<_> = (1..=25).filter(|mpid| mpid % 2 == 1).collect();
    assert_eq!(all_members(&client, 7, 4).await, odd);
    assert_eq!(all_members(&client, 8, 4).await, [25], "also of an audience that is not registered");
    assert!(all_members(&client, 9, 4).await.is_empty());
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListProfilesRequest { audience_id: 7, page_size: 4, page_token, ..page_request() };
        let page = client.page(request).await.unwrap();
        listed.extend(mpids_of(&page.profiles));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, odd);

    let first = ListAudienceMembersRequest { page_size: 4, ..members_of(7) };
    let page_token = client.list_members(first).await.unwrap().next_page_token;
    let foreign = ListAudienceMembersRequest { page_token: page_token.clone(), ..members_of(8) };
    assert_refused(client.list_members(foreign).await, Code::InvalidArgument, "FIELD_INVALID", "page_token");
    let other_list = ListProfilesRequest { audience_id: 7, page_token, ..page_request() };
    assert_refused(client.page(other_list).await, Code::InvalidArgument, "FIELD_INVALID", "page_token");
    let first = ListProfilesRequest { audience_id: 7, page_size: 4, ..page_request() };
    let page_token = client.page(first).await.unwrap().next_page_token;
    for audience_id in [0, 8] {
        let foreign = ListProfilesRequest { audience_id, page_token: page_token.clone(), ..page_request() };
        assert_refused(client.page(foreign).await, Code::InvalidArgument, "FIELD_INVALID", "page_token");
    }
    let large = ListAudienceMembersRequest { page_size: 1_001, ..members_of(7) };
    assert_refused(client.list_members(large).await, Code::InvalidArgument, "LIMIT_EXCEEDED", "page_size");
    let large = ListAudiencesRequest { page_size: 1_001, ..ListAudiencesRequest::default() };
    assert_refused(client.list_audiences(large).await, Code::InvalidArgument, "LIMIT_EXCEEDED", "page_size");
}

#[tokio::test]
async fn the_registered_name_wins_also_in_the_profile_api() {
    let (server, client) = server_with(2).await;
    client.update(1, joins(8, "patch")).await.unwrap();
    client.register(8, "erp").await.unwrap();
    let audience = until_active(&client, 8).await.unwrap();
    assert_eq!((audience.member_count, audience.remaining_members), (1, 0));
    client.update(2, joins(8, "mine")).await.unwrap();
    for mpid in [1, 2] {
        let path = format!("{WORKSPACE}/{mpid}");
        let body = http(server.addr, "GET", &path, &[], "").await.json();
        assert_eq!(body["audience_memberships"][0]["audience_name"], "erp", "{body}");
    }
    let renamed = client.log().await.into_iter().rfind(|event| event.mpid == 1).unwrap();
    assert_eq!(renamed.changed_fields.unwrap().paths, ["audience_memberships"]);
    assert!(renamed.entered_audience_ids.is_empty() && renamed.exited_audience_ids.is_empty());
}

#[tokio::test]
async fn the_members_of_a_deleted_audience_leave_it_each_with_an_event() {
    let (_server, client) = server_with(600).await;
    client.add_members(adds(7, 1..=600)).await.unwrap();
    let deleted = client.unregister(7).await.unwrap();
    assert_eq!(
        (deleted.audience.unwrap().state(), deleted.outcome),
        (AudienceState::Deleting, WriteOutcome::Deleted.into())
    );
    let gone = until_active(&client, 7).await;
    assert_refused(gone, Code::NotFound, "AUDIENCE_NOT_FOUND", "");
    let left: Vec<_> = client.log().await.iter().filter(|e| e.exited_audience_ids == [7]).map(|e| e.mpid).collect();
    assert_eq!(left, (1..=600).collect::<Vec<_>>());
    assert!(client.get(600).await.unwrap().audience_memberships.is_empty());
}

/// Within a second of its end, the exit of a membership is in the stream of a subscriber that filters by the audience.
#[tokio::test]
async fn a_membership_that_ends_leaves_with_an_event() {
    let (_server, client) = server_with(2).await;
    let end = from_now(Duration::from_millis(600));
    let request = AddAudienceMembersRequest { expire_time: Some(end), ..adds(7, [1]) };
    let added = client.add_members(request).await.unwrap();
    let filter = Some(EventFilter { audience_ids: vec![7], ..EventFilter::default() });
    let request = SubscribeRequest { start: after(&added.cursor), filter, ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    stream.opened().await;
    let (_, event) = within(stream.event()).await;
    assert_eq!((event.mpid, &event.exited_audience_ids, event.silent), (1, &vec![7], false));
    assert_eq!(event.r#match(), FilterMatch::Left);
    let late = micros(&event.time.unwrap()) - micros(&end);
    assert!((0..1_000_000).contains(&late), "{late} microseconds after its end");
    assert!(client.get(1).await.unwrap().audience_memberships.is_empty());
    assert_eq!(client.audience(7).await.unwrap().member_count, 0);
}

fn micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}
