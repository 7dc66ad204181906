//! Stories of merges that are undone: what is left of them, and what a later merge or erasure makes of that.

use super::super::harness::{ADA, ALAN, GRACE};
use super::person::Person;
use super::stories::*;
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
