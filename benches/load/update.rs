//! Durable updates, compared with [`crate::bare`] redb; and what redb's two safeguards cost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use cameo::proto::field::update_profile_response::OUTCOME;
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::{ProfileKey, UpdateProfileRequest, WriteOutcome};
use prost::Message;

use crate::bare::{Bare, Commit, Commits, transactions};
use crate::child::Child;
use crate::client::{Outcome, Work, callers, closed_loop, connect};
use crate::figures::{count, float, median, micros, micros_of, quantile};
use crate::fixture::Fixture;
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, mpid, patch};
use crate::report::Report;

/// Clients, each with one update in flight.
const CLIENTS: [usize; 3] = [1, 16, 256];
const CONNECTIONS: usize = 4;
/// Updates per commit, for the cost of redb's safeguards.
const BATCHES: [u64; 3] = [1, 16, 256];
/// The length of a turn for that cost. Bare redb needs no time to reach its speed.
const COMMIT_TURN: Duration = Duration::from_millis(250);
/// The end of a response: the field `outcome`, a varint, is UPDATED.
const UPDATED: [u8; 2] = [(OUTCOME << 3).to_le_bytes()[0], WriteOutcome::Updated as u8];

/// Purchases by random people.
pub struct Update {
    pub profiles: u64,
}

impl Work for Update {
    const PATH: &'static str = "/cameo.v1.ProfileService/UpdateProfile";
    type Expected = ();

    fn request(&self, dice: &mut Dice) -> (Bytes, ()) {
        let request = UpdateProfileRequest {
            workspace: WORKSPACE.into(),
            key: Some(ProfileKey { key: Some(Key::Mpid(mpid(dice.below(self.profiles)))) }),
            patch: Some(patch(dice)),
            ..UpdateProfileRequest::default()
        };
        (request.encode_to_vec().into(), ())
    }

    fn is_right(&self, answer: &[u8], (): &()) -> bool {
        answer.ends_with(&UPDATED)
    }
}

/// One turn of each side.
struct Round {
    cameo: Outcome,
    /// Updates per commit of Cameo.
    batch: f64,
    /// CPU time of the server per update, in microseconds.
    processor: f64,
    /// Bare redb, with one update per client in each commit.
    bare: Commits,
    /// Bare redb, with as many updates in each commit as Cameo.
    bare_alike: Commits,
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut bare = Bare::open(fixture)?;
    let cameo = Child::cameo(&fixture.store).await?;
    let mut rows = Vec::new();
    for clients in CLIENTS {
        let mut rounds = Vec::new();
        for round in 0..=plan.rounds {
            rounds.push(one_round(fixture, &cameo, &mut bare, clients, plan.duration, round.into()).await?);
        }
        rounds.remove(0); // This round filled the caches.
        rows.extend(tell(clients, &rounds, report));
    }
    let columns = ["Writer", "updates/s", "Cameo relative to this", "p50", "p99", "server CPU per update"];
    report.table("Durable updates", &columns, &rows);
    commit_costs(&mut bare, plan, report)?;
    cameo.stop().await
}

async fn one_round(
    fixture: &Fixture,
    server: &Child,
    bare: &mut Bare,
    clients: usize,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Round> {
    let channels = connect(server.addr, CONNECTIONS.min(clients)).await?;
    let work = Arc::new(Update { profiles: fixture.profiles });
    let (before, processor) = (transactions(&fixture.store_file())?, server.processor_time()?);
    let cameo = closed_loop(callers(&channels, clients, &work), duration, seed).await?;
    let commits = transactions(&fixture.store_file())? - before;
    ensure!(commits > 0, "updates are committed before the response");
    let batch = float(cameo.calls) / float(commits);
    let processor = micros_of(server.processor_time()?.saturating_sub(processor)) / float(cameo.calls);

    let bare_of =
        |bare: &mut Bare, batch| tokio::task::block_in_place(|| bare.run(batch, Commit::QuickRepair, duration));
    let as_clients = bare_of(bare, clients as u64)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // From 1 to 512.
    let alike = bare_of(bare, batch.round() as u64)?;
    Ok(Round { cameo, batch, processor, bare: as_clients, bare_alike: alike })
}

fn tell(clients: usize, rounds: &[Round], report: &mut Report) -> [Vec<String>; 3] {
    let ours = || rounds.iter().map(|round| round.cameo.per_second());
    let ratio_to = |bare: fn(&Round) -> &Commits| {
        let ratios = rounds.iter().map(|round| round.cameo.per_second() / bare(round).updates_per_second());
        format!("{:.2}", median(ratios))
    };
    let (to_bare, to_alike) = (ratio_to(|round| &round.bare), ratio_to(|round| &round.bare_alike));
    let updates = count(median(ours()));
    let name = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    let claim = format!("Durable updates, {name}: updates/s, relative to bare redb that commits the same rows");
    report.claim(format!("{claim}, {clients} per commit"), format!("{to_bare} ({updates} updates/s)"), "");
    report.claim(format!("{claim}, as many per commit as Cameo"), &*to_alike, "");

    let latencies = || rounds.iter().map(|round| &round.cameo.latency);
    let batch = median(rounds.iter().map(|round| round.batch));
    [
        vec![
            format!("Cameo, {name}"),
            updates,
            String::new(),
            quantile(latencies(), 0.5),
            quantile(latencies(), 0.99),
            format!("{:.0} µs", median(rounds.iter().map(|round| round.processor))),
        ],
        bare_row(format!("bare redb, {clients} per commit (one per client)"), rounds, |round| &round.bare, to_bare),
        bare_row(
            format!("bare redb, {batch:.1} per commit (as many as Cameo)"),
            rounds,
            |round| &round.bare_alike,
            to_alike,
        ),
    ]
}

fn bare_row(name: String, rounds: &[Round], bare: fn(&Round) -> &Commits, ratio: String) -> Vec<String> {
    let latencies = || rounds.iter().map(|round| &bare(round).latency);
    let rate = count(median(rounds.iter().map(|round| bare(round).updates_per_second())));
    vec![name, rate, ratio, quantile(latencies(), 0.5), quantile(latencies(), 0.99), String::new()]
}

fn commit_costs(bare: &mut Bare, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    const KINDS: [Commit; 3] = [Commit::OnePhase, Commit::TwoPhase, Commit::QuickRepair];
    let mut rows = Vec::new();
    for batch in BATCHES {
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..plan.rounds {
            for (kind, times) in KINDS.into_iter().zip(&mut times) {
                let commits = tokio::task::block_in_place(|| bare.run(batch, kind, COMMIT_TURN))?;
                times.push(float(commits.latency.value_at_quantile(0.5)));
            }
        }
        let [one_phase, two_phase, quick_repair] = times.map(median);
        rows.push(vec![
            batch.to_string(),
            micros(one_phase),
            micros(two_phase),
            micros(quick_repair),
            format!("{:+.0} %", 100.0 * (two_phase / one_phase - 1.0)),
            format!("{:+.0} %", 100.0 * (quick_repair / two_phase - 1.0)),
        ]);
    }
    let columns = [
        "Updates per commit",
        "no safeguard",
        "two-phase commit",
        "two-phase commit and quick-repair",
        "added by two-phase commit",
        "added by quick-repair",
    ];
    report.table("Median time of a commit of bare redb, by its safeguards", &columns, &rows);
    Ok(())
}
