//! `GetProfile` by mpid and by identity, compared with the [`crate::reference`].

use std::sync::Arc;

use anyhow::ensure;
use bytes::Bytes;
use cameo::model::wire;
use cameo::proto::field::get_profile_response;
use cameo::proto::v1::GetProfileRequest;
use cameo::proto::v1::ProfileKey;
use cameo::proto::v1::profile_key::Key;
use prost::Message;
use tonic::client::Grpc;

use crate::child::Child;
use crate::client::{Work, call, connect};
use crate::figures::count;
use crate::fixture::Fixture;
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, mpid, user_identities};
use crate::report::Report;
use crate::side::{GrpcCalls, Side, take_turns, warm_up};

/// Enough to keep two processors busy. More clients would only wait longer.
pub const CLIENTS: usize = 64;
pub const CONNECTIONS: usize = 4;
/// Responses that are compared byte by byte before the measurement.
const COMPARED: u64 = 1_000;
/// The reference, as the report calls it.
const REFERENCE: &str = "a tonic service that returns the same bytes from memory";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Mpid,
    Identity,
}

/// Lookups of uniformly random profiles.
#[derive(Debug, Clone)]
pub struct Lookup {
    by: By,
    profile_bytes: Arc<[u32]>,
}

impl Lookup {
    pub fn new(by: By, fixture: &Fixture) -> Self {
        Self { by, profile_bytes: Arc::clone(&fixture.profile_bytes) }
    }
}

impl Work for Lookup {
    const PATH: &'static str = "/cameo.v1.ProfileService/GetProfile";
    type Expected = usize;

    fn request(&self, dice: &mut Dice) -> (Bytes, usize) {
        let index = dice.below(self.profile_bytes.len() as u64);
        let key = match self.by {
            By::Mpid => Key::Mpid(mpid(index)),
            By::Identity => {
                let [customer, email] = user_identities(index);
                Key::Identity(if dice.below(2) == 0 { customer } else { email })
            }
        };
        let key = Some(ProfileKey { key: Some(key) });
        let request = GetProfileRequest { workspace: WORKSPACE.into(), key, ..GetProfileRequest::default() };
        let profile = self.profile_bytes[usize::try_from(index).expect("an index")];
        (request.encode_to_vec().into(), wire::delimited_len(get_profile_response::PROFILE, profile as usize))
    }

    fn is_right(&self, answer: &[u8], expected: &usize) -> bool {
        answer.len() == *expected
    }
}

pub async fn measure(fixture: &Fixture, reference: &Child, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(&fixture.store).await?;
    let mut rows = Vec::new();
    for (by, name) in [(By::Mpid, "by mpid"), (By::Identity, "by identity")] {
        let work = Lookup::new(by, fixture);
        compare(&cameo, reference, &work).await?;
        let calls = async |server| GrpcCalls::connect(server, CONNECTIONS, CLIENTS, work.clone()).await;
        let mut sides = [
            Side::new(format!("Cameo, {name}"), &cameo, calls(&cameo).await?),
            Side::new(format!("{REFERENCE}, {name}"), reference, calls(reference).await?),
        ];
        take_turns(&mut sides, warm_up(fixture), plan).await?;
        rows.extend(tell(name, &sides, report));
    }
    let columns = ["Service, key", "calls/s", "relative to the tonic service", "p50", "p99", "server CPU per call"];
    report.table(&format!("Lookups, {CLIENTS} calls in flight on {CONNECTIONS} connections"), &columns, &rows);
    cameo.stop().await
}

/// Checks that both servers return the same bytes.
async fn compare(cameo: &Child, reference: &Child, work: &Lookup) -> anyhow::Result<()> {
    let mut cameo = Grpc::new(connect(cameo.addr, 1).await?.remove(0));
    let mut reference = Grpc::new(connect(reference.addr, 1).await?.remove(0));
    for seed in 0..COMPARED {
        let ours = call(&mut cameo, work, &mut Dice::new(seed)).await?;
        let theirs = call(&mut reference, work, &mut Dice::new(seed)).await?;
        ensure!(ours == theirs, "the reference returns other bytes than Cameo");
    }
    Ok(())
}

fn tell(name: &str, [cameo, reference]: &[Side<'_>; 2], report: &mut Report) -> [Vec<String>; 2] {
    let ratio = cameo.ratio_to(reference);
    let measured = format!("{ratio:.2} ({} calls/s)", count(cameo.rate()));
    report.claim(format!("Lookup {name}: calls/s, relative to {REFERENCE}"), measured, "≥ 0.90");
    [cameo.row(format!("{ratio:.2}")), reference.row("1".into())]
}
