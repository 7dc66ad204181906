//! What it costs to list an audience, to end memberships and to erase a person.
//!
//! - Pages of the members of an audience that every profile is in: the first, and one near the end.
//! - Writes while a sweep ends memberships, compared with the same writes before it.
//! - An erasure of a profile with 1,000 events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use cameo::model::Micros;
use cameo::proto::v1::audience_service_client::AudienceServiceClient;
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::{
    Audience, AudienceMembership, CreateAudienceRequest, EraseProfileRequest, GetAudienceRequest,
    ImportProfilesRequest, ListAudienceMembersRequest, ProfileKey, ProfilePatch, UpdateProfileRequest,
};
use futures_util::stream;
use prost::Message;
use tonic::transport::Channel;

use crate::child::Child;
use crate::client::{Outcome, Work, callers, closed_loop, connect};
use crate::figures::{count, float, median, micros, micros_of, quantile};
use crate::fixture::Fixture;
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, mpid, patch};
use crate::report::Report;

/// The audience that every profile is in.
const AUDIENCE: i64 = 17_918;
/// Members of a page.
const PAGE: i32 = 1_000;
/// Memberships that end at one moment.
const EXPIRIES: u64 = 100_000;
/// The audience of those.
const SHORT: i64 = 99;
/// How long the import of these may take.
const IMPORT_TIME: Duration = Duration::from_secs(30);
/// Clients that write while a sweep is at work.
const WRITERS: usize = 16;
/// Events of a profile that is erased, and how many such profiles are.
const EVENTS: u64 = 1_000;
const ERASED: u64 = 20;

/// Updates of uniformly random profiles.
#[derive(Debug, Clone)]
struct Update {
    profiles: u64,
}

impl Work for Update {
    const PATH: &'static str = "/cameo.v1.ProfileService/UpdateProfile";
    type Expected = ();

    fn request(&self, dice: &mut Dice) -> (Bytes, ()) {
        let key = Some(ProfileKey { key: Some(Key::Mpid(mpid(dice.below(self.profiles)))) });
        let patch = Some(patch(dice));
        let request = UpdateProfileRequest { workspace: WORKSPACE.into(), key, patch, ..Default::default() };
        (request.encode_to_vec().into(), ())
    }

    fn is_right(&self, answer: &[u8], (): &()) -> bool {
        !answer.is_empty()
    }
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(&fixture.store).await?;
    let channel = connect(cameo.addr, 1).await?.remove(0);
    members(fixture, &channel, plan, report).await?;
    sweep(fixture, &cameo, &channel, report).await?;
    erase(&channel, report).await?;
    cameo.stop().await
}

/// Pages through the audience, and times the pages near both ends.
async fn members(fixture: &Fixture, channel: &Channel, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut audiences = AudienceServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20);
    let mut request = ListAudienceMembersRequest {
        workspace: WORKSPACE.into(),
        audience_id: AUDIENCE,
        page_size: PAGE,
        ..ListAudienceMembersRequest::default()
    };
    let (mut tokens, mut found) = (vec![String::new()], 0);
    loop {
        let page = audiences.list_audience_members(request.clone()).await?.into_inner();
        found += page.members.len() as u64;
        if page.next_page_token.is_empty() {
            break;
        }
        tokens.push(page.next_page_token.clone());
        request.page_token = page.next_page_token;
    }
    ensure!(found == fixture.profiles, "every profile is a member: {found}");
    let late = tokens.len().saturating_sub(2);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..plan.rounds * 20 {
        for (at, times) in [0, late].into_iter().zip(&mut times) {
            request.page_token.clone_from(&tokens[at]);
            let start = Instant::now();
            audiences.list_audience_members(request.clone()).await?;
            times.push(micros_of(start.elapsed()));
        }
    }
    let [first, last] = times.map(median);
    let row = |name: String, time: f64| vec![name, micros(time)];
    let rows = [row("the first".into(), first), row(format!("page {} of {}", late + 1, tokens.len()), last)];
    let title = format!("Pages of {PAGE} of an audience of {}", count(float(found)));
    report.table(&title, &["Page", "p50"], &rows);
    report.claim("A late page of an audience, relative to the first", format!("{:.2}", last / first), "1");
    Ok(())
}

/// Ends many memberships at one moment while others write.
async fn sweep(fixture: &Fixture, cameo: &Child, channel: &Channel, report: &mut Report) -> anyhow::Result<()> {
    let expiries = EXPIRIES.min(fixture.profiles);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let end = now + IMPORT_TIME;
    let expire_time = Some(Micros::new(i64::try_from(end.as_micros())?).to_timestamp());
    let records = (0..expiries).map(move |index| ImportProfilesRequest {
        workspace: if index == 0 { WORKSPACE.into() } else { String::new() },
        key: Some(ProfileKey { key: Some(Key::Mpid(mpid(index))) }),
        patch: Some(ProfilePatch {
            join_audiences: vec![AudienceMembership { audience_id: SHORT, expire_time, ..Default::default() }],
            ..ProfilePatch::default()
        }),
        ..ImportProfilesRequest::default()
    });
    register(channel).await?;
    let mut profiles = ProfileServiceClient::new(channel.clone());
    let imported = profiles.import_profiles(stream::iter(records)).await?.into_inner();
    ensure!(imported.refused == 0, "{imported:?}");
    let left = end.checked_sub(SystemTime::now().duration_since(UNIX_EPOCH)?).context("the import took too long")?;

    let channels = connect(cameo.addr, 4).await?;
    let work = std::sync::Arc::new(Update { profiles: fixture.profiles });
    let turn = async |duration: Duration, seed| closed_loop(callers(&channels, WRITERS, &work), duration, seed).await;
    let quiet: Outcome = turn(left.saturating_sub(Duration::from_secs(1)), 1).await?;
    let start = Instant::now();
    let mut swept = Vec::new();
    for seed in 2.. {
        swept.push(turn(Duration::from_secs(1), seed).await?);
        if left_of(channel).await? == 0 {
            break;
        }
        ensure!(start.elapsed() < Duration::from_secs(120), "the sweep does not end");
    }
    let during = start.elapsed().saturating_sub(Duration::from_secs(1));
    let p99 = |outcomes: &[Outcome]| quantile(outcomes.iter().map(|outcome| &outcome.latency), 0.99);
    let rate = |outcomes: &[Outcome]| count(median(outcomes.iter().map(Outcome::per_second)));
    let quiet = [quiet];
    let rows = [
        vec!["before".into(), rate(&quiet), p99(&quiet)],
        vec![
            format!("while {} memberships end, {:.1} s", count(float(expiries)), during.as_secs_f64()),
            rate(&swept),
            p99(&swept),
        ],
    ];
    report.table(&format!("Updates by {WRITERS} clients beside a sweep"), &["When", "updates/s", "p99"], &rows);
    let ratio = float(at(&swept)) / float(at(&quiet));
    report.claim("p99 of updates while a sweep ends memberships, relative to before", format!("{ratio:.2}"), "≤ 2");
    Ok(())
}

/// Registers the short audience, so that the server says how many members it has.
async fn register(channel: &Channel) -> anyhow::Result<()> {
    let audience = Audience { audience_id: SHORT, name: "short".into(), ..Audience::default() };
    let request = CreateAudienceRequest {
        workspace: WORKSPACE.into(),
        audience: Some(audience),
        ..CreateAudienceRequest::default()
    };
    AudienceServiceClient::new(channel.clone()).create_audience(request).await?;
    Ok(())
}

/// The p99 of a turn, in microseconds: the median of those of several.
fn at(outcomes: &[Outcome]) -> u64 {
    let mut all: Vec<_> = outcomes.iter().map(|outcome| outcome.latency.value_at_quantile(0.99)).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// The members of the short audience that the sweep has not reached, as the row of the audience counts them.
async fn left_of(channel: &Channel) -> anyhow::Result<u64> {
    let mut audiences = AudienceServiceClient::new(channel.clone());
    let request = GetAudienceRequest { workspace: WORKSPACE.into(), audience_id: SHORT };
    let audience = audiences.get_audience(request).await?.into_inner().audience.unwrap_or_default();
    Ok(u64::try_from(audience.member_count)?)
}

async fn erase(channel: &Channel, report: &mut Report) -> anyhow::Result<()> {
    let mut profiles = ProfileServiceClient::new(channel.clone());
    let mut times = Vec::new();
    for nth in 1..=ERASED {
        let key = ProfileKey { key: Some(Key::Mpid(-i64::try_from(nth)?)) };
        let record_key = key.clone();
        let records = (0..EVENTS).map(move |event| ImportProfilesRequest {
            workspace: if event == 0 { WORKSPACE.into() } else { String::new() },
            key: Some(record_key.clone()),
            patch: Some(patch(&mut Dice::new(event))),
            ..ImportProfilesRequest::default()
        });
        profiles.import_profiles(stream::iter(records)).await?;
        let request = EraseProfileRequest { workspace: WORKSPACE.into(), key: Some(key), ..Default::default() };
        let start = Instant::now();
        let erased = profiles.erase_profile(request).await?.into_inner();
        times.push(micros_of(start.elapsed()));
        ensure!(erased.events == i64::try_from(EVENTS)?, "{erased:?}");
    }
    let time = micros(median(times));
    report.claim(format!("Erasing a profile with {} events, p50", count(float(EVENTS))), time, "< 50 ms");
    Ok(())
}
