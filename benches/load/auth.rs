//! `GetProfile` by mpid with a static token and with a JWT, compared with a server that asks for neither.
//!
//! The servers have equal stores. The JWT is verified at its first call, and known to the server from then on. The side
//! without a credential takes two turns in each round: how far its two rates differ is how far chance goes. HTTP/2 sends
//! the whole token with each call, so one side also sends it to the server that does not ask for it: what that costs is
//! not the cost of checking it.

use anyhow::ensure;
use tonic::Code;
use tonic::client::Grpc;

use crate::child::Child;
use crate::client::{With, Work, call, connect};
use crate::credentials::Credentials;
use crate::figures::count;
use crate::fixture::Fixture;
use crate::lookup::{By, CLIENTS, CONNECTIONS, Lookup};
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE};
use crate::report::Report;
use crate::side::{GrpcCalls, Side, take_turns, warm_up};

const ROLES: [&str; 1] = ["reader"];
const TARGET: &str = "≥ 0.95";

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let dir = fixture.dir().join("auth");
    let credentials = Credentials::new(&dir)?;
    let token = credentials.token("crm", &ROLES, WORKSPACE).await?;
    let jwt = credentials.jwt("crm", &ROLES, WORKSPACE)?;
    let open = Child::cameo(&fixture.store).await?;
    let closed = Child::cameo_with(&fixture.copied_to(&dir)?, &credentials.flags()).await?;
    let work = Lookup::new(By::Mpid, fixture);
    ensure_closed(&closed, &work).await?;

    let with = |credential| With { work: work.clone(), credential };
    let mut sides = [
        Side::new("no credential", &open, calls(&open, work.clone()).await?),
        Side::new("no credential, a second time", &open, calls(&open, work.clone()).await?),
        Side::new("a JWT that is not asked for", &open, calls(&open, with(jwt.clone())).await?),
        Side::new("static token", &closed, calls(&closed, with(token)).await?),
        Side::new("JWT", &closed, calls(&closed, with(jwt)).await?),
    ];
    take_turns(&mut sides, warm_up(fixture), plan).await?;
    tell(&sides, report);
    drop(sides);
    open.stop().await?;
    closed.stop().await?;
    Ok(std::fs::remove_dir_all(dir)?)
}

async fn calls<W: Work>(server: &Child, work: W) -> anyhow::Result<GrpcCalls<W>> {
    GrpcCalls::connect(server, CONNECTIONS, CLIENTS, work).await
}

/// Checks that the server asks for a credential.
async fn ensure_closed(server: &Child, work: &Lookup) -> anyhow::Result<()> {
    let mut grpc = Grpc::new(connect(server.addr, 1).await?.remove(0));
    let refused = call(&mut grpc, work, &mut Dice::new(0)).await.err();
    let code = refused.as_ref().and_then(|error| error.downcast_ref()).map(tonic::Status::code);
    ensure!(code == Some(Code::Unauthenticated), "the server responds to a call without a credential: {refused:?}");
    Ok(())
}

fn tell(sides: &[Side<'_>; 5], report: &mut Report) {
    let (first, others) = sides.split_first().expect("there are five");
    let mut rows = vec![first.row("1".into())];
    for (side, target) in others.iter().zip(["", "", TARGET, TARGET]) {
        let ratio = side.ratio_to(first);
        rows.push(side.row(format!("{ratio:.3}")));
        let what = format!("Lookup by mpid, {}: calls/s, relative to a server that asks for none", side.name());
        report.claim(what, format!("{ratio:.3} ({} calls/s)", count(side.rate())), target);
    }
    let [.., unread, _, jwt] = sides;
    let ratio = jwt.ratio_to(unread);
    let what = "Lookup by mpid, JWT: calls/s, relative to one that is sent and not asked for";
    report.claim(what, format!("{ratio:.3}"), TARGET);
    let columns = ["Credential", "calls/s", "relative to none", "p50", "p99", "server CPU per call"];
    report.table(&format!("Credentials, {CLIENTS} lookups in flight on {CONNECTIONS} connections"), &columns, &rows);
}
