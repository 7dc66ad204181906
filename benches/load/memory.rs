//! What an idle stream costs the server: the growth of its resident memory.

use std::time::Duration;

use crate::child::Child;
use crate::client::connect;
use crate::fanout::subscribe;
use crate::fixture::Fixture;
use crate::report::Report;

/// Streams, connections, and the target in KiB for each stream.
const CASES: [(u32, u32, &str); 2] = [(2_000, 10, "≤ 10 KiB"), (500, 500, "")];
/// As long as it may be, so that the streams are idle.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// For what was being done when the last stream had caught up.
const REST: Duration = Duration::from_secs(1);

pub async fn measure(fixture: &Fixture, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (streams, connections, target) in CASES {
        // A fresh process, so that no memory of an earlier case is used again.
        let cameo = Child::cameo(&fixture.store).await?;
        let (before, after) = open_idle(&cameo, streams, connections).await?;
        let each = f64::from(after - before) / f64::from(streams);
        let name = format!("{streams} idle streams on {connections} connections");
        report.claim(&*name, format!("{each:.1} KiB a stream"), target);
        let each = format!("{each:.1} KiB");
        rows.push(vec![name, format!("{before} KiB"), format!("{after} KiB"), each]);
        cameo.stop().await?;
    }
    report.table("Resident memory of the server", &["", "before", "after", "a stream"], &rows);
    Ok(())
}

/// Resident memory before and after.
async fn open_idle(cameo: &Child, streams: u32, connections: u32) -> anyhow::Result<(u32, u32)> {
    // What the first stream brings with it, the others share.
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
