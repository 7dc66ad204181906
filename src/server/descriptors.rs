//! File descriptors: as many as the system allows, some of them in reserve.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections may not take: for the store, the listeners, a few connections of health checks, and
/// connections that are being closed.
const RESERVE: u64 = 64;
/// The fewest connections, however few descriptors there are.
const FEWEST: usize = 16;

/// How many connections may be open at a time: `wanted`, or as many as there are descriptors for. Raises the process's
/// soft limit to the hard one first.
pub(super) fn connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // An error leaves the limit as it is, which is then what counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return wanted };
    let possible = usize::try_from(descriptors.saturating_sub(RESERVE)).unwrap_or(usize::MAX).max(FEWEST);
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "--max-connections is more than the limit of open files allows; raise it with ulimit -n"
        );
    }
    wanted.min(possible)
}
