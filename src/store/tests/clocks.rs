//! Clocks that jump: what expires, what is remembered, and what a repeated request returns.

use prost::Message;

use super::disk::Disk;
use super::harness::*;
use crate::command::{Command, Stamp};
use crate::model::{Invalid, Micros};
use crate::proto::v1::{Profile, WriteOutcome};
use crate::store::StoreError;

const FIVE_YEARS: i64 = 5 * 365 * DAY;

/// A command whose time of day is wrong, while the uptime is right.
fn at(time: i64, uptime: i64, change: impl Into<crate::command::Change>) -> Command {
    let command = command(time, change);
    Command { stamp: Stamp { uptime: Micros::new(uptime), ..command.stamp }, ..command }
}

fn audiences(profile: &[u8]) -> Vec<i64> {
    let profile = Profile::decode(profile).unwrap();
    profile.audience_memberships.iter().map(|membership| membership.audience_id).collect()
}

/// Event times must not go back, but the expiry of memberships does not depend on them.
#[tokio::test]
async fn a_write_made_while_the_clock_was_years_ahead_costs_no_other_profile_its_memberships() {
    let store = store();
    store.write(command(1, create(ADA))).await.unwrap();
    store.write(command(2, join(ADA, 7, 1_000))).await.unwrap();
    store.write(command(FIVE_YEARS, create(GRACE))).await.unwrap();

    let updated = store.write(command(3 * SECOND, increment(ADA))).await.unwrap();
    assert_eq!(audiences(&updated.profile.unwrap()), [7]);
    let joined = store.write(command(4 * SECOND, join(ADA, 8, 1_000))).await.unwrap();
    assert_eq!(audiences(&joined.profile.unwrap()), [7, 8]);
    let times: Vec<_> = events(&store).iter().map(|event| event.time.unwrap().seconds).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test]
async fn a_membership_that_a_write_saw_expire_stays_expired_when_the_clock_goes_back() {
    let store = store();
    store.write(command(1, create(ADA))).await.unwrap();
    store.write(command(2, join(ADA, 7, 10))).await.unwrap();
    store.write(command(11 * SECOND, increment(ADA))).await.unwrap();

    let back = store.write(command(3 * SECOND, increment(ADA))).await.unwrap();

    assert!(audiences(&back.profile.unwrap()).is_empty());
    assert!(stored(&store, ADA).unwrap().unwrap().audience_memberships.is_empty());
}

#[tokio::test]
async fn a_request_id_is_not_forgotten_by_a_clock_that_steps_ahead_and_back() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(at(1, 1, create(ADA))).await.unwrap();
    let first = store.write(with_id(at(2, 2, increment(ADA)), "r")).await.unwrap();
    for n in 0..10 {
        store.write(with_id(at(25 * HOUR, 3 + n, increment(ADA)), &format!("ahead {n}"))).await.unwrap();
    }

    let repeat = store.write(with_id(at(4, 20, increment(ADA)), "r")).await.unwrap();
    assert_eq!((repeat.place, repeat.profile), (first.place, first.profile.clone()));
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    let repeat = store.write(with_id(at(25 * HOUR, 21, increment(ADA)), "r")).await.unwrap();
    assert_eq!((repeat.place, repeat.profile), (first.place, first.profile), "after a restart, with a clock ahead");
}

/// Otherwise each restart would make remembered ids look younger, or new ones look older.
#[tokio::test]
async fn uptime_continues_after_a_restart() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let uptime = 3 * DAY;
    store.write(with_id(at(1, uptime, create(ADA)), "r")).await.unwrap();
    store.close().await;
    let stamp = store_on(&disk, |_, _| {}).stamp();
    assert!((uptime..uptime + DAY).contains(&stamp.uptime.get()), "{stamp:?}");
}

/// The clock was set back while the server was stopped.
#[tokio::test]
async fn time_continues_from_the_latest_event_after_a_restart() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let ahead = store.now().get() + HOUR / 2;
    store.write(command(ahead, create(ADA))).await.unwrap();
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    assert_eq!((store.now().get(), store.stamp().time.get()), (ahead, ahead));
}

#[tokio::test]
async fn a_repeat_gets_the_first_result_even_after_the_membership_has_expired() {
    let store = store();
    store.write(command(1, create(ADA))).await.unwrap();
    let first = store.write(with_id(command(1, join(ADA, 7, 2)), "r")).await.unwrap();
    let repeat = store.write(with_id(command(3 * SECOND, join(ADA, 7, 2)), "r")).await.unwrap();
    assert_eq!((repeat.place, repeat.profile), (first.place, first.profile));
    let late = store.write(command(3 * SECOND, join(ADA, 7, 2))).await;
    assert!(matches!(late, Err(StoreError::Invalid(Invalid::Field { .. }))));

    // The membership has expired: a write that changes nothing does not show it, and joining again is an entry again.
    let answer = store.write(command(3 * SECOND, leave_nothing(ADA))).await.unwrap();
    assert_eq!(answer.outcome, WriteOutcome::Unchanged);
    assert!(audiences(&answer.profile.unwrap()).is_empty());
    store.write(command(3 * SECOND, join(ADA, 7, 9))).await.unwrap();
    assert_eq!(events(&store).last().unwrap().entered_audience_ids, [7]);
}

#[tokio::test]
async fn a_repeat_of_a_write_that_changed_nothing_leaves_out_what_the_first_result_left_out() {
    let store = store();
    store.write(command(1, create(ADA))).await.unwrap();
    store.write(command(2, join(ADA, 7, 2))).await.unwrap();
    let first = store.write(with_id(command(3 * SECOND, leave_nothing(ADA)), "r")).await.unwrap();
    assert_eq!(first.outcome, WriteOutcome::Unchanged);
    assert!(audiences(first.profile.as_ref().unwrap()).is_empty());

    let repeat = store.write(with_id(command(4 * SECOND, leave_nothing(ADA)), "r")).await.unwrap();
    assert_eq!(repeat.profile, first.profile);
    store.write(command(5 * SECOND, increment(ADA))).await.unwrap();
    let repeat = store.write(with_id(command(6 * SECOND, leave_nothing(ADA)), "r")).await.unwrap();
    assert_eq!(repeat.profile, first.profile, "also if the profile is read back from its event");
}
