//! Subscribers that come and go while the server restarts.

use crate::storm::{Size, WINDS, storm};

/// As many as a quick test allows. 200 are a storm.
const CLIENTS: u64 = 60;

/// A storm may lack one of its winds. Several together have all.
const STORMS: u64 = 3;

/// `STORM_SEED=7 STORM_CLIENTS=200 cargo test subscribers_that_reconnect` runs a larger one, or one that failed. A seed
/// repeats what is asked for and written, but not how the threads take turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_reconnect_in_a_storm_see_the_log_as_it_is() {
    let set = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let first = set("STORM_SEED").unwrap_or_else(rand::random);
    let clients = set("STORM_CLIENTS").unwrap_or(CLIENTS);
    let mut counted = [0; WINDS];
    for seed in (0..STORMS).map(|storm| first.wrapping_add(storm)) {
        let size = Size { seed, ..Size::of(clients) };
        let seen = storm(size).await.unwrap_or_else(|found| panic!("STORM_SEED={seed} {found:?}"));
        println!("{seen:?}");
        counted.iter_mut().zip(seen.winds()).for_each(|(counted, wind)| *counted += wind);
        if counted.iter().all(|count| *count > 0) {
            return;
        }
    }
    panic!("STORM_SEED={first} {counted:?}");
}
