//! The words in which the stories are told.

use super::commands::{Edit, Key, Op};
use super::person::{Id, Person};
use super::world::World;

pub(super) const DONALD: i64 = 4;
pub(super) const PLAN: &str = "user_attributes[\"plan\"]";

pub(super) fn email(name: &str) -> Id {
    Id::new("email", format!("{name}@example.com"))
}

/// A person with an email address, and this plan.
pub(super) fn person(name: &str, plan: &str) -> Person {
    let attributes = [(PLAN.to_owned(), plan.to_owned())].into();
    Person { users: vec![email(name)], attributes, ..Person::default() }
}

pub(super) fn created(mpid: i64, person: Person) -> Op {
    Op::Create { mpid, drawn: false, person }
}

/// A profile is changed.
pub(super) fn update(mpid: i64, edit: Edit) -> Op {
    Op::Update { key: Key::Mpid(mpid), edit, create_as: None }
}

pub(super) fn set(mpid: i64, plan: &str) -> Op {
    let set = [(PLAN.to_owned(), plan.to_owned())].into();
    update(mpid, Edit { set, ..Edit::default() })
}

pub(super) fn merged(into: i64, from: i64, prefer_newer: bool) -> Op {
    Op::Merge { into: Key::Mpid(into), from: Key::Mpid(from), prefer_newer }
}

pub(super) fn unmerged(mpid: i64) -> Op {
    Op::Unmerge { mpid }
}

pub(super) fn erased(mpid: i64) -> Op {
    Op::Erase { key: Key::Mpid(mpid), allow_missing: false, most: None }
}

/// A profile takes the email address with this name.
pub(super) fn taken(mpid: i64, name: &str) -> Op {
    update(mpid, Edit { add: vec![email(name)], take: true, ..Edit::default() })
}

/// Runs one command after the other.
pub(super) async fn story(ops: impl IntoIterator<Item = Op>) -> World {
    let mut world = World::new();
    for op in ops {
        world.now += 1;
        world.run(vec![op]).await;
    }
    world
}
