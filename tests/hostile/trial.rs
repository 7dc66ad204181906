//! One attack, measured.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::attacks::Attack;
use crate::logins::Logins;
use crate::polite::{self, Calls, Credential};
use crate::raw::Target;
use crate::server::{Server, allowed};
use crate::store::Store;

/// How long the polite caller is measured before the attack, then beside threads that only keep the processors busy, and
/// when the attack is in place.
const QUIET: Duration = Duration::from_millis(1_500);
const BUSY: Duration = Duration::from_secs(1);
const UNDER_ATTACK: Duration = Duration::from_secs(3);
/// How long an attack may take to be in place.
const ONSET: Duration = Duration::from_secs(15);
/// How long an attack may take to see what became of it.
const END: Duration = Duration::from_secs(15);
/// How many times its quiet time a polite caller may need under attack.
const MOST_SLOWED: u32 = 5;

/// What an attack did.
pub struct Outcome {
    pub sent: usize,
    /// Peak memory above the quiet figure.
    pub memory: usize,
    pub quiet: Calls,
    /// Beside busy processors, without an attack.
    pub busy: Calls,
    pub attacked: Calls,
    /// What became of the attacker, or what should have and did not.
    pub ending: Result<String, String>,
    pub survived: bool,
}

impl Outcome {
    /// Effects that an attack must not have.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.survived {
            faults.push("the server ended".to_owned());
        }
        if self.memory > allowed() {
            faults.push("it took more memory than its budgets allow".to_owned());
        }
        for (calls, when) in [(&self.quiet, "before"), (&self.attacked, "during")] {
            if let Some(first) = &calls.first_failure {
                faults.push(format!("{} polite calls failed {when} the attack, first {first}", calls.failed));
            }
        }
        if self.attacked.count() == 0 {
            faults.push("no polite call ended".to_owned());
        }
        faults.extend(self.ending.as_ref().err().cloned());
        faults
    }

    /// Whether the polite caller is slowed down more than it should be. Not a fault: the machine may be busy.
    pub fn is_slow(&self) -> bool {
        self.attacked.p99() > MOST_SLOWED * self.quiet.p99()
    }
}

/// Makes the attack on a server of its own.
pub async fn measure(attack: &Attack, store: &Store) -> Outcome {
    let dir = store.copy();
    let logins = match attack.keys {
        Some(keys) => Some(Logins::new(keys).await),
        None => None,
    };
    let flags = logins.as_ref().map(Logins::flags).unwrap_or_default();
    let mut server = Server::start(dir.path(), attack.files, &flags).await;
    let credential = Credential::new(logins.as_ref().map(|logins| &*logins.token));
    let call_until = |stop, addr| polite::call_until(stop, addr, attack.polite, credential.clone());
    let stop = CancellationToken::new();
    let quiet = call_until(stop.clone(), server.addr);
    let (quiet, ()) = tokio::join!(quiet, cancel_after(QUIET, stop));
    let stop = CancellationToken::new();
    keep_processors_busy(&stop);
    let busy = call_until(stop.clone(), server.addr);
    let (busy, ()) = tokio::join!(busy, cancel_after(BUSY, stop));

    let before = server.resident();
    server.forget_peak();
    let target = Arc::new(Target::new(server.addr));
    let stop = CancellationToken::new();
    let attacked = call_until(stop.clone(), server.addr);
    let attacking = tokio::spawn((attack.run)(Arc::clone(&target)));
    let watch = async {
        let _ = tokio::time::timeout(ONSET, target.in_place.cancelled()).await;
        cancel_after(UNDER_ATTACK, stop).await;
        target.enough.cancel();
    };
    let (attacked, ()) = tokio::join!(attacked, watch);
    let late = |_| Ok(Err("the attack did not see its end".to_owned()));
    let ending = tokio::time::timeout(END, attacking).await.unwrap_or_else(late);
    let ending = ending.unwrap_or_else(|error| Err(format!("the attack failed: {error}")));
    let ending = if target.in_place.is_cancelled() { ending } else { Err("the attack did not get in place".into()) };
    let survived = server.runs();
    let memory = if survived { server.peak().saturating_sub(before) } else { 0 };
    server.kill().await;
    Outcome { sent: target.sent(), memory, quiet, busy, attacked, ending, survived }
}

async fn cancel_after(time: Duration, token: CancellationToken) {
    tokio::time::sleep(time).await; // The length of a measurement.
    token.cancel();
}

/// Runs a thread for each processor until `stop` is cancelled.
fn keep_processors_busy(stop: &CancellationToken) {
    for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.is_cancelled() {
                std::hint::spin_loop();
            }
        });
    }
}
