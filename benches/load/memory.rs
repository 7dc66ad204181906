//! The memory that an idle stream takes: the growth of the server's resident memory.

use std::time::Duration;

use crate::child::Child;
use crate::client::connect;
use crate::fanout::subscribe;
use crate::figures::count;
use crate::fixture::Fixture;
use crate::report::Report;

/// Streams, connections, and the target for each stream.
const CASES: [(u32, u32, &str); 2] = [(2_000, 10, "≤ 10 KiB"), (500, 500, "")];
/// The longest interval that the server allows, so that the streams are idle.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long the server gets to finish its work after the last stream has caught up.
const REST: Duration = Duration::from_secs(1);

pub async fn measure(fixture: &Fixture, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (streams, connections, target) in CASES {
        // A fresh process cannot reuse memory of an earlier case.
        let cameo = Child::cameo(&fixture.store).await?;
        let (before, after) = open_idle(&cameo, streams, connections).await?;
        let each = f64::from(after - before) / f64::from(streams);
        let name = format!("{} idle streams on {connections} connections", count(f64::from(streams)));
        report.claim(format!("Server memory per idle stream, with {name}"), format!("{each:.1} KiB"), target);
        let each = format!("{each:.1} KiB");
        rows.push(vec![name, format!("{before} KiB"), format!("{after} KiB"), each]);
        cameo.stop().await?;
    }
    report.table("Resident memory of the server", &["Streams", "before", "after", "per stream"], &rows);
    Ok(())
}

/// The resident memory before and after opening the streams, in KiB.
async fn open_idle(cameo: &Child, streams: u32, connections: u32) -> anyhow::Result<(u32, u32)> {
    // The first stream allocates what all streams share.
    let first = connect(cameo.addr, 1).await?;
    let first = subscribe(&first[0], HEARTBEAT).await?;
    tokio::time::sleep(REST).await;
    let before = cameo.resident_kib()?;

    let channels = connect(cameo.addr, usize::try_from(connections)?).await?;
    let mut open = Vec::new();
    for (_, channel) in (0..streams).zip(channels.iter().cycle()) {
        open.push(subscribe(channel, HEARTBEAT).await?);
    }
    tokio::time::sleep(REST).await;
    let after = cameo.resident_kib()?;
    drop((first, open));
    Ok((before, after))
}
