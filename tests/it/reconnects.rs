//! Subscribers that come and go while the server restarts.

use crate::storm::{Size, storm};

/// As many as a quick test allows. 200 are a storm.
const CLIENTS: u64 = 60;

/// `STORM_SEED=7 STORM_CLIENTS=200 cargo test subscribers_that_reconnect` runs a larger one, or one that failed. A seed
/// repeats what is asked for and written, but not how the threads take turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_reconnect_in_a_storm_see_the_log_as_it_is() {
    let set = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seed = set("STORM_SEED").unwrap_or_else(rand::random);
    let size = Size { seed, ..Size::of(set("STORM_CLIENTS").unwrap_or(CLIENTS)) };
    let seen = storm(size).await.unwrap_or_else(|found| panic!("STORM_SEED={seed} {found:?}"));
    println!("{seen:?}");
    let counts = [
        seen.durable_streams,
        seen.acknowledgements,
        seen.events,
        seen.left,
        seen.deleted,
        seen.merged,
        seen.merged_away,
        seen.unmerged,
        seen.erased,
        seen.redacted,
        seen.by_expression,
        seen.ended,
        seen.snapshots,
        seen.resumed_snapshots,
        seen.expired,
        seen.lost,
        seen.begun_again,
    ];
    assert!(counts.iter().all(|count| *count > 0), "STORM_SEED={seed} {seen:?}");
}
