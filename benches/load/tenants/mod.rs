//! What one tenant does to another: the latency of a [`steady`] tenant, alone and beside one that [`noisy`] clients
//! call for as hard as they can, on a server without quotas and on one with.

mod noisy;
mod steady;

use std::time::{Duration, Instant};

use crate::child::Child;
use crate::client::Credential;
use crate::credentials::Credentials;
use crate::figures::{Latency, count, float, median, quantile};
use crate::fixture::Fixture;
use crate::plan::Plan;
use crate::profiles::WORKSPACE;
use crate::report::Report;
use noisy::{Manners, Noise, Noisy};
use steady::{Latencies, Steady};

const ROLES: [&str; 2] = ["reader", "writer"];
/// A turn is as many times longer than those of other parts. A quantile of a few hundred calls needs them.
const LONGER: u32 = 4;
/// What the noisy tenant exceeds, and the steady one does not.
const QUOTAS: [&str; 3] =
    ["--max-call-rate-per-client=1000", "--max-writes-per-client=4", "--max-import-rate-per-client=1MB"];
/// The noisy tenants of a server with these flags.
const SERVERS: [(&str, &[&str], &[Manners]); 2] =
    [("without quotas", &[], &[Manners::Hasty]), ("with quotas", &QUOTAS, &[Manners::Hasty, Manners::Patient])];

/// What the callers present.
struct Tenants {
    steady: Credential,
    noisy: Credential,
}

/// The latencies of one kind of calls: quiet, and beside each noisy tenant.
#[derive(Default)]
struct Rounds {
    quiet: Vec<Latencies>,
    noisy: Vec<Vec<(Latencies, Noise)>>,
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let dir = fixture.dir().join("tenants");
    let credentials = Credentials::new(&dir)?;
    let tenants = Tenants {
        steady: credentials.token("steady", &ROLES, WORKSPACE).await?,
        noisy: credentials.token("noisy", &ROLES, noisy::WORKSPACE).await?,
    };
    let (mut rows, mut noises) = (Vec::new(), Vec::new());
    for (server, flags, manners) in SERVERS {
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let cameo = Child::cameo_with(&fixture.store, &[credentials.flags(), flags].concat()).await?;
        let rounds = run(&cameo, &tenants, fixture, manners, plan).await?;
        tell(server, manners, &rounds, &mut rows, &mut noises, report);
        cameo.stop().await?;
    }
    let columns = ["The steady tenant's", "server", "beside it", "p50", "p99", "p99 relative to quiet"];
    let title = format!("Two tenants: one makes {} calls a second", steady::RATE);
    report.table(&title, &columns, &rows);
    let columns = ["The noisy tenant", "calls/s that succeed", "calls/s that are refused", "MB/s that are imported"];
    report.table(&format!("The other: {} clients without a pause", noisy::CLIENTS), &columns, &noises);
    Ok(std::fs::remove_dir_all(dir)?)
}

/// In each round, the steady tenant has one turn alone, and one beside each noisy tenant.
async fn run(
    server: &Child,
    tenants: &Tenants,
    fixture: &Fixture,
    manners: &[Manners],
    plan: Plan,
) -> anyhow::Result<Rounds> {
    let steady = Steady::connect(server, fixture, &tenants.steady).await?;
    let noisy = Noisy::connect(server, &tenants.noisy).await?;
    noisy.fill().await?;
    let mut rounds = Rounds { noisy: manners.iter().map(|_| Vec::new()).collect(), ..Rounds::default() };
    let turn = LONGER * plan.duration;
    steady.run(Instant::now() + plan.duration, 0).await?; // It fills the caches.
    for round in 1..=u64::from(plan.rounds) {
        rounds.quiet.push(steady.run(Instant::now() + turn, round).await?);
        for (manners, results) in manners.iter().zip(&mut rounds.noisy) {
            results.push(beside(&steady, &noisy, *manners, turn, round).await?);
        }
    }
    Ok(rounds)
}

async fn beside(
    steady: &Steady,
    noisy: &Noisy,
    manners: Manners,
    turn: Duration,
    round: u64,
) -> anyhow::Result<(Latencies, Noise)> {
    let end = Instant::now() + turn;
    let (latencies, noise) = tokio::join!(steady.run(end, round), noisy.run(manners, end, round));
    Ok((latencies?, noise?))
}

fn tell(
    server: &str,
    manners: &[Manners],
    rounds: &Rounds,
    rows: &mut Vec<Vec<String>>,
    noises: &mut Vec<Vec<String>>,
    report: &mut Report,
) {
    for (calls, of) in [("lookups", Latencies::lookups as Of), ("updates", Latencies::updates as Of)] {
        rows.push(row(calls, server, "nothing", &rounds.quiet.iter().map(of), "1".into()));
        for (manners, results) in manners.iter().zip(&rounds.noisy) {
            let name = manners.name();
            let ratio =
                median(rounds.quiet.iter().zip(results).map(|(quiet, (noisy, _))| p99(of(noisy)) / p99(of(quiet))));
            rows.push(row(calls, server, name, &results.iter().map(|(noisy, _)| of(noisy)), format!("{ratio:.1}")));
            let target = if server == "with quotas" { "≤ 2" } else { "" };
            let what = format!("p99 of a tenant's {calls} beside {name}, {server}, relative to its quiet p99");
            report.claim(what, format!("{ratio:.1}"), target);
        }
    }
    for (manners, results) in manners.iter().zip(&rounds.noisy) {
        let per_second = |of: fn(&Noise) -> f64| count(median(results.iter().map(|(_, noise)| of(noise))));
        let name = format!("{}, {server}", manners.name());
        let imported = median(results.iter().map(|(_, noise)| noise.imported() / 1e6));
        noises.push(vec![name, per_second(Noise::succeeded), per_second(Noise::refused), format!("{imported:.1}")]);
    }
}

/// One kind of calls.
type Of = fn(&Latencies) -> &Latency;

fn row<'a>(
    calls: &str,
    server: &str,
    beside: &str,
    latencies: &(impl Iterator<Item = &'a Latency> + Clone),
    ratio: String,
) -> Vec<String> {
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(latencies.clone(), part));
    vec![calls.into(), server.into(), beside.into(), p50, p99, ratio]
}

fn p99(latency: &Latency) -> f64 {
    float(latency.value_at_quantile(0.99)).max(1.0)
}
