//! The tenant whose latency is measured: a few clients that look profiles up and update them at a steady rate.
//!
//! A call has a time when it is due. If the call before it is still in flight then, the wait counts: a client with one
//! call in flight must not seem to have called less because it was served slowly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::{GetProfileRequest, ProfileKey};
use prost::Message;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::transport::Channel;

use crate::child::Child;
use crate::client::{Credential, With, Work, call, connect, gather};
use crate::figures::{Latency, latency};
use crate::fixture::Fixture;
use crate::profiles::{Dice, WORKSPACE, mpid};
use crate::update::Update;

/// Clients that look up, and as many that update, each on a connection of its own.
const CLIENTS: u32 = 2;
/// The time between two calls of a client.
const PAUSE: Duration = Duration::from_millis(20);
/// Calls in a second, of all clients.
pub const RATE: u32 = 2 * CLIENTS * 50;

/// Lookups of profiles that are being updated, so that their length is not known.
struct Get {
    profiles: u64,
}

impl Work for Get {
    const PATH: &'static str = "/cameo.v1.ProfileService/GetProfile";
    type Expected = ();

    fn request(&self, dice: &mut Dice) -> (Bytes, ()) {
        let key = Some(ProfileKey { key: Some(Key::Mpid(mpid(dice.below(self.profiles)))) });
        let request = GetProfileRequest { workspace: WORKSPACE.into(), key, ..GetProfileRequest::default() };
        (request.encode_to_vec().into(), ())
    }

    fn is_right(&self, answer: &[u8], (): &()) -> bool {
        !answer.is_empty()
    }
}

/// The clients.
pub struct Steady {
    channels: Vec<Channel>,
    lookups: Arc<With<Get>>,
    updates: Arc<With<Update>>,
}

/// What their calls took in a turn.
pub struct Latencies {
    lookups: Latency,
    updates: Latency,
}

impl Latencies {
    pub fn lookups(&self) -> &Latency {
        &self.lookups
    }

    pub fn updates(&self) -> &Latency {
        &self.updates
    }
}

impl Steady {
    pub async fn connect(server: &Child, fixture: &Fixture, credential: &Credential) -> anyhow::Result<Self> {
        let (profiles, channels) = (fixture.profiles, connect(server.addr, 2 * CLIENTS as usize).await?);
        let lookups = Arc::new(With { work: Get { profiles }, credential: credential.clone() });
        let updates = Arc::new(With { work: Update { profiles }, credential: credential.clone() });
        Ok(Self { channels, lookups, updates })
    }

    /// Calls until `end`. An error if a call is refused: this tenant keeps within its quotas.
    pub async fn run(&self, end: Instant, seed: u64) -> anyhow::Result<Latencies> {
        let (lookups, updates) = self.channels.split_at(CLIENTS as usize);
        let (lookups, updates) =
            tokio::join!(all(lookups, &self.lookups, end, seed), all(updates, &self.updates, end, seed));
        Ok(Latencies { lookups: lookups?, updates: updates? })
    }
}

/// The clients of one kind, which do not call at the same moments.
async fn all<W: Work>(channels: &[Channel], work: &Arc<W>, end: Instant, seed: u64) -> anyhow::Result<Latency> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (client, channel) in (0..).zip(channels) {
        let (grpc, dice) = (Grpc::new(channel.clone()), Dice::new((seed << 32) + u64::from(client)));
        running.spawn(one(grpc, Arc::clone(work), dice, start + PAUSE * client / CLIENTS, end));
    }
    Ok(gather(start, running).await?.latency)
}

async fn one<W: Work>(
    mut grpc: Grpc<Channel>,
    work: Arc<W>,
    mut dice: Dice,
    mut due: Instant,
    end: Instant,
) -> anyhow::Result<Latency> {
    let mut latency = latency();
    while due < end {
        let is_late = Instant::now() > due;
        tokio::time::sleep_until(due.into()).await;
        let began = if is_late { due } else { Instant::now() }; // A timer of its own is up to a millisecond late.
        call(&mut grpc, &*work, &mut dice).await?;
        latency.record(began.elapsed().as_micros().try_into()?)?;
        due += PAUSE;
    }
    Ok(latency)
}
