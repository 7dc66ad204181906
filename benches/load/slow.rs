//! What a subscriber that is far behind and reads slowly costs the others.

use std::time::Duration;

use tokio::task::AbortHandle;

use crate::fanout::{Crowd, Rate, since_answered};
use crate::fixture::Fixture;
use crate::log::cameo::Cameo;
use crate::log::{Last, Log, Spread, Start, Tally};
use crate::plan::Plan;
use crate::report::Report;

const SUBSCRIBERS: usize = 1_000;
/// How many events the slow subscriber has when a turn begins.
const FIRST: u64 = 1_000;
/// How long it waits before each further event.
const PAUSE: Duration = Duration::from_millis(1);

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Cameo::start(fixture).await?;
    let mut crowd = Crowd::open(&cameo, false, SUBSCRIBERS).await?;
    let rate = Rate::steady(SUBSCRIBERS, plan.duration);
    crowd.turn(rate).await?; // This one fills the caches.
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        alone.push(crowd.turn(rate).await?);
        let slow = Slow::start(&cameo).await?;
        beside.push(crowd.turn(rate).await?);
        drop(slow);
    }
    let mut rows = Vec::new();
    for (name, rounds) in [("1,000 subscribers", alone), ("1,000 subscribers, and a slow one", beside)] {
        let quantiles = since_answered(&rounds, [0.5, 0.99, 0.999]);
        report.claim(format!("{name}: response to event, p99"), quantiles[1].clone(), "");
        let mut row = vec![name.to_owned()];
        row.extend(quantiles);
        rows.push(row);
    }
    let columns = ["Subscribers", "response received to event received, p50", "p99", "p99.9"];
    report.table("A slow subscriber among others", &columns, &rows);
    Box::new(cameo).stop().await
}

/// A subscriber that reads the whole log, and takes one event after each pause.
struct Slow(AbortHandle);

impl Slow {
    async fn start(cameo: &Cameo) -> anyhow::Result<Self> {
        let mut readers = cameo.readers(Start::Earliest, Spread { subscribers: 1, connections: 1 }).await?;
        readers[0].receive(&Last::known(FIRST), &mut Tally::sampling(u64::MAX)).await?;
        let reading = tokio::spawn(async move {
            for sequence in FIRST + 1.. {
                tokio::time::sleep(PAUSE).await;
                readers[0].receive(&Last::known(sequence), &mut Tally::sampling(u64::MAX)).await?;
            }
            anyhow::Ok(())
        });
        Ok(Self(reading.abort_handle()))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.abort();
    }
}
