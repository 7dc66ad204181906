//! The load program: what Cameo costs, compared with the least that the same work can cost.
//!
//! ```sh
//! cargo bench --bench load -- [--profiles N] [--seconds S] [--rounds R] [--only PARTS]
//! ```
//!
//! The modules, in reading order:
//!
//! - [`profiles`]: the profiles, as a function of their index. [`fixture`]: a store that holds them.
//! - [`child`]: the servers, each in its own process, and their CPU time and memory.
//! - [`client`]: connections, and calls in a closed loop. [`plan`]: how long the clients run. [`side`]: the sides of a
//!   comparison, which take turns.
//! - [`credentials`]: what clients present to a server that asks who they are.
//! - [`lookup`], [`identify`], [`batch`], [`http`], [`auth`], [`update`], [`fanout`], [`slow`], [`replay`], [`memory`],
//!   [`import`], [`people`], [`tenants`]: one measurement each.
//! - What they are compared with: [`reference`] for lookups, [`redis`] for batches, [`bare`] redb for updates, and
//!   [`inserts`] into bare redb for imports.
//! - [`log`]: the logs that fan-out, replay and memory compare. [`lines`]: what the protocols of some have in common.
//! - [`figures`]: latencies and medians. [`report`]: tables and the summary.
//!
//! The machine may be noisy. So the sides of a comparison take short turns, and the report shows the median of many
//! rounds.

mod auth;
mod bare;
mod batch;
mod child;
mod client;
mod credentials;
mod fanout;
mod figures;
mod fixture;
mod http;
mod identify;
mod import;
mod inserts;
mod lines;
mod log;
mod lookup;
mod memory;
mod people;
mod plan;
mod profiles;
mod redis;
mod reference;
mod replay;
mod report;
mod side;
mod slow;
mod tenants;
mod update;

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use fixture::{Fixture, Needs};
use plan::Plan;
use report::Report;

/// Cameo's allocator, so that no reference is slower because it lacks it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Cameo, and prints Markdown.
#[derive(Debug, Parser)]
struct Args {
    /// Profiles in the store. A million take 9 GB of disk and 3 GB of memory.
    #[arg(long, default_value = "1000000")]
    profiles: NonZeroU64,
    /// Seconds of each turn.
    #[arg(long, default_value = "1")]
    seconds: NonZeroU32,
    /// Rounds. In each round, every side of a comparison has one turn.
    #[arg(long, default_value = "25")]
    rounds: NonZeroU32,
    /// What to measure. The default is everything.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    only: Vec<Part>,
    /// `cargo bench` passes this flag. It has no effect.
    #[arg(long, hide = true)]
    bench: bool,
    /// Run as the reference service.
    #[arg(long, hide = true)]
    serve_reference: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Lookup,
    Identify,
    Batch,
    Http,
    Auth,
    Update,
    Fanout,
    Slow,
    Replay,
    Memory,
    Import,
    People,
    Tenants,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.serve_reference { runtime.block_on(reference::serve()) } else { runtime.block_on(until_signal(&args)) }
}

/// Measures until a signal arrives. A signal ends the servers too, and the files are removed.
async fn until_signal(args: &Args) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = measure(args) => done,
        _ = terminate.recv() => bail!("terminated"),
        _ = interrupt.recv() => bail!("interrupted"),
    }
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let plan = Plan { duration: Duration::from_secs(args.seconds.get().into()), rounds: args.rounds.get() };
    let wants = |part| args.only.contains(&part);
    let needs = Needs {
        lengths: [Part::Lookup, Part::Identify, Part::Batch, Part::Http, Part::Auth].into_iter().any(wants),
        reference: wants(Part::Lookup),
        copy: wants(Part::Update),
    };
    let (fixture, reference) = Fixture::build(args.profiles.get(), needs).await?;
    let mut report = Report::begin(&fixture, plan)?;
    if let Some(reference) = reference {
        lookup::measure(&fixture, &reference, plan, &mut report).await?;
    } // The reference ends here, which frees its memory.
    // Before the updates, because lookups check the lengths of the profiles.
    if wants(Part::Identify) {
        identify::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Batch) {
        batch::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Http) {
        http::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Auth) {
        auth::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Update) {
        update::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Fanout) {
        fanout::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Slow) {
        slow::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Replay) {
        replay::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Memory) {
        memory::measure(&fixture, &mut report).await?;
    }
    if wants(Part::Import) {
        import::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::People) {
        people::measure(&fixture, plan, &mut report).await?;
    }
    if wants(Part::Tenants) {
        tenants::measure(&fixture, plan, &mut report).await?;
    }
    report.summarize();
    Ok(())
}
