//! `GetProfile` by mpid and by identity, against the [`crate::reference`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use cameo::proto::v1::GetProfileRequest;
use cameo::proto::v1::get_profile_request::Key;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;

use crate::Plan;
use crate::child::Child;
use crate::client::{Outcome, Work, call, closed_loop, connect};
use crate::fixture::{Dice, Fixture, WORKSPACE, mpid, user_identities};
use crate::report::{Report, count, float, median, micros_of, quantile};

/// Enough to keep two processors busy; more only wait longer.
const CLIENTS: usize = 64;
const CONNECTIONS: usize = 4;
/// Fills the caches: long enough to touch nearly every page.
const WARM_UP_PER_MILLION: Duration = Duration::from_secs(15);
/// Lookups compared byte by byte before anything is measured.
const COMPARED: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Mpid,
    Identity,
}

/// Uniformly random keys.
struct Lookup {
    by: By,
    answer_bytes: Arc<[u32]>,
}

impl Work for Lookup {
    const PATH: &'static str = "/cameo.v1.ProfileService/GetProfile";
    type Expected = usize;

    fn request(&self, dice: &mut Dice) -> (Bytes, usize) {
        let index = dice.below(self.answer_bytes.len() as u64);
        let key = match self.by {
            By::Mpid => Key::Mpid(mpid(index)),
            By::Identity => {
                let [customer, email] = user_identities(index);
                Key::Identity(if dice.below(2) == 0 { customer } else { email })
            }
        };
        let request = GetProfileRequest { workspace: WORKSPACE.into(), key: Some(key), ..GetProfileRequest::default() };
        let expected = self.answer_bytes[usize::try_from(index).expect("an index")];
        (request.encode_to_vec().into(), expected as usize)
    }

    fn is_right(&self, answer: &[u8], expected: &usize) -> bool {
        answer.len() == *expected
    }
}

/// A server, and what it did in each round.
struct Side<'a> {
    server: &'a Child,
    channels: Vec<Channel>,
    rounds: Vec<Round>,
}

struct Round {
    outcome: Outcome,
    /// Microseconds of the server's threads for each call: this the noise of others and the client do not touch.
    processor: f64,
}

pub async fn measure(fixture: &Fixture, reference: &Child, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(fixture).await?;
    let mut rows = Vec::new();
    for by in [By::Mpid, By::Identity] {
        let work = Arc::new(Lookup { by, answer_bytes: Arc::clone(&fixture.answer_bytes) });
        let mut sides = [Side::connect(&cameo).await?, Side::connect(reference).await?];
        compare(&sides, &work).await?;
        let warm_up = WARM_UP_PER_MILLION.mul_f64(float(fixture.profiles) / 1e6);
        for side in &mut sides {
            side.run(&work, warm_up, 0).await?;
            side.rounds.clear();
        }
        for round in 1..=plan.rounds {
            for turn in 0..2 {
                // Each goes first as often as the other.
                sides[((round + turn) % 2) as usize].run(&work, plan.duration, round.into()).await?;
            }
        }
        let [cameo, reference] = sides;
        rows.extend(tell(by, &cameo, &reference, report));
    }
    let columns = ["", "calls/s", "of reference", "p50", "p99", "server's CPU per call"];
    report.table(&format!("Lookups, {CLIENTS} in flight on {CONNECTIONS} connections"), &columns, &rows);
    cameo.stop().await
}

impl<'a> Side<'a> {
    async fn connect(server: &'a Child) -> anyhow::Result<Self> {
        Ok(Self { server, channels: connect(server.addr, CONNECTIONS).await?, rounds: Vec::new() })
    }

    async fn run(&mut self, work: &Arc<Lookup>, duration: Duration, seed: u64) -> anyhow::Result<()> {
        let before = self.server.processor_time()?;
        let outcome = closed_loop(&self.channels, CLIENTS, work, duration, seed).await?;
        let processor = micros_of(self.server.processor_time()?.saturating_sub(before)) / float(outcome.calls);
        self.rounds.push(Round { outcome, processor });
        Ok(())
    }

    fn row(&self, name: &str, ratio: String) -> Vec<String> {
        let latencies = || self.rounds.iter().map(|round| &round.outcome.latency);
        vec![
            name.into(),
            count(median(self.rates())),
            ratio,
            quantile(latencies(), 0.5),
            quantile(latencies(), 0.99),
            format!("{:.1} µs", median(self.rounds.iter().map(|round| round.processor))),
        ]
    }

    fn rates(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| round.outcome.per_second())
    }
}

/// Both answer the same bytes.
async fn compare(sides: &[Side<'_>; 2], work: &Lookup) -> anyhow::Result<()> {
    let [cameo, reference] = sides;
    let (mut cameo, mut reference) = (Grpc::new(cameo.channels[0].clone()), Grpc::new(reference.channels[0].clone()));
    for seed in 0..COMPARED {
        let ours = call(&mut cameo, work, &mut Dice::new(seed)).await?;
        let theirs = call(&mut reference, work, &mut Dice::new(seed)).await?;
        ensure!(ours == theirs, "the reference answers something else");
    }
    Ok(())
}

fn tell(by: By, cameo: &Side<'_>, reference: &Side<'_>, report: &mut Report) -> [Vec<String>; 2] {
    let name = match by {
        By::Mpid => "by mpid",
        By::Identity => "by identity",
    };
    let ratio = median(cameo.rates().zip(reference.rates()).map(|(cameo, reference)| cameo / reference));
    let measured = format!("{} calls/s, {ratio:.2} of the reference", count(median(cameo.rates())));
    report.claim(format!("Lookups {name}"), measured, "≥ 0.90 of a server that answers the same bytes from memory");
    [
        cameo.row(&format!("Cameo, {name}"), format!("{ratio:.2}")),
        reference.row(&format!("reference, {name}"), "1".into()),
    ]
}
