//! What a command prints of what it has done.

use std::fmt::Display;
use std::io::{Write, stdout};

/// Prints a line. Errors are ignored: stdout may be closed, and the command has done its work all the same.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(stdout(), "{text}");
}
