//! `IdentifyProfile` that finds the person, compared with `GetProfile` by identity.

use bytes::Bytes;
use cameo::proto::v1::IdentifyProfileRequest;
use prost::Message;

use crate::child::Child;
use crate::client::Work;
use crate::figures::count;
use crate::fixture::Fixture;
use crate::lookup::{By, CLIENTS, CONNECTIONS, Lookup};
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, user_identities};
use crate::report::Report;
use crate::side::{GrpcCalls, Side, take_turns, warm_up};

/// Calls of `IdentifyProfile` with an identity that somebody owns.
#[derive(Debug, Clone)]
struct Identify {
    profiles: u64,
}

impl Work for Identify {
    const PATH: &'static str = "/cameo.v1.IdentityService/IdentifyProfile";
    type Expected = ();

    fn request(&self, dice: &mut Dice) -> (Bytes, ()) {
        let index = dice.below(self.profiles);
        let [customer, email] = user_identities(index);
        let identity = if dice.below(2) == 0 { customer } else { email };
        let request = IdentifyProfileRequest {
            workspace: WORKSPACE.into(),
            identities: vec![identity],
            ..IdentifyProfileRequest::default()
        };
        (request.encode_to_vec().into(), ())
    }

    fn is_right(&self, answer: &[u8], (): &()) -> bool {
        answer.len() > 300
    }
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(&fixture.store).await?;
    let work = Identify { profiles: fixture.profiles };
    let identify = GrpcCalls::connect(&cameo, CONNECTIONS, CLIENTS, work).await?;
    let get = GrpcCalls::connect(&cameo, CONNECTIONS, CLIENTS, Lookup::new(By::Identity, fixture)).await?;
    let mut sides =
        [Side::new("IdentifyProfile that finds", &cameo, identify), Side::new("GetProfile by identity", &cameo, get)];
    take_turns(&mut sides, warm_up(fixture), plan).await?;
    let [identify, get] = &sides;
    let ratio = identify.ratio_to(get);
    let rows = [identify.row(format!("{ratio:.2}")), get.row("1".into())];
    let columns = ["Call", "calls/s", "relative to GetProfile", "p50", "p99", "server CPU per call"];
    report.table(&format!("Finding a person, {CLIENTS} calls in flight on {CONNECTIONS} connections"), &columns, &rows);
    let measured = format!("{ratio:.2} ({} calls/s)", count(identify.rate()));
    report.claim("IdentifyProfile that finds: calls/s, relative to GetProfile by identity", measured, "≥ 0.90");
    drop(sides);
    cameo.stop().await
}
