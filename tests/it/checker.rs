//! The storm's checker knows what an erasure removes, what it leaves, and what nobody can tell.

use crate::storm::Step::*;
use crate::storm::told;

/// A profile and what became of its identity `k`, told from the start.
#[tokio::test]
async fn what_a_person_took_is_gone_from_where_it_came_from() {
    let story = [Add(1, "k"), Merge { into: 2, from: 1 }, Unmerge(1), Take(3, "k"), Erase(3)];
    assert_eq!(told(&story).await, Ok(0));
    let story = [Add(1, "k"), Add(1, "other"), Merge { into: 2, from: 1 }, Take(3, "k"), Erase(3), Unmerge(1)];
    assert_eq!(told(&story).await, Ok(0));
}

/// Profile 1 had lost it to 2 before 3 took it.
#[tokio::test]
async fn what_was_taken_twice_is_gone_from_both() {
    assert_eq!(told(&[Add(1, "k"), Take(2, "k"), Take(3, "k"), Erase(3)]).await, Ok(0));
}

/// Profile 2 had the identity before it absorbed 1, and the merge says so.
#[tokio::test]
async fn what_another_had_once_stays_where_it_did_not_come_from() {
    let earlier = [Add(1, "k"), Delete(1), Create(1), Add(2, "k")];
    let story = [&earlier[..], &[Merge { into: 2, from: 1 }, Take(4, "k"), Erase(4)]].concat();
    assert_eq!(told(&story).await, Ok(0));
}

/// Profile 2 had the identity before it absorbed 1, and the merge was redacted. An erasure may search what 1 was once.
#[tokio::test]
async fn a_merge_that_was_redacted_may_have_brought_an_identity() {
    let earlier = [Add(1, "k"), Delete(1), Create(1), Add(2, "k")];
    let merges = [Merge { into: 2, from: 3 }, Merge { into: 2, from: 1 }, Unmerge(3), Erase(3)];
    let story = [&earlier[..], &merges, &[Take(4, "k"), Erase(4)]].concat();
    // The event by which 1 got it, and the one of its deletion.
    assert_eq!(told(&story).await, Ok(2));
}

/// Profile 3 was part of 5 when that had the identity.
#[tokio::test]
async fn a_profile_that_was_erased_may_have_been_searched() {
    let earlier = [Add(5, "k"), Merge { into: 5, from: 3 }, Unmerge(3), Remove(5, "k"), Add(2, "k")];
    let story = [&earlier[..], &[Merge { into: 2, from: 3 }, Unmerge(3), Erase(3), Take(4, "k"), Erase(4)]].concat();
    // The event by which 5 lost 3 again.
    assert_eq!(told(&story).await, Ok(1));
}

/// The merge of 1 into 2 was erased with 2, so nothing leads from the second 2 to 1.
#[tokio::test]
async fn an_event_that_was_erased_leads_nowhere() {
    let first = [Add(1, "k"), Merge { into: 2, from: 1 }, Unmerge(1), Erase(2), Delete(1)];
    let story = [&first[..], &[Create(2), Add(2, "k"), Take(4, "k"), Erase(4)]].concat();
    assert_eq!(told(&story).await, Ok(0));
}

/// Profile 2 took the identity from 1, and both events were redacted: 5 was part of the one, and 6 of the other.
#[tokio::test]
async fn nobody_can_tell_what_was_taken_if_both_events_were_redacted() {
    let take = [Add(1, "k"), Merge { into: 1, from: 5 }, Merge { into: 2, from: 6 }, Take(2, "k")];
    let story = [&take[..], &[Unmerge(6), Unmerge(5), Erase(6), Erase(5), Erase(2)]].concat();
    // The event by which 1 got it.
    assert_eq!(told(&story).await, Ok(1));
}

/// An absorbed profile gets back what it had, but for what a person had who was erased.
#[tokio::test]
async fn a_restored_profile_may_lack_what_another_had_once() {
    let story = [Add(1, "k"), Merge { into: 2, from: 1 }, Remove(2, "k"), Add(3, "k"), Erase(3), Unmerge(1)];
    assert_eq!(told(&story).await, Ok(0));
}
