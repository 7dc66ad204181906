//! Stories of merges that are undone: what is left of them, and what a later merge or erasure makes of that.

use super::super::harness::{ADA, ALAN, GRACE};
use super::commands::{Edit, Op};
use super::person::Person;
use super::telling::*;
use super::world::World;

fn plan(world: &World, mpid: i64) -> &str {
    &world.model.people[&mpid].attributes[PLAN]
}

#[tokio::test]
async fn an_unmerge_makes_no_attribute_of_the_restored_profile_newer() {
    for into in [GRACE, ALAN] {
        let people = [created(ADA, person("ada", "free")), created(GRACE, Person::default())];
        let undone = [set(GRACE, "pro"), created(ALAN, Person::default()), merged(into, ADA, false), unmerged(ADA)];
        let before = || people.clone().into_iter().chain(undone.clone());
        let world = story(before().chain([merged(GRACE, ADA, true)])).await;
        assert_eq!(plan(&world, GRACE), "pro", "after a merge into {into}");
        let world = story(before().chain([set(ADA, "team"), merged(GRACE, ADA, true)])).await;
        assert_eq!(plan(&world, GRACE), "team", "it has changed since");
    }
}

/// What the survivor has back since then, it did not have when the other profile changed.
#[tokio::test]
async fn an_unmerge_makes_what_the_survivor_has_back_newer() {
    let world = story([
        created(GRACE, person("grace", "pro")),
        created(ADA, person("ada", "free")),
        merged(GRACE, ADA, true),
        created(ALAN, person("alan", "team")),
        unmerged(ADA),
        merged(GRACE, ALAN, true),
    ])
    .await;
    assert_eq!(plan(&world, GRACE), "pro");
}

#[tokio::test]
async fn a_limit_of_tracking_of_two_absorbed_profiles_stays_when_one_merge_is_undone() {
    let limits = |limits_ads, name| Person { limits_ads, users: vec![email(name)], ..Person::default() };
    for own in [None, Some(false)] {
        let people = || {
            let both = [created(ADA, limits(Some(true), "ada")), created(GRACE, limits(Some(true), "grace"))];
            let survivor = created(ALAN, limits(own, "alan"));
            both.into_iter().chain([survivor, merged(ALAN, ADA, false), merged(ALAN, GRACE, false)])
        };
        let limited = async |ops: &[Op]| story(people().chain(ops.to_vec())).await.model.people[&ALAN].limits_ads;
        assert_eq!(limited(&[unmerged(ADA)]).await, Some(true));
        assert_eq!(limited(&[unmerged(GRACE)]).await, Some(true));
        assert_eq!(limited(&[unmerged(ADA), unmerged(GRACE)]).await, own);
        assert_eq!(limited(&[unmerged(GRACE), unmerged(ADA)]).await, own);
        let set = update(ALAN, Edit { limits_ads: Some(false), ..Edit::default() });
        assert_eq!(limited(&[set, unmerged(ADA)]).await, Some(false), "it has changed since");
    }
}

/// What the second merge changed is undone with it, and not with the first.
#[tokio::test]
async fn a_setting_between_two_merges_is_back_when_the_second_is_undone() {
    let limits = |name| Person { limits_ads: Some(true), users: vec![email(name)], ..Person::default() };
    let world = story([
        created(ADA, limits("ada")),
        created(GRACE, limits("grace")),
        created(ALAN, Person::default()),
        merged(ALAN, ADA, false),
        update(ALAN, Edit { limits_ads: Some(false), ..Edit::default() }),
        merged(ALAN, GRACE, false),
        unmerged(ADA),
        unmerged(GRACE),
    ])
    .await;
    assert_eq!(world.model.people[&ALAN].limits_ads, Some(false));
}

/// What a profile had before a merge comes back with it, whichever mpid the others have that have the same.
#[tokio::test]
async fn a_setting_before_several_merges_is_back_when_the_last_of_them_is_undone() {
    let limits =
        |mpid: i64| Person { limits_ads: Some(true), users: vec![email(&mpid.to_string())], ..Person::default() };
    for [second, third] in [[GRACE, DONALD], [DONALD, GRACE]] {
        let people = [ADA, GRACE, DONALD].map(|mpid| created(mpid, limits(mpid)));
        let merges = [
            created(ALAN, Person::default()),
            merged(ALAN, ADA, false),
            update(ALAN, Edit { limits_ads: Some(false), ..Edit::default() }),
            merged(ALAN, second, false),
            merged(ALAN, third, false),
        ];
        let world = story(people.into_iter().chain(merges).chain([ADA, second, third].map(unmerged))).await;
        assert_eq!(world.model.people[&ALAN].limits_ads, Some(false), "{second} before {third}");
    }
}

/// The survivor has dropped it, and the log tells nothing any more: only the record of the merge does.
#[tokio::test]
async fn an_erasure_cleans_records_of_other_merges_of_what_an_absorbed_profile_had() {
    let dropped = |mpid| update(mpid, Edit { drop: vec![email("ada")], ..Edit::default() });
    let mut world = story([
        created(ADA, person("ada", "ada's")),
        created(GRACE, Person::default()),
        created(ALAN, Person::default()),
        created(DONALD, Person::default()),
        merged(GRACE, ADA, false),
        dropped(GRACE),
        update(ALAN, Edit { add: vec![email("ada")], ..Edit::default() }),
        merged(DONALD, ALAN, false),
        dropped(DONALD),
        Op::Trim { most: 100 },
        erased(GRACE),
    ])
    .await;
    assert_eq!(world.holds("ada@example.com"), None);
    world.run(vec![unmerged(ALAN)]).await;
    assert_eq!(world.model.people[&ALAN], Person::default());
}
