//! The attacks, each with the polite caller that must not notice it.
//!
//! - [`unread`]: responses that are not read. [`unfinished`]: requests that do not end.
//! - [`packed`]: little that comes to much.
//! - [`silent`]: connections and imports that say nothing. [`floods`]: more work than there is time for.
//! - [`strangers`]: calls of those who have no credential, on servers that ask for one.

mod floods;
mod packed;
mod silent;
mod strangers;
mod unfinished;
mod unread;

use std::pin::Pin;
use std::sync::Arc;

use crate::logins::{KNOWN, Keys};
use crate::polite::Polite;
use crate::raw::Target;
use crate::store::{ATTACKED, OTHER};

/// What became of the attacker; an error if the server should have done something else with it.
pub type Ending = Result<String, String>;
type Running = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// An attack.
pub struct Attack {
    pub name: &'static str,
    pub polite: Polite,
    /// How many files the server may open.
    pub files: Option<u32>,
    /// If the server asks for credentials: where it gets keys from.
    pub keys: Option<Keys>,
    pub run: Box<dyn Fn(Arc<Target>) -> Running>,
}

impl Attack {
    fn new<F: Future<Output = Ending> + Send + 'static>(
        name: &'static str,
        polite: Polite,
        run: impl Fn(Arc<Target>) -> F + 'static,
    ) -> Self {
        Self { name, polite, files: None, keys: None, run: Box::new(move |target| Box::pin(run(target))) }
    }

    fn with_files(self, files: u32) -> Self {
        Self { files: Some(files), ..self }
    }

    fn with_logins(self, keys: Keys) -> Self {
        Self { keys: Some(keys), ..self }
    }
}

/// All attacks. A later line in a group needs more of the server than an earlier one.
pub fn all() -> Vec<Attack> {
    use Polite::{Batch, CatchUp, Connect, HealthCheck, Import, Lookup, Update};
    vec![
        // --send-bytes, --send-timeout
        Attack::new("400 pages that are not read", Lookup(ATTACKED), |target| unread::pages(target, 2)),
        Attack::new("3,200 pages that are not read", Lookup(ATTACKED), |target| unread::pages(target, 16)),
        Attack::new("200 lookups that are not read", Lookup(ATTACKED), unread::lookups),
        Attack::new("400 compressed pages that are not read", Lookup(ATTACKED), unread::compressed_pages),
        Attack::new("2,000 compressed lookups that are not read", Lookup(ATTACKED), unread::compressed_gets),
        Attack::new("40,000 unknown paths that are read in part", Lookup(ATTACKED), unread::unknown_paths),
        Attack::new("HTTP/1.1 responses that are not read", Lookup(ATTACKED), unread::http1),
        Attack::new("1,000 subscribers that read nothing", Lookup(ATTACKED), unread::subscribers),
        // --receive-bytes, --receive-timeout
        Attack::new("800 messages of 5 bytes that declare 1 MiB", Update(ATTACKED), unfinished::declared),
        Attack::new("800 messages of 1 MiB without their last byte", Update(ATTACKED), unfinished::large),
        Attack::new("800 messages of 60 KiB without their last byte", Update(ATTACKED), unfinished::small),
        Attack::new("16 messages in frames of one byte", Update(ATTACKED), unfinished::crumbs),
        Attack::new("800 parts of 4 MiB for reflection", Lookup(ATTACKED), unfinished::reflection),
        Attack::new("9,600 lookups without a message", Lookup(ATTACKED), unfinished::lookups),
        Attack::new("9,600 health checks without a message", HealthCheck, unfinished::checks),
        Attack::new("900 imports of a compressed record of 1 MiB", Update(ATTACKED), packed::imports),
        Attack::new("100 compressed batches of 500,000 keys", Lookup(ATTACKED), packed::batches),
        Attack::new("8,000 compressed bodies without their end", Lookup(ATTACKED), packed::bodies),
        Attack::new("10,000 calls with 150 headers", Lookup(ATTACKED), packed::heads),
        // --max-connections, --handshake-timeout
        Attack::new("300 silent connections, health", HealthCheck, silent::connections).with_files(256),
        Attack::new("300 silent connections, lookups", Connect(ATTACKED), silent::connections).with_files(256),
        Attack::new("200 slow heads of HTTP/1.1", Connect(ATTACKED), silent::slow_heads),
        // The places of imports
        Attack::new("16 imports that say nothing", Import, |target| silent::imports(target, 16, 0)),
        Attack::new("16 imports that stop after a record", Import, |target| silent::imports(target, 16, 1)),
        // Fair writes: --queue-bytes
        Attack::new("17 callers of large updates, same workspace", Update(ATTACKED), floods::large_updates),
        Attack::new("17 callers of large updates, other workspace", Update(OTHER), floods::large_updates),
        // Classes of reads
        Attack::new("64 callers of pages, lookups", Lookup(ATTACKED), floods::pages),
        Attack::new("64 callers of pages, batches", Batch(ATTACKED), floods::pages),
        Attack::new("64 callers of pages, catching up", CatchUp, floods::pages),
        // Logins
        Attack::new("64 callers without a credential", Lookup(ATTACKED), |target| strangers::callers(target, None))
            .with_logins(Keys::File),
        Attack::new("64 callers with forged JWTs", Lookup(ATTACKED), |target| strangers::callers(target, Some(KNOWN)))
            .with_logins(Keys::File),
        Attack::new("50,000 JWTs of unknown keys, source down", Lookup(ATTACKED), strangers::unknown)
            .with_logins(Keys::Silence),
        // What HTTP/2 itself bounds
        Attack::new("rapid resets", Lookup(ATTACKED), floods::resets),
    ]
}
