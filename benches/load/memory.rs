//! The memory that an idle stream takes: the growth of the server's resident memory, beside other logs.

use std::time::Duration;

use crate::figures::count;
use crate::fixture::Fixture;
use crate::log::cameo::Cameo;
use crate::log::{Log, Spread, Start, others};
use crate::report::Report;

/// Streams and connections, and the target for each stream of Cameo.
const CASES: [(Spread, &str); 3] = [
    (Spread { subscribers: 2_000, connections: 10 }, "≤ 6 KiB"),
    (Spread { subscribers: 10_000, connections: 10 }, "≤ 6 KiB"),
    (Spread { subscribers: 500, connections: 500 }, ""),
];
/// How long the server gets to finish its work after the last stream has been opened.
const REST: Duration = Duration::from_secs(1);

pub async fn measure(fixture: &Fixture, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (spread, target) in CASES {
        // A fresh process cannot reuse memory of an earlier case.
        rows.push(measure_log(Box::new(Cameo::start_unscrubbed(fixture).await?), spread, target, report).await?);
        for log in others(fixture, &[]).await? {
            rows.push(measure_log(log, spread, "", report).await?);
        }
    }
    let columns = ["Idle streams", "connections", "log", "before", "after", "per stream"];
    report.table("Resident memory of the server", &columns, &rows);
    Ok(())
}

async fn measure_log(
    log: Box<dyn Log>,
    spread: Spread,
    target: &str,
    report: &mut Report,
) -> anyhow::Result<Vec<String>> {
    let (before, after) = open_idle(&*log, spread).await?;
    let Spread { subscribers, connections } = spread;
    let subscribers = u32::try_from(subscribers)?;
    let each = format!("{:.1} KiB", (f64::from(after) - f64::from(before)) / f64::from(subscribers));
    let (name, streams) = (log.name(), count(f64::from(subscribers)));
    let what = format!("Memory per idle stream of {name}, {streams} on {connections} connections");
    report.claim(what, each.clone(), target);
    log.stop().await?;
    let row =
        [streams, connections.to_string(), name.to_owned(), format!("{before} KiB"), format!("{after} KiB"), each];
    Ok(row.into())
}

/// The resident memory before and after opening the streams, in KiB.
async fn open_idle(log: &dyn Log, spread: Spread) -> anyhow::Result<(u32, u32)> {
    // The first stream allocates what all streams share.
    let first = log.readers(Start::Now, Spread { subscribers: 1, connections: 1 }).await?;
    tokio::time::sleep(REST).await;
    let before = log.server().resident_kib()?;
    let open = log.readers(Start::Now, spread).await?;
    tokio::time::sleep(REST).await;
    let after = log.server().resident_kib()?;
    drop((first, open));
    Ok((before, after))
}
