//! Audiences: registered, named, deleted, and their members changed, command by command.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio_util::sync::CancellationToken;

use super::damage::{ID, turn_bit_of_profile};
use super::disk::Disk;
use super::harness::*;
use super::memberships::check_index;
use crate::command::{Change, ChangeMembers, Command, CreateAudience, DeleteAudience, MemberChange, WorkOnAudience};
use crate::model::audience::NewAudience;
use crate::model::page_token::PageStart;
use crate::model::{AudienceId, Invalid, Limits, Micros, Mpid, ProfileKey};
use crate::proto::v1::{
    Audience, AudienceMembership, AudienceState, CreateAudienceResponse, DeleteAudienceResponse, Event, Profile,
    ProfilePatch, WriteOutcome,
};
use crate::store::{Store, StoreError, Written};

pub fn id(number: i64) -> AudienceId {
    AudienceId::new(number).unwrap()
}

pub fn register(number: i64, name: &str) -> Change {
    let audience = Audience { audience_id: number, name: name.into(), ..Audience::default() };
    let audience = Box::new(NewAudience::parse("audience", audience, id(number)).unwrap());
    Change::CreateAudience(CreateAudience { audience, drawn: false })
}

pub fn unregister(number: i64) -> Change {
    Change::DeleteAudience(DeleteAudience { id: id(number), allow_missing: false })
}

pub fn work(number: i64, most: usize) -> Change {
    Change::WorkOnAudience(WorkOnAudience { id: id(number), most })
}

fn change(number: i64, mpids: impl IntoIterator<Item = i64>, change: MemberChange) -> Change {
    let keys = mpids.into_iter().map(|mpid| ProfileKey::Mpid(Mpid::new(mpid).unwrap())).collect();
    Change::ChangeMembers(ChangeMembers { id: id(number), keys, change })
}

pub fn add(number: i64, mpids: impl IntoIterator<Item = i64>, until: Option<i64>) -> Change {
    change(number, mpids, MemberChange::Join(until.map(Micros::new)))
}

pub fn remove(number: i64, mpids: impl IntoIterator<Item = i64>) -> Change {
    change(number, mpids, MemberChange::Leave)
}

/// Writes at this second.
pub async fn at(store: &Store, second: i64, change: impl Into<Change>) -> Result<Written, StoreError> {
    store.write(command(second * SECOND, change)).await
}

/// The results of a change of members, each as a mpid and an outcome, or as an error.
fn results(written: &Written) -> Vec<String> {
    let result = |result: crate::store::MemberResult| match (result.mpid.map(Mpid::get), result.outcome) {
        (mpid, Ok(outcome)) => format!("{mpid:?} {outcome:?}"),
        (mpid, Err(error)) => format!("{mpid:?} {error}"),
    };
    written.member_results().into_iter().map(result).collect()
}

pub fn audience(store: &Store, number: i64) -> Result<Audience, StoreError> {
    store.audience(&workspace(), id(number))
}

/// The members of an audience as of a second.
pub fn members(store: &Store, number: i64, second: i64) -> Vec<i64> {
    let mut members = Vec::new();
    let now = Micros::new(second * SECOND);
    let snapshot = store.snapshot().unwrap();
    let take = |member: crate::proto::v1::AudienceMember| {
        members.push(member.mpid);
        1
    };
    let last = snapshot.members(ID, id(number), PageStart::default(), now, EVERYTHING, take).unwrap();
    assert_eq!(last, None);
    members
}

fn summary(event: &Event) -> (i64, &str, Vec<i64>, Vec<i64>) {
    (event.mpid, &event.r#type, event.entered_audience_ids.clone(), event.exited_audience_ids.clone())
}

fn name_of(store: &Store, mpid: i64, number: i64) -> Option<String> {
    let profile = stored(store, mpid).unwrap().unwrap();
    let membership = profile.audience_memberships.into_iter().find(|member| member.audience_id == number)?;
    Some(membership.audience_name)
}

/// A store in which people from 1 on joined audience 7 by patches that gave it a name.
pub async fn with_patched(disk: &Disk, people: i64) -> Store {
    let store = store_on(disk, |_, _| {});
    for mpid in 1..=people {
        let membership = AudienceMembership { audience_id: 7, audience_name: "patch".into(), expire_time: None };
        let profile = Profile { audience_memberships: vec![membership], ..Profile::default() };
        at(&store, 1, create_with(mpid, profile)).await.unwrap();
    }
    store
}

#[tokio::test]
async fn an_audience_is_registered_once_and_an_empty_one_is_deleted_at_once() {
    let store = store();
    let written = at(&store, 5, register(7, "crm")).await.unwrap();
    assert_eq!((written.outcome, written.place.unwrap().get()), (WriteOutcome::Created, 0), "it has no event");
    let created = CreateAudienceResponse::decode(&*written.detail).unwrap().audience.unwrap();
    assert_eq!(created, audience(&store, 7).unwrap());
    assert_eq!((created.create_time.unwrap().seconds, created.state()), (5, AudienceState::Active));

    let again = at(&store, 6, register(7, "other")).await;
    assert!(matches!(again, Err(StoreError::AudienceExists { id: taken }) if taken == id(7)), "{again:?}");

    let written = at(&store, 7, unregister(7)).await.unwrap();
    let gone = DeleteAudienceResponse { audience: None, outcome: WriteOutcome::Deleted.into() };
    assert_eq!(DeleteAudienceResponse::decode(&*written.detail).unwrap(), gone);
    assert!(matches!(audience(&store, 7), Err(StoreError::AudienceNotFound { .. })));
    assert!(matches!(at(&store, 8, unregister(7)).await, Err(StoreError::AudienceNotFound { .. })));
    let delete = Change::DeleteAudience(DeleteAudience { id: id(7), allow_missing: true });
    assert_eq!(at(&store, 8, delete).await.unwrap().outcome, WriteOutcome::Unchanged);
    at(&store, 9, register(7, "again")).await.unwrap();
}

/// A drawn id leaves audiences alone that are registered, or that patches have named.
#[tokio::test]
async fn a_drawn_id_that_is_in_use_gives_way_to_the_next() {
    let store = with_patched(&Disk::default(), 1).await;
    at(&store, 2, register(8, "crm")).await.unwrap();
    let Change::CreateAudience(create) = register(7, "drawn") else { unreachable!() };
    let drawn = Change::CreateAudience(CreateAudience { drawn: true, ..create });
    let written = at(&store, 3, drawn).await.unwrap();
    let created = CreateAudienceResponse::decode(&*written.detail).unwrap().audience.unwrap();
    assert_eq!((created.audience_id, created.state()), (9, AudienceState::Active));
}

#[tokio::test]
async fn members_join_and_leave_by_one_write_with_a_result_for_each() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in [ADA, GRACE, ALAN] {
        at(&store, 1, create(mpid)).await.unwrap();
    }
    assert!(matches!(at(&store, 2, add(7, [ADA], None)).await, Err(StoreError::AudienceNotFound { .. })));
    at(&store, 2, register(7, "crm")).await.unwrap();

    let written = at(&store, 3, add(7, [ADA, 99, GRACE, ADA], Some(50 * SECOND))).await.unwrap();
    assert_eq!(results(&written), ["Some(1) Updated", "None no such profile", "Some(2) Updated", "Some(1) Unchanged"]);
    assert_eq!((number(&written), written.outcome), (5, WriteOutcome::Updated), "the last of its events");
    let joined = events(&store);
    assert_eq!(
        joined[3..].iter().map(summary).collect::<Vec<_>>(),
        [(ADA, "profile.updated", vec![7], vec![]), (GRACE, "profile.updated", vec![7], vec![])]
    );
    assert_eq!(name_of(&store, ADA, 7).unwrap(), "crm");
    assert_eq!(audience(&store, 7).unwrap().member_count, 2);

    let same = at(&store, 4, add(7, [ADA, GRACE], Some(50 * SECOND))).await.unwrap();
    assert_eq!((results(&same), number(&same)), (vec!["Some(1) Unchanged".into(), "Some(2) Unchanged".into()], 5));
    let longer = at(&store, 4, add(7, [ADA], None)).await.unwrap();
    assert_eq!(results(&longer), ["Some(1) Updated"]);

    let left = at(&store, 5, remove(7, [GRACE, ALAN, 99])).await.unwrap();
    assert_eq!(results(&left), ["Some(2) Updated", "Some(3) Unchanged", "None no such profile"]);
    assert_eq!(summary(events(&store).last().unwrap()), (GRACE, "profile.updated", vec![], vec![7]));
    assert_eq!((members(&store, 7, 5), audience(&store, 7).unwrap().member_count), (vec![ADA], 1));
    store.close().await;
    check_index(&disk);
}

#[tokio::test]
async fn a_membership_must_end_in_the_future() {
    let store = store();
    at(&store, 1, create(ADA)).await.unwrap();
    at(&store, 1, register(7, "crm")).await.unwrap();
    for (end, is_refused) in [(9 * SECOND, true), (10 * SECOND, true), (10 * SECOND + 1, false)] {
        let written = at(&store, 10, add(7, [ADA], Some(end))).await;
        let refused =
            matches!(&written, Err(StoreError::Invalid(Invalid::Field { field, .. })) if field == "expire_time");
        assert_eq!((refused, written.is_err()), (is_refused, is_refused), "{end}");
    }
}

/// A profile that has no room, or is damaged, does not fail the others.
#[tokio::test]
async fn a_profile_without_room_has_an_error_of_its_own() {
    let disk = Disk::default();
    let store = with_patched(&disk, 1).await;
    at(&store, 1, create(GRACE)).await.unwrap();
    at(&store, 1, create(ALAN)).await.unwrap();
    at(&store, 1, set_large_attributes(4)).await.unwrap();
    at(&store, 2, register(8, "crm")).await.unwrap();
    store.close().await;
    tamper(&disk, |transaction| turn_bit_of_profile(transaction, ALAN));
    let store = store_on(&disk, |_, _| {});
    let large = stored(&store, 4).unwrap().unwrap().encoded_len();
    let limits = Limits { audience_memberships: 1, profile_bytes: large + 5, ..Limits::default() };
    let command = Command { limits, ..command(3 * SECOND, add(8, [ADA, GRACE, ALAN, 4, ADA, 4], None)) };
    let written = store.write(with_id(command.clone(), "r")).await.unwrap();
    let expected = [
        "Some(1) keys: 2 audience memberships are over the limit of 1",
        "Some(2) Updated",
        "None a stored profile record is corrupt",
    ];
    let found = results(&written);
    assert_eq!(found[..3], expected);
    assert!(found[3].starts_with("Some(4)") && found[3].contains("profile bytes"), "{found:?}");
    assert_eq!(found[4..], [found[0].clone(), found[3].clone()], "also if it is named again");
    assert_eq!(events(&store).len(), 5, "a profile that was refused has no event");

    let repeat = store.write(with_id(command, "r")).await.unwrap();
    assert_eq!((results(&repeat), repeat.place), (found, written.place), "a repeat gets the same results");
    store.close().await;
    check_index(&disk);
}

#[tokio::test]
async fn the_events_of_one_write_are_bounded() {
    let store = store();
    for mpid in 1..=160 {
        at(&store, 1, set_large_attributes(mpid)).await.unwrap();
    }
    at(&store, 2, register(7, "crm")).await.unwrap();
    let refused = at(&store, 3, add(7, 1..=160, None)).await;
    let Err(StoreError::Invalid(Invalid::Limit { field, limit, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!((&*field, limit), ("keys", 32 << 20));
    assert!(members(&store, 7, 3).is_empty(), "all or nothing");
    at(&store, 3, add(7, 1..=100, None)).await.unwrap();
    assert_eq!(members(&store, 7, 3).len(), 100);
}

/// Members that joined before it was registered get its name step by step, also after a restart.
#[tokio::test]
async fn the_registered_name_wins() {
    let disk = Disk::default();
    let store = with_patched(&disk, 5).await;
    at(&store, 2, register(7, "crm")).await.unwrap();
    let named = audience(&store, 7).unwrap();
    assert_eq!((named.state(), named.member_count, named.remaining_members), (AudienceState::Naming, 5, 5));
    at(&store, 3, work(7, 2)).await.unwrap();
    assert_eq!([1, 2, 3].map(|mpid| name_of(&store, mpid, 7).unwrap()), ["crm", "crm", "patch"]);
    assert_eq!(audience(&store, 7).unwrap().remaining_members, 3);
    store.close().await;

    let store = store_on(&disk, |_, _| {});
    at(&store, 4, join(3, 7, 90)).await.unwrap(); // A patch without a name.
    assert_eq!(name_of(&store, 3, 7).unwrap(), "crm");
    let before = events(&store).len();
    at(&store, 5, work(7, 2)).await.unwrap();
    assert_eq!(events(&store).len(), before + 1, "a membership that has the name already gets no event");
    at(&store, 6, work(7, 2)).await.unwrap();
    let event = events(&store).pop().unwrap();
    assert_eq!(summary(&event), (5, "profile.updated", vec![], vec![]));
    assert_eq!(event.changed_fields.unwrap().paths, ["audience_memberships"]);
    let active = audience(&store, 7).unwrap();
    assert_eq!((active.state(), active.member_count, active.remaining_members), (AudienceState::Active, 5, 0));
    assert_eq!(at(&store, 7, work(7, 2)).await.unwrap().outcome, WriteOutcome::Unchanged);

    let renamed = AudienceMembership { audience_id: 7, audience_name: "mine".into(), expire_time: None };
    let patch = ProfilePatch { join_audiences: vec![renamed], ..ProfilePatch::default() };
    let written = at(&store, 8, update(1, patch)).await.unwrap();
    assert_eq!((written.outcome, name_of(&store, 1, 7).unwrap()), (WriteOutcome::Unchanged, "crm".into()));
    store.close().await;
    check_index(&disk);
}

#[tokio::test]
async fn a_deleted_audience_loses_its_members_step_by_step_and_takes_no_other() {
    let disk = Disk::default();
    let store = with_patched(&disk, 5).await;
    at(&store, 2, create(6)).await.unwrap();
    at(&store, 2, register(7, "crm")).await.unwrap();
    let written = at(&store, 3, unregister(7)).await.unwrap();
    let response = DeleteAudienceResponse::decode(&*written.detail).unwrap();
    assert_eq!(response.outcome(), WriteOutcome::Deleted);
    let deleting = response.audience.unwrap();
    assert_eq!((deleting.state(), deleting.remaining_members), (AudienceState::Deleting, 5));
    assert_eq!(audience(&store, 7).unwrap(), deleting);

    for join in [add(7, [6], None), Change::from(join(6, 7, 90)), Change::from(join(1, 7, 90))] {
        let refused = at(&store, 4, join).await;
        assert!(matches!(refused, Err(StoreError::AudienceDeleting { .. })), "{refused:?}");
    }
    let unknown = at(&store, 4, add(7, [99], None)).await;
    assert!(matches!(unknown, Err(StoreError::AudienceDeleting { .. })), "whatever the keys: {unknown:?}");
    assert!(matches!(at(&store, 4, register(7, "new")).await, Err(StoreError::AudienceExists { .. })));
    let again = at(&store, 4, unregister(7)).await.unwrap();
    assert_eq!((again.outcome, number(&again)), (WriteOutcome::Unchanged, 6));
    at(&store, 4, increment(1)).await.unwrap(); // It may change otherwise, and stays a member until its turn.

    at(&store, 5, work(7, 2)).await.unwrap();
    assert_eq!((members(&store, 7, 5), audience(&store, 7).unwrap().remaining_members), (vec![3, 4, 5], 3));
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    at(&store, 6, delete(3)).await.unwrap();
    at(&store, 7, work(7, 2)).await.unwrap();
    let left: Vec<_> = events(&store).iter().filter(|event| event.exited_audience_ids == [7]).map(|e| e.mpid).collect();
    assert_eq!(left, [1, 2, 3, 4, 5]);
    assert!(matches!(audience(&store, 7), Err(StoreError::AudienceNotFound { .. })), "it went with its last member");
    store.close().await;
    check_index(&disk);
}

/// The last members leave by themselves.
#[tokio::test]
async fn a_deleted_audience_is_gone_with_its_last_member() {
    let disk = Disk::default();
    let store = with_patched(&disk, 2).await;
    at(&store, 2, register(7, "crm")).await.unwrap();
    at(&store, 3, unregister(7)).await.unwrap();
    at(&store, 4, delete(1)).await.unwrap();
    assert_eq!(audience(&store, 7).unwrap().remaining_members, 1);
    at(&store, 5, remove(7, [2])).await.unwrap();
    assert!(matches!(audience(&store, 7), Err(StoreError::AudienceNotFound { .. })));
    at(&store, 6, register(7, "new")).await.unwrap();
    at(&store, 6, add(7, [2], None)).await.unwrap();
    assert_eq!(at(&store, 7, work(7, 9)).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert_eq!(members(&store, 7, 7), [2]);
    store.close().await;
    check_index(&disk);
}

#[tokio::test]
async fn validate_only_changes_nothing_and_a_repeat_gets_the_first_response() {
    let disk = Disk::default();
    let store = with_patched(&disk, 2).await;
    let preview = |change: Change| Command { validate_only: true, ..command(3 * SECOND, change) };
    at(&store, 2, register(8, "erp")).await.unwrap();
    for change in [register(7, "crm"), unregister(8), add(8, [1, 2], None), remove(8, [1])] {
        let head = head(&store);
        let written = store.write(preview(change.clone())).await.unwrap();
        assert!(written.place.is_none() && !written.detail.is_empty(), "{change:?}");
        assert_eq!((self::head(&store), audience(&store, 8).unwrap().member_count), (head, 0));
    }
    assert!(audience(&store, 7).is_err());

    for (id, change) in
        [("a", register(7, "crm")), ("b", add(8, [1], None)), ("c", unregister(8)), ("d", unregister(7))]
    {
        let command = with_id(command(4 * SECOND, change), id);
        let first = store.write(command.clone()).await.unwrap();
        at(&store, 5, increment(1)).await.unwrap();
        let repeat = store.write(command).await.unwrap();
        assert_eq!((repeat.detail, repeat.place, repeat.outcome), (first.detail, first.place, first.outcome), "{id}");
    }
    store.close().await;
    check_index(&disk);
}

/// A step that is full of bytes leaves the rest to the next.
#[tokio::test]
async fn a_deletion_of_large_members_takes_several_steps() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=12 {
        at(&store, 1, set_large_attributes(mpid)).await.unwrap();
    }
    at(&store, 2, register(7, "crm")).await.unwrap();
    at(&store, 2, add(7, 1..=12, None)).await.unwrap();
    at(&store, 3, unregister(7)).await.unwrap();
    at(&store, 4, work(7, 1_000)).await.unwrap();
    let left = audience(&store, 7).unwrap();
    assert!(left.state() == AudienceState::Deleting && left.remaining_members > 0, "{left:?}");
    let mut steps = 1;
    while audience(&store, 7).is_ok() {
        at(&store, 5, work(7, 1_000)).await.unwrap();
        steps += 1;
    }
    assert!((3..=12).contains(&steps), "{steps}");
    store.close().await;
    check_index(&disk);
    assert!(bytes_of(&disk).len() > 1 << 20);
}

/// If the limit was lowered, a profile over it may still change a membership that it has.
#[tokio::test]
async fn a_profile_over_a_lowered_limit_may_change_its_membership() {
    let store = store();
    at(&store, 1, create(ADA)).await.unwrap();
    at(&store, 1, register(7, "crm")).await.unwrap();
    at(&store, 1, add(7, [ADA], None)).await.unwrap();
    let limits = Limits { audience_memberships: 0, ..Limits::default() };
    let longer = Command { limits, ..command(2 * SECOND, add(7, [ADA], Some(9 * SECOND))) };
    assert_eq!(results(&store.write(longer).await.unwrap()), ["Some(1) Updated"]);
}

/// Its name grows, and it has no room; the name wins all the same. The audience is not among the first of its workspace.
#[tokio::test]
async fn a_profile_as_large_as_the_limit_gets_the_registered_name() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let memberships = (1..=70).map(|audience_id| AudienceMembership { audience_id, ..Default::default() });
    let large = Profile { audience_memberships: memberships.collect(), ..Profile::default() };
    at(&store, 1, create_with(ADA, large)).await.unwrap();
    at(&store, 1, set_large_attributes(ADA)).await.unwrap();
    let bytes = stored(&store, ADA).unwrap().unwrap().encoded_len();
    let note = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue("x".repeat(Limits::default().profile_bytes - bytes - 60))),
    };
    let set_user_attributes = Some(prost_types::Struct { fields: [("note".to_owned(), note)].into() });
    let patch = ProfilePatch { set_user_attributes, ..ProfilePatch::default() };
    at(&store, 1, update(ADA, patch)).await.unwrap();
    at(&store, 2, register(69, &"x".repeat(256))).await.unwrap();
    store.close().await;

    let store = Arc::new(store_on(&disk, |_, _| {}));
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));
    until(|| audience(&store, 69).unwrap().state() == AudienceState::Active).await;
    assert_eq!(name_of(&store, ADA, 69).unwrap().len(), 256);
    stop.cancel();
    upkeep.await.unwrap();
}

/// The background does the work, and goes on where a restart has interrupted it.
#[tokio::test]
async fn the_work_on_audiences_goes_on_by_itself() {
    let disk = Disk::default();
    let store = with_patched(&disk, 700).await;
    at(&store, 2, register(7, "crm")).await.unwrap();
    at(&store, 3, work(7, 10)).await.unwrap();
    store.close().await;

    let store = Arc::new(store_on(&disk, |_, _| {}));
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));
    until(|| audience(&store, 7).unwrap().state() == AudienceState::Active).await;
    assert_eq!([11, 700].map(|mpid| name_of(&store, mpid, 7).unwrap()), ["crm", "crm"]);
    at(&store, 4, unregister(7)).await.unwrap();
    until(|| audience(&store, 7).is_err()).await;
    assert_eq!(name_of(&store, 700, 7), None);
    stop.cancel();
    upkeep.await.unwrap();
    store.close().await;
    check_index(&disk);
}

/// Waits until something is so.
pub async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}
