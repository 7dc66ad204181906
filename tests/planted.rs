//! Faults that are planted in the server: the validator of the storm must find each, and must find nothing without one.
//!
//! A fault is in the whole process, so these tests run one after another.
#![allow(dead_code, unused_imports)] // What the tests in `it` share is more than these need.

#[path = "it"]
mod it {
    pub mod harness;
    pub mod storm;
}

use cameo::feed::planted::{Fault, plant};
use it::harness;
use it::storm::violation::Violation;
use it::storm::{Size, storm};
use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The most storms for a fault. Some faults show only at times: a cursor that runs ahead needs an event that is committed
/// while a stream catches up, and a client that wants it.
const STORMS: u64 = 4;

/// What small storms find in a server with a fault.
async fn found(fault: Option<Fault>) -> Option<Violation> {
    let _alone = ONE_AT_A_TIME.lock().await;
    plant(fault);
    let mut found = None;
    for seed in 1..=STORMS {
        let size = Size { seed, clients: 30, streams: 6, writes: 150, restarts: 1 };
        found = storm(size).await.err().map(|(_, violation)| violation);
        if found.is_some() {
            break;
        }
    }
    plant(None);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_without_a_fault() {
    assert_eq!(found(None).await, None);
}

macro_rules! finds {
    ($($name:ident: $fault:expr => $violation:pat,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let found = found(Some($fault)).await;
            assert!(matches!(found, Some($violation)), "{found:?}");
        }
    )*};
}

finds! {
    an_event_that_is_dropped_is_missing: Fault::Drop
        => Violation::Missing { .. } | Violation::LeftForgotten { .. },
    an_event_that_is_repeated_is_found: Fault::Repeat => Violation::Repeated { .. },
    // A stream that ends between the two is resumed after the first to come, and the other is missing.
    two_events_that_change_places_are_found: Fault::Reorder
        => Violation::Reordered { .. } | Violation::Missing { .. },
    a_cursor_that_runs_ahead_is_found: Fault::CursorAhead
        => Violation::CursorAhead { .. } | Violation::AcknowledgementRefused { .. },
    // A mask may leave out the mpid. The profile after the one that is missing is then taken for it.
    a_profile_that_a_snapshot_lacks_is_missing: Fault::SnapshotShort
        => Violation::SnapshotMissing { .. } | Violation::SnapshotAltered { .. },
    a_snapshot_as_of_another_place_is_found: Fault::SnapshotBefore
        => Violation::SnapshotAltered { .. }
            | Violation::SnapshotMissing { .. }
            | Violation::SnapshotUnwanted { .. }
            | Violation::WrongNotice { .. }
            | Violation::AcknowledgementRefused { .. },
    a_filter_that_forgets_who_left_is_found: Fault::ForgetLeft => Violation::LeftForgotten { .. },
    a_filter_that_forgets_an_absorbed_profile_is_found: Fault::ForgetAbsorbed => Violation::LeftForgotten { .. },
    a_merge_that_is_told_only_to_those_of_the_survivor_is_found: Fault::ForgetOther
        => Violation::LeftForgotten { .. } | Violation::Missing { .. },
    a_filter_that_forgets_an_erased_event_is_found: Fault::ForgetErased => Violation::LeftForgotten { .. },
    a_filter_that_forgets_whose_membership_ended_is_found: Fault::ForgetEnded => Violation::LeftForgotten { .. },
    a_restored_profile_that_is_not_delivered_is_missing: Fault::DropUnmerged
        => Violation::Missing { .. } | Violation::LeftForgotten { .. },
    what_is_delivered_after_it_was_erased_is_found: Fault::KeepErased
        => Violation::ErasedValue { .. }
            | Violation::ErasedProfile { .. }
            // What was erased did not match, but what is left of it does.
            | Violation::LeftForgotten { .. }
            | Violation::Missing { .. },
    an_acknowledgement_that_goes_back_is_found: Fault::AcknowledgeBack
        => Violation::AcknowledgedBack { .. } | Violation::WrongPlace { .. },
    a_stream_that_resumes_too_early_is_found: Fault::ResumeBefore => Violation::WrongPlace { .. },
}
