//! Target: any text as a cursor.
//!
//! - Nothing panics.
//! - A cursor that parses prints as it was given.
//! - It parses in no other log and no other workspace, and not past the head of the log.

use cameo::model::cursor::{CursorSpace, KnownCursors};
use cameo::model::{LogId, Place, Workspace};

use super::sealed;

/// The log and the workspace of the seeds.
const LOG: u64 = 7;
const WORKSPACE: &str = "acme/main/web";

pub fn run(input: &[u8]) {
    let Some(text) = sealed::token(input) else { return };
    let (home, known) = (space(LOG, WORKSPACE), KnownCursors::from(space(LOG, WORKSPACE)));
    let Ok(position) = known.parse("cursor", &text, Place::LAST) else { return };

    assert_eq!(home.at(position).to_string(), text, "it prints as it was given");
    assert!(
        KnownCursors::from(space(LOG + 1, WORKSPACE)).parse("cursor", &text, Place::LAST).is_err(),
        "it is of one log"
    );
    assert!(
        KnownCursors::from(space(LOG, "acme/main/app")).parse("cursor", &text, Place::LAST).is_err(),
        "it is of one workspace"
    );
    assert_eq!(known.parse("cursor", &text, position.place()), Ok(position), "the head is a place");
    if let Some(before) = position.place().get().checked_sub(1) {
        assert!(known.parse("cursor", &text, Place::after(before)).is_err(), "it is past the head");
    }
}

fn space(log: u64, workspace: &str) -> CursorSpace {
    CursorSpace::new(LogId(log), &Workspace::parse(workspace).expect("it is well formed"))
}
