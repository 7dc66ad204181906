//! The tenant that calls as hard as it can: lookups, large updates, pages of lists, and an import.
//!
//! Its clients run on threads that run only when no others would. They stand for clients on other machines: they shall
//! load the server, and not take the processors from it and from the clients that are measured.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::{
    GetProfileRequest, ImportProfilesRequest, ListProfilesRequest, ProfileKey, ProfilePatch, UpdateProfileRequest,
};
use futures_util::{Stream, stream};
use http::uri::PathAndQuery;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::child::Child;
use crate::client::{Credential, RawCodec, connect, presenting};
use crate::figures::float;
use crate::profiles::{Dice, mpid, profile};

pub const WORKSPACE: &str = "globex/main/web";
/// The clients, each with one call in flight.
pub const CLIENTS: usize = LOOKERS + UPDATERS + LISTERS + IMPORTERS;
const LOOKERS: usize = 159;
const UPDATERS: usize = 64;
const LISTERS: usize = 32;
const IMPORTERS: usize = 1;
const CONNECTIONS: usize = 8;
/// The profiles that it reads and updates.
const PROFILES: u64 = 1_000;
/// The attribute that an update replaces, in bytes.
const LARGE: usize = 16 << 10;
/// Profiles in a page.
const PAGE: i32 = 1_000;
/// The longest that a client waits after a refusal that names no time.
const USUAL_WAIT: Duration = Duration::from_millis(10);

/// What a client does after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// It calls again at once.
    Hasty,
    /// It waits for as long as the refusal says.
    Patient,
}

impl Manners {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hasty => "one that calls again at once",
            Self::Patient => "one that waits as it is told",
        }
    }
}

/// The clients.
pub struct Noisy {
    channels: Vec<Channel>,
    credential: Credential,
    /// `None` only while it is dropped.
    threads: Option<Runtime>,
}

/// What became of their calls in a turn.
pub struct Noise {
    elapsed: Duration,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    succeeded: AtomicU64,
    refused: AtomicU64,
    imported_bytes: AtomicU64,
}

/// What a client calls.
#[derive(Debug, Clone, Copy)]
enum Task {
    Lookup,
    Update,
    List,
    Import,
}

impl Noise {
    pub fn succeeded(&self) -> f64 {
        self.per_second(&self.counts.succeeded)
    }

    pub fn refused(&self) -> f64 {
        self.per_second(&self.counts.refused)
    }

    /// Bytes of records.
    pub fn imported(&self) -> f64 {
        self.per_second(&self.counts.imported_bytes)
    }

    fn per_second(&self, count: &AtomicU64) -> f64 {
        float(count.load(Ordering::Relaxed)) / self.elapsed.as_secs_f64()
    }
}

impl Noisy {
    /// Connects on threads of its own, which also serve the connections.
    pub async fn connect(server: &Child, credential: &Credential) -> anyhow::Result<Self> {
        let threads =
            tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_start(run_when_idle).build()?;
        let channels = threads.spawn(connect(server.addr, CONNECTIONS)).await??;
        Ok(Self { channels, credential: credential.clone(), threads: Some(threads) })
    }

    /// Creates the profiles, unless they are there.
    pub async fn fill(&self) -> anyhow::Result<()> {
        let records: Vec<_> = (0..PROFILES).map(record).collect();
        let mut grpc = Grpc::new(self.channels[0].clone());
        grpc.ready().await?;
        import(&mut grpc, &self.credential, stream::iter(records)).await?;
        Ok(())
    }

    /// Calls until `end`, and waits for the last responses.
    pub async fn run(&self, manners: Manners, end: Instant, seed: u64) -> anyhow::Result<Noise> {
        let (start, counts) = (Instant::now(), Arc::new(Counts::default()));
        let mut running = JoinSet::new();
        let threads = self.threads.as_ref().context("it is being dropped")?.handle();
        for (client, (task, channel)) in (0..).zip(tasks().zip(self.channels.iter().cycle())) {
            let dice = Dice::new((seed << 32) + client);
            let (grpc, credential) = (Grpc::new(channel.clone()), self.credential.clone());
            let client = Client { grpc, credential, dice, counts: Arc::clone(&counts), end };
            running.spawn_on(client.run(task, manners), threads);
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(Noise { elapsed: start.elapsed(), counts })
    }
}

impl Drop for Noisy {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background(); // To wait for them would block.
        }
    }
}

/// Makes the scheduler run this thread only when no other thread wants to.
fn run_when_idle() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let made = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(made.is_ok_and(|status| status.success()), "chrt of util-linux makes a thread wait for others");
}

fn tasks() -> impl Iterator<Item = Task> {
    let of = |task, clients| std::iter::repeat_n(task, clients);
    let changes = of(Task::Import, IMPORTERS).chain(of(Task::Update, UPDATERS));
    changes.chain(of(Task::List, LISTERS)).chain(of(Task::Lookup, LOOKERS))
}

/// One client.
struct Client {
    grpc: Grpc<Channel>,
    credential: Credential,
    dice: Dice,
    counts: Arc<Counts>,
    end: Instant,
}

impl Client {
    async fn run(mut self, task: Task, manners: Manners) -> anyhow::Result<()> {
        while Instant::now() < self.end {
            self.grpc.ready().await?;
            let called = match task {
                Task::Import => self.import().await,
                _ => self.call(task).await,
            };
            let count = if called.is_ok() { &self.counts.succeeded } else { &self.counts.refused };
            count.fetch_add(1, Ordering::Relaxed);
            match called.err() {
                Some(status) if !is_refusal(&status) => bail!("{task:?} of the noisy tenant failed: {status}"),
                Some(status) if manners == Manners::Patient => self.wait(&status).await,
                _ => {}
            }
        }
        Ok(())
    }

    async fn call(&mut self, task: Task) -> Result<(), Status> {
        let (path, message) = self.request(task);
        let request = presenting(message, Some(&self.credential));
        self.grpc.unary(request, PathAndQuery::from_static(path), RawCodec).await?;
        Ok(())
    }

    fn request(&mut self, task: Task) -> (&'static str, Bytes) {
        let (workspace, key) = (WORKSPACE.to_owned(), Some(key(self.dice.below(PROFILES))));
        match task {
            Task::Update => {
                let patch = Some(large_patch(&mut self.dice));
                let request = UpdateProfileRequest { workspace, key, patch, ..Default::default() };
                ("/cameo.v1.ProfileService/UpdateProfile", request.encode_to_vec().into())
            }
            Task::List => {
                let request = ListProfilesRequest { workspace, page_size: PAGE, ..Default::default() };
                ("/cameo.v1.ProfileService/ListProfiles", request.encode_to_vec().into())
            }
            Task::Lookup | Task::Import => {
                let request = GetProfileRequest { workspace, key, ..Default::default() };
                ("/cameo.v1.ProfileService/GetProfile", request.encode_to_vec().into())
            }
        }
    }

    /// Sends records until the end of the turn.
    async fn import(&mut self) -> Result<(), Status> {
        let (counts, end, first) = (Arc::clone(&self.counts), self.end, self.dice.roll());
        let records = (0..).map(move |nth: u64| record(first.wrapping_add(nth)));
        let records = records.take_while(move |_| Instant::now() < end).inspect(move |record| {
            counts.imported_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
        });
        import(&mut self.grpc, &self.credential, stream::iter(records)).await
    }

    async fn wait(&self, refusal: &Status) {
        let told = refusal.get_details_retry_info().and_then(|info| info.retry_delay);
        let until = Instant::now() + told.unwrap_or(USUAL_WAIT);
        tokio::time::sleep_until(until.min(self.end).into()).await;
    }
}

fn is_refusal(status: &Status) -> bool {
    // The server closes a connection that asks for much and does not read it: tonic calls that an unknown error.
    matches!(status.code(), Code::ResourceExhausted | Code::Unavailable | Code::Unknown | Code::Cancelled)
}

async fn import(
    grpc: &mut Grpc<Channel>,
    credential: &Credential,
    records: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<(), Status> {
    let path = PathAndQuery::from_static("/cameo.v1.ProfileService/ImportProfiles");
    grpc.client_streaming(presenting(records, Some(credential)), path, RawCodec).await?;
    Ok(())
}

fn key(index: u64) -> ProfileKey {
    ProfileKey { key: Some(Key::Mpid(mpid(index))) }
}

/// A record that creates or changes a profile: the same profiles again and again, with other values.
fn record(number: u64) -> Bytes {
    let patch = ProfilePatch { set_user_attributes: profile(number).user_attributes, ..ProfilePatch::default() };
    let (workspace, key) = (WORKSPACE.to_owned(), Some(key(number % PROFILES)));
    let record = ImportProfilesRequest { workspace, key, patch: Some(patch), ..Default::default() };
    record.encode_to_vec().into()
}

/// An update that replaces a large value by another.
fn large_patch(dice: &mut Dice) -> ProfilePatch {
    let text = format!("{:016x}", dice.roll()).repeat(LARGE / 16);
    let value = Value { kind: Some(Kind::StringValue(text)) };
    let set = Struct { fields: [("notes".to_owned(), value)].into() };
    ProfilePatch { set_user_attributes: Some(set), ..ProfilePatch::default() }
}
