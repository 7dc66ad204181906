//! Who is who, in every order of commands: the store against a model of it.
//!
//! - `person`, `model` and `resolve` are the model: what the protos promise, in plain maps. `fold` is a subscriber's copy.
//! - `commands` draws commands. `world` gives them to the store and to the model, and compares.
//! - `stories` are those that random commands tell too rarely, and `undone` those of merges that are made and undone.
//!   `telling` has their words.
//! - `tables` reads every row. `values` knows which values an erasure must have removed.

mod commands;
mod fold;
mod model;
mod person;
mod resolve;
mod stories;
mod tables;
mod telling;
mod undone;
mod values;
mod world;

use proptest::prelude::*;

use world::World;

fn block_on(run: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run);
}

proptest! {
    // 64 cases, unless the environment asks for more.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn people_are_at_every_step_what_the_protos_promise(seeds in prop::collection::vec(any::<u64>(), 1..50)) {
        block_on(async {
            let mut world = World::new();
            for seed in seeds {
                world.step(seed).await;
            }
            world.store.close().await;
        });
    }
}
