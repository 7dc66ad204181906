//! Random patches, batches, lists, imports and restarts: the service must agree with a model in a `BTreeMap`.
//!
//! - [`steps`]: the steps of a test, at random.
//! - [`world`]: the server and the model, which take each step together.

mod steps;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;

use steps::step;
use world::World;

const CASES: u32 = 64;
/// A case takes fewer steps than this.
const STEPS: usize = 30;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]
    #[test]
    fn the_service_agrees_with_a_model(steps in vec(step(), 1..STEPS)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::begin().await;
            for step in steps {
                world.take(step).await;
            }
            world.check_log().await;
        });
    }
}
