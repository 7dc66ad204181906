//! Stories that random commands tell too rarely. The world compares the store with the model after every command.

use super::super::disk::Disk;
use super::super::harness::*;
use super::commands::{Edit, Key, Op};
use super::person::{Id, Membership, Person};
use super::tables::Dump;
use super::telling::{DONALD, created, email, erased, merged, person, set, story, taken, unmerged, update};
use crate::command::{Change, Command};
use crate::proto::v1::OnConflict;
use crate::store::StoreError;

#[tokio::test]
async fn what_an_undone_merge_gave_does_not_come_back_when_a_later_merge_is_undone() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        merged(GRACE, ADA, false),
        created(ALAN, person("alan", "alan's")),
        merged(GRACE, ALAN, true),
        unmerged(ADA),
        unmerged(ALAN),
        erased(ADA),
    ])
    .await;
    assert_eq!(world.model.people[&GRACE], Person::default());
}

#[tokio::test]
async fn an_opt_out_of_two_absorbed_profiles_stays_when_one_merge_is_undone_unless_it_was_changed_since() {
    let opted_out = |name: &str| Person { opted_out: true, users: vec![email(name)], ..Person::default() };
    let people = || {
        let empty = created(ALAN, Person::default());
        let both = [created(ADA, opted_out("ada")), created(GRACE, opted_out("grace")), empty];
        both.into_iter().chain([merged(ALAN, ADA, false), merged(ALAN, GRACE, false)])
    };
    let world = story(people().chain([unmerged(ADA)])).await;
    assert_eq!(world.model.people[&ALAN], opted_out("grace"));
    let world = story(people().chain([unmerged(ADA), unmerged(GRACE)])).await;
    assert_eq!(world.model.people[&ALAN], Person::default());

    let edit = Edit { opted_out: Some(false), ..Edit::default() };
    let changed = update(ALAN, edit);
    let world = story(people().chain([changed, unmerged(ADA)])).await;
    assert_eq!(world.model.people[&ALAN], Person { opted_out: false, ..opted_out("grace") });
}

#[tokio::test]
async fn an_erasure_cleans_what_the_person_was_part_of_although_the_log_has_lost_the_merge() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, person("grace", "grace's")),
        merged(GRACE, ADA, false),
        set(GRACE, "another"),
        Op::Trim { most: 3 },
        unmerged(ADA),
        erased(ADA),
    ])
    .await;
    let log = world.log();
    assert!(log.iter().any(|event| event.mpid == GRACE && event.redacted), "{log:?}");
    assert!(!format!("{log:?}").contains("ada@example.com"), "{log:?}");
}

#[tokio::test]
async fn an_erasure_cleans_a_third_profile_that_the_survivor_was_part_of_for_a_time() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        merged(GRACE, ADA, false),
        merged(ALAN, GRACE, false),
        update(ALAN, Edit { opted_out: Some(true), ..Edit::default() }),
        unmerged(GRACE),
        unmerged(ADA),
        erased(ADA),
    ])
    .await;
    assert!(!format!("{:?}", world.log()).contains("ada@example.com"));
}

#[tokio::test]
async fn an_identify_call_that_merges_several_profiles_is_one_chain_to_erase() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, person("grace", "grace's")),
        created(ALAN, person("alan", "alan's")),
        Op::Identify {
            ids: vec![email("ada"), email("grace"), email("alan"), email("new")],
            edit: Edit::default(),
            on_conflict: OnConflict::Merge,
            create_as: 101,
        },
        erased(ADA),
    ])
    .await;
    assert!(world.log().iter().all(|event| event.r#type == "profile.erased"));
}

#[tokio::test]
async fn profiles_that_had_the_same_are_as_before_when_their_merge_is_undone() {
    let joined = |name: &str, end| Membership { audience: 7, name: name.into(), end };
    let shared = |name: &str, own, end| Person {
        partners: vec!["shared".into(), format!("{name}'s own")],
        memberships: vec![joined(name, end)],
        opted_out: own,
        limits_ads: Some(own),
        ..person(name, "the same")
    };
    for (one, other) in [(false, true), (true, false)] {
        for (end, later) in [(Some(1_000), None), (None, Some(1_000)), (Some(1_000), Some(2_000)), (None, None)] {
            let (ada, grace) = (shared("ada", one, end), shared("grace", other, later));
            let people = [created(ADA, ada.clone()), created(GRACE, grace.clone())];
            let world = story(people.into_iter().chain([merged(ADA, GRACE, true), unmerged(GRACE)])).await;
            assert_eq!(world.model.people, [(ADA, ada), (GRACE, grace)].into());
        }
    }
}

/// While the events of the first profile are rewritten, the identity by which it is to be erased moves to another.
#[tokio::test]
async fn an_erasure_in_several_commands_erases_all_of_the_profile_that_its_key_leads_to_at_the_end() {
    let disk = Disk::default();
    let store = std::sync::Arc::new(store_on(&disk, |_, _| {}));
    let people = [created(GRACE, person("grace", "grace's")), created(ADA, person("ada", "ada's"))];
    let ops = people.into_iter().chain(["a", "b", "c"].map(|plan| set(ADA, plan)));
    for op in ops {
        store.write(command(SECOND, op.to_change())).await.unwrap();
    }
    let patch = |mpid, edit| update(mpid, edit).to_change();
    let moved = [
        patch(ADA, Edit { drop: vec![email("ada")], ..Edit::default() }),
        patch(GRACE, Edit { add: vec![email("ada")], ..Edit::default() }),
    ];
    let writer = std::sync::Arc::clone(&store);
    let move_it = || {
        std::thread::scope(|scope| {
            let run = async {
                for change in moved.clone() {
                    writer.write(command(2 * SECOND, change)).await.unwrap();
                }
            };
            scope.spawn(|| super::block_on(run)).join().unwrap();
        });
    };
    let has_moved = std::sync::Once::new();
    let Change::Erase(erase) =
        (Op::Erase { key: Key::Id(email("ada")), allow_missing: false, most: Some(1) }).to_change()
    else {
        unreachable!()
    };
    let written = store
        .erase(&erase, |change| {
            if let Change::EraseEvents(_) = change {
                has_moved.call_once(move_it);
            }
            command(3 * SECOND, change)
        })
        .await
        .unwrap();
    assert!(has_moved.is_completed());
    assert_eq!(written.mpid, crate::model::Mpid::new(GRACE));
    store.close().await;
    let dump = Dump::of(&disk);
    for value in ["grace's", "grace@example.com"] {
        assert_eq!(dump.holds(value), None, "{value}");
    }
}

/// Each side of the take tells which identity it was, unless the other person of a merge was erased since. Here both were.
#[tokio::test]
async fn an_erasure_finds_what_was_taken_although_both_events_of_the_take_were_redacted() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        created(DONALD, Person::default()),
        merged(ADA, DONALD, false),
        merged(GRACE, ALAN, false),
        taken(GRACE, "ada"),
        unmerged(ALAN),
        unmerged(DONALD),
        erased(ALAN),
        erased(DONALD),
        erased(GRACE),
    ])
    .await;
    assert_eq!(world.holds("ada@example.com"), None);
    assert!(world.holds("ada's").is_some(), "who lost it keeps the rest");
}

/// The second life of the absorbed profile did not have it. The event of the merge does not tell, because another person
/// who was part of the survivor then was erased.
#[tokio::test]
async fn an_erasure_leaves_an_identity_to_a_profile_that_did_not_bring_it_into_a_merge() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        Op::Delete { key: Key::Mpid(ADA), allow_missing: false },
        created(ADA, Person::default()),
        created(GRACE, person("ada", "grace's")),
        created(ALAN, Person::default()),
        created(DONALD, Person::default()),
        merged(GRACE, ALAN, false),
        merged(GRACE, ADA, false),
        unmerged(ALAN),
        erased(ALAN),
        taken(DONALD, "ada"),
        erased(DONALD),
    ])
    .await;
    let log = world.log();
    let had = |at: usize| format!("{:?}", log[at]).contains("ada@example.com");
    assert_eq!([had(0), had(1), had(3)], [true, true, false], "{log:?}");
}

/// It does, if it brought it.
#[tokio::test]
async fn an_erasure_follows_an_identity_through_a_merge_whose_event_was_redacted() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        created(DONALD, Person::default()),
        merged(GRACE, ALAN, false),
        merged(GRACE, ADA, false),
        unmerged(ALAN),
        erased(ALAN),
        taken(DONALD, "ada"),
        erased(DONALD),
    ])
    .await;
    assert_eq!(world.holds("ada@example.com"), None);
}

#[tokio::test]
async fn an_erasure_leaves_to_each_loser_what_another_lost() {
    let both = Edit { add: vec![email("ada"), email("grace")], take: true, ..Edit::default() };
    let dropped = Edit { drop: vec![email("grace")], ..Edit::default() };
    let mut had_both = person("ada", "ada's");
    had_both.users.push(email("grace"));
    let world = story([
        created(ADA, had_both),
        update(ADA, dropped),
        created(GRACE, person("grace", "grace's")),
        created(ALAN, Person::default()),
        update(ALAN, both),
        erased(ALAN),
    ])
    .await;
    let log = format!("{:?}", world.log());
    assert!(!log.contains("ada@example.com"), "{log}");
    assert!(format!("{:?}", world.log()[0]).contains("grace@example.com"), "she gave it up before: {log}");
    assert!(!format!("{:?}", world.log()[2]).contains("grace@example.com"), "{log}");
}

/// Both profiles have taken the same identity from each other, more often than one reading of the log plans.
#[tokio::test]
async fn an_erasure_ends_however_often_an_identity_has_changed_hands() {
    let mut world = story([created(ADA, person("ada", "ada's")), created(GRACE, Person::default())]).await;
    for nth in 0..40 {
        let mpid = if nth % 2 == 0 { GRACE } else { ADA };
        world.run(vec![taken(mpid, "ada")]).await;
        world.run(vec![set(mpid, &format!("<{nth}>"))]).await;
    }
    world.run(vec![Op::Erase { key: Key::Mpid(ADA), allow_missing: false, most: Some(2) }]).await;
    assert_eq!(world.holds("ada@example.com"), None);
}

#[tokio::test]
async fn an_erasure_of_a_history_with_too_many_taken_identities_is_refused_before_anything_is_removed() {
    let store = std::sync::Arc::new(store_on(&Disk::default(), |_, _| {}));
    for op in [created(ADA, person("ada", "ada's")), created(GRACE, Person::default())] {
        store.write(command(SECOND, op.to_change())).await.unwrap();
    }
    for _ in 0..300 {
        for mpid in [GRACE, ADA] {
            store.write(command(SECOND, taken(mpid, "ada").to_change())).await.unwrap();
        }
    }
    let before = events(&store);
    let Change::Erase(erase) = erased(ADA).to_change() else { unreachable!() };
    let refused = store.erase(&erase, |change| command(2 * SECOND, change)).await;
    let Err(StoreError::Invalid(crate::model::Invalid::Limit { .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(events(&store), before);
}

/// Records of merges outlive the log.
#[tokio::test]
async fn an_erasure_cleans_what_an_unmerge_would_give_back_although_the_log_has_lost_the_take() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        merged(GRACE, ADA, false),
        taken(ALAN, "ada"),
        Op::Trim { most: 100 },
        erased(ALAN),
    ])
    .await;
    assert_eq!(world.holds("ada@example.com"), None);
    let mut world = world;
    world.run(vec![unmerged(ADA)]).await;
    assert_eq!(world.model.people[&ADA], Person { users: Vec::new(), ..person("ada", "ada's") });
}

#[tokio::test]
async fn an_erasure_cleans_what_other_unmerges_would_give_back_although_one_unmerge_has_moved_the_identity() {
    let mut world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        created(DONALD, Person::default()),
        merged(GRACE, ADA, false),
        taken(DONALD, "ada"),
        merged(GRACE, DONALD, false),
        unmerged(ADA),
        taken(ALAN, "ada"),
        erased(ALAN),
    ])
    .await;
    assert_eq!(world.holds("ada@example.com"), None);
    world.run(vec![unmerged(DONALD)]).await;
    assert_eq!(world.model.people[&DONALD], Person::default());
}

/// The survivor has it again, so it is not the person's any more.
#[tokio::test]
async fn an_erasure_leaves_what_an_unmerge_would_give_back_if_the_survivor_owns_it() {
    let world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        merged(GRACE, ADA, false),
        Op::Trim { most: 100 },
        taken(ALAN, "ada"),
        taken(GRACE, "ada"),
        erased(ALAN),
        unmerged(ADA),
    ])
    .await;
    assert_eq!(world.model.people[&ADA], person("ada", "ada's"));
}

/// The request changed the person, so a repeat must not tell of it. Also if the erasure takes several commands.
#[tokio::test]
async fn an_erasure_leaves_the_ids_of_requests_and_nothing_of_what_they_were() {
    for most in [1_000, 1] {
        let disk = Disk::default();
        let store = std::sync::Arc::new(store_on(&disk, |_, _| {}));
        let identify = |ids: &[Id]| {
            let (ids, edit) = (ids.to_vec(), Edit::default());
            Op::Identify { ids, edit, on_conflict: OnConflict::Keep, create_as: ADA }.to_change()
        };
        let first = with_id(command(SECOND, identify(&[email("ada")])), "first");
        let second = with_id(command(SECOND, identify(&[email("ada"), email("lovelace")])), "second");
        for request in [&first, &second] {
            store.write(request.clone()).await.unwrap();
        }
        let Change::Erase(mut erase) = erased(ADA).to_change() else { unreachable!() };
        erase.most = most;
        store.erase(&erase, |change| Command { actor: None, ..command(SECOND, change) }).await.unwrap();
        assert_eq!(Dump::of(&disk.after_power_loss()).holds("email"), None, "the type of the identity that matched");
        for request in [first, second] {
            let repeat = store.write(request).await;
            assert!(matches!(repeat, Err(StoreError::RequestIdReused)), "{most}: {repeat:?}");
        }
    }
}
