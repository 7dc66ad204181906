//! Bare redb, which durable updates are compared with.
//!
//! Its file is a copy of Cameo's store, so it starts with the same rows in the same pages. A commit does the minimum
//! that a service on redb must do for a batch of updates. For each update it writes one profile row at a random
//! existing key and appends one event row. Both rows are ones that Cameo wrote. Nothing is read, decoded, checked or
//! sent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::figures::{Latency, float, latency};
use crate::fixture::{Fixture, SAMPLES};
use crate::profiles::{Dice, mpid};

// The tables of `cameo::store`.
pub const PROFILES: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("profiles_v1");
pub const EVENTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("events_v1");
/// The number of the only workspace.
pub const WORKSPACE: u32 = 1;
/// Where the header of a redb file holds the numbers of its last two transactions.
const TRANSACTION_NUMBERS: [u64; 2] = [168, 296];

/// How redb makes a commit durable. Each kind costs more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// One sync. After a crash, redb walks the whole file and uses checksums to find which of two states is complete.
    OnePhase,
    /// Two syncs. After a crash, the latest state is known to be complete.
    TwoPhase,
    /// Two syncs, and the free pages are stored too, so redb does not walk the file after a crash. Cameo uses this.
    QuickRepair,
}

pub struct Bare {
    database: Database,
    profiles: u64,
    dice: Dice,
    last_event: u64,
    /// Rows that Cameo wrote for updates.
    profile_rows: Vec<Vec<u8>>,
    event_rows: Vec<Vec<u8>>,
}

/// The results of a run.
pub struct Commits {
    pub batch: u64,
    pub elapsed: Duration,
    pub latency: Latency,
}

impl Commits {
    pub fn updates_per_second(&self) -> f64 {
        float(self.latency.len() * self.batch) / self.elapsed.as_secs_f64()
    }
}

impl Bare {
    pub fn open(fixture: &Fixture) -> anyhow::Result<Self> {
        let database = Database::builder().set_cache_size(fixture.store.cache_bytes).open(fixture.bare_file())?;
        let transaction = database.begin_read()?;
        let (profiles, events) = (transaction.open_table(PROFILES)?, transaction.open_table(EVENTS)?);
        let samples = SAMPLES.min(fixture.profiles);
        let mut profile_rows = Vec::new();
        for index in 0..samples {
            let row = profiles.get((WORKSPACE, mpid(index)))?.context("its profile was updated")?;
            profile_rows.push(row.value().to_vec());
        }
        let mut event_rows = Vec::new();
        for row in events.iter()?.rev().take(profile_rows.len()) {
            event_rows.push(row?.1.value().to_vec());
        }
        let last_event = events.last()?.context("there are events")?.0.value().1;
        let (profiles, dice) = (fixture.profiles, Dice::new(1));
        Ok(Self { database, profiles, dice, last_event, profile_rows, event_rows })
    }

    /// Commits one batch after another for `duration`.
    pub fn run(&mut self, batch: u64, commit: Commit, duration: Duration) -> anyhow::Result<Commits> {
        let start = Instant::now();
        let mut latency = latency();
        let mut began = start;
        while began < start + duration {
            self.commit(batch, commit)?;
            let ended = Instant::now();
            latency.record((ended - began).as_micros().try_into()?)?;
            began = ended;
        }
        Ok(Commits { batch, elapsed: start.elapsed(), latency })
    }

    fn commit(&mut self, batch: u64, commit: Commit) -> anyhow::Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(commit != Commit::OnePhase);
        transaction.set_quick_repair(commit == Commit::QuickRepair);
        {
            let mut profiles = transaction.open_table(PROFILES)?;
            let mut events = transaction.open_table(EVENTS)?;
            for _ in 0..batch {
                let sample = usize::try_from(self.dice.below(self.profile_rows.len() as u64))?;
                let key = mpid(self.dice.below(self.profiles));
                profiles.insert((WORKSPACE, key), &*self.profile_rows[sample])?;
                self.last_event += 1;
                events.insert((WORKSPACE, self.last_event), &*self.event_rows[sample])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// The number of the latest transaction of a redb file, which another process may have open. It is the larger of the
/// two numbers in the header, and grows by one with each commit.
pub fn transactions(file: &Path) -> anyhow::Result<u64> {
    let file = File::open(file)?;
    let mut latest = 0;
    for offset in TRANSACTION_NUMBERS {
        let mut number = [0; 8];
        file.read_exact_at(&mut number, offset)?;
        latest = latest.max(u64::from_le_bytes(number));
    }
    Ok(latest)
}
