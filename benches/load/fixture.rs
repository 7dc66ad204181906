//! The profiles, and a store that holds them.
//!
//! A profile is a pure function of its index, so that keys need not be kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use cameo::clock::machine_time;
use cameo::command::{Change, Command, Create, Update};
use cameo::config::StoreConfig;
use cameo::model::{Limits, Mpid, NewProfile, Patch, ProfileKey, Workspace, wire};
use cameo::proto::v1::{AudienceMembership, Identity, Profile, ProfilePatch};
use cameo::store::{Snapshot, Store, WorkspaceId};
use futures_util::{StreamExt, stream};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tempfile::TempDir;
use uuid::Uuid;

use crate::child::Child;
use crate::reference;

pub const WORKSPACE: &str = "acme/main/web";
/// Updates made before anything is measured: the rows that they leave are what [`crate::bare`] writes.
pub const SAMPLES: u64 = 1_000;
/// Writes in flight while the store is filled: enough for the largest batches.
const IN_FLIGHT: usize = 2_048;

/// Splitmix64: a bijection that leaves no trace of order. Keys made by it are unique and spread evenly.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random enough for keys, and costs nothing.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// Below `bound`. The bias is one in 2^64 / `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).expect("an index")]
    }
}

/// Positive, as a drawn one is.
pub fn mpid(index: u64) -> i64 {
    (mix(index) >> 1).cast_signed().max(1)
}

/// The user identities of a profile, by which it is looked up.
pub fn user_identities(index: u64) -> [Identity; 2] {
    let name = format!("customer-{:016x}", mix(index));
    let email = format!("{name}@example.com");
    [identity("customer_id", name), identity("email", email)]
}

fn identity(kind: &str, value: String) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value }
}

pub fn profile(index: u64) -> Profile {
    let dice = &mut Dice::new(!index);
    let (high, low) = (dice.roll(), dice.roll());
    let device_identities = vec![
        identity("android_id", format!("{:016x}", dice.roll())),
        identity("google_advertising_id", Uuid::from_u64_pair(high, low).to_string()),
    ];
    Profile {
        device_identities,
        user_identities: user_identities(index).into(),
        user_attributes: Some(attributes(dice)),
        audience_memberships: memberships(dice),
        ..Profile::default()
    }
}

fn attributes(dice: &mut Dice) -> Struct {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.into())) };
    let (city, state) = [
        ("New York", "NY"),
        ("Los Angeles", "CA"),
        ("Chicago", "IL"),
        ("Houston", "TX"),
        ("San Francisco", "CA"),
        ("Ann Arbor", "MI"),
    ][usize::try_from(dice.below(6)).expect("an index")];
    let fields = [
        ("view_preference", text(dice.pick(&["Dark Mode", "Light Mode", "System"]))),
        ("tp_age", text(dice.pick(&["18-34", "35-54", "55-64", "65+"]))),
        ("tp_gender", text(dice.pick(&["male", "female", "unknown"]))),
        ("last_purchase_category", text(category(dice))),
        ("churn_risk_score", text(dice.pick(&["1", "2", "3", "4", "5"]))),
        ("ltv", number(dice.below(200_000))),
        ("$city", text(city)),
        ("$state", text(state)),
        ("$country", text("USA")),
        ("$firstname", text(dice.pick(&["Marky", "Ada", "Bartholomew", "Grace", "Jo", "Wilhelmina"]))),
        ("$lastname", text(dice.pick(&["Mark", "Lovelace", "Hopper", "Featherstonehaugh", "Li", "Okonkwo"]))),
    ];
    Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() }
}

fn category(dice: &mut Dice) -> &'static str {
    dice.pick(&["Home Decor", "Garden", "Toys", "Consumer Electronics", "Books", "Groceries and Household"])
}

fn number(cents: u64) -> Value {
    let cents = u32::try_from(cents).expect("an amount of money");
    Value { kind: Some(Kind::NumberValue(f64::from(cents) / 100.0)) }
}

/// One to three.
fn memberships(dice: &mut Dice) -> Vec<AudienceMembership> {
    let audiences = [(17_918, "Decor Remarketing"), (20_411, "Newsletter"), (31_007, "High Value, Likely to Churn")];
    let count = 1 + usize::try_from(dice.below(3)).expect("an index");
    let membership = |(audience_id, name): (i64, &str)| AudienceMembership {
        audience_id,
        audience_name: name.into(),
        expire_time: None,
    };
    audiences.into_iter().take(count).map(membership).collect()
}

/// What a purchase does: it sets one attribute and increments another, so that it always changes the profile.
pub fn patch(dice: &mut Dice) -> ProfilePatch {
    let bought = Value { kind: Some(Kind::StringValue(category(dice).into())) };
    ProfilePatch {
        set_user_attributes: Some(Struct { fields: [("last_purchase_category".to_owned(), bought)].into() }),
        increment_user_attributes: [("ltv".to_owned(), 20.5)].into(),
        ..ProfilePatch::default()
    }
}

/// What is to be prepared besides the store.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// [`Fixture::profile_bytes`], for whoever looks profiles up.
    pub lengths: bool,
    /// The reference, which takes the lengths too.
    pub reference: bool,
    /// The copy for [`crate::bare`].
    pub copy: bool,
}

/// What all measurements share. The directory goes with it.
pub struct Fixture {
    pub profiles: u64,
    /// Of each encoded profile, by its index, before anything was updated.
    pub profile_bytes: Arc<[u32]>,
    pub store: StoreConfig,
    dir: TempDir,
}

impl Fixture {
    /// Fills a store, and closes it. The reference is filled from it.
    pub async fn build(profiles: u64, needs: Needs) -> anyhow::Result<(Self, Option<Child>)> {
        // Not in the system's directory for temporary files: that may lie in memory, where a sync costs nothing.
        let parent = env!("CARGO_TARGET_TMPDIR");
        std::fs::create_dir_all(parent)?;
        let dir = tempfile::Builder::new().prefix("load-").tempdir_in(parent)?;
        let config = StoreConfig { data_dir: dir.path().join("data"), ..StoreConfig::default() };
        let store = Store::open(&config, |_, _| {})?;

        eprintln!("creating {profiles} profiles");
        write_all(&store, (0..profiles).map(|index| create(&store, index))).await?;
        let dice = &mut Dice::new(0);
        write_all(&store, (0..SAMPLES.min(profiles)).map(|index| update_command(&store, index, dice))).await?;

        let (profile_bytes, reference) = read_all(&store, profiles, needs).await?;
        store.close().await;
        let fixture = Self { profiles, profile_bytes: profile_bytes.into(), store: config, dir };
        if needs.copy {
            eprintln!("copying the store");
            std::fs::copy(fixture.store_file(), fixture.bare_file())?;
            std::fs::File::open(fixture.bare_file())?.sync_all()?;
        }
        Ok((fixture, reference))
    }

    pub fn store_file(&self) -> PathBuf {
        self.store.data_dir.join("cameo.redb")
    }

    /// For files of a measurement's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// For [`crate::bare`].
    pub fn bare_file(&self) -> PathBuf {
        self.dir.path().join("bare.redb")
    }
}

async fn write_all(store: &Store, commands: impl Iterator<Item = anyhow::Result<Command>>) -> anyhow::Result<()> {
    let mut writes =
        stream::iter(commands).map(|command| async { Ok(store.write(command?).await?) }).buffer_unordered(IN_FLIGHT);
    while let Some(written) = writes.next().await {
        written.map_err(|error: anyhow::Error| error.context("filling the store"))?;
    }
    Ok(())
}

fn create(store: &Store, index: u64) -> anyhow::Result<Command> {
    let profile = Box::new(NewProfile::parse(profile(index), &Limits::default())?);
    command(store, Change::Create(Create { profile, mpid: valid(mpid(index)), drawn: false }))
}

fn update_command(store: &Store, index: u64, dice: &mut Dice) -> anyhow::Result<Command> {
    let patch = Box::new(Patch::parse(patch(dice), &Limits::default())?);
    let key = ProfileKey::Mpid(valid(mpid(index)));
    command(store, Change::Update(Update { key, patch, etag: None, create_as: None }))
}

fn command(store: &Store, change: Change) -> anyhow::Result<Command> {
    Ok(Command {
        workspace: Workspace::parse(WORKSPACE)?,
        stamp: store.stamp(),
        actor: None,
        request: None,
        silent: false,
        validate_only: false,
        limits: Limits::default(),
        change,
    })
}

fn valid(mpid: i64) -> Mpid {
    Mpid::new(mpid).expect("not 0")
}

/// The encoded profiles of a store.
pub struct Stored {
    snapshot: Snapshot,
    workspace: WorkspaceId,
}

impl Stored {
    pub fn of(store: &Store) -> anyhow::Result<Self> {
        let workspace = store.workspace_id(&Workspace::parse(WORKSPACE)?).context("the workspace was written to")?;
        Ok(Self { snapshot: store.snapshot()?, workspace })
    }

    pub fn profile(&self, index: u64) -> anyhow::Result<Vec<u8>> {
        let now = machine_time().context("a clock")?;
        let profile = self.snapshot.profile(self.workspace, valid(mpid(index)), now, <[u8]>::to_vec)?;
        let profile = profile.context("the profile was written")?;
        ensure!(profile.len() > 300, "a profile is as large as a real one");
        Ok(profile)
    }
}

/// The lengths of the profiles, and a reference that answers them, as far as they are needed.
async fn read_all(store: &Store, profiles: u64, needs: Needs) -> anyhow::Result<(Vec<u32>, Option<Child>)> {
    let mut lengths = Vec::new();
    if !needs.lengths {
        return Ok((lengths, None));
    }
    eprintln!("reading the profiles");
    let stored = Stored::of(store)?;
    let mut reference = needs.reference.then(reference::Filling::start).transpose()?;
    for index in 0..profiles {
        let profile = stored.profile(index)?;
        lengths.push(u32::try_from(profile.len())?);
        if let Some(reference) = &mut reference {
            let mut answer = Vec::new();
            wire::put_delimited(1, &profile, &mut answer); // `GetProfileResponse.profile`.
            reference.add(index, &answer).await?;
        }
    }
    let reference = match reference {
        Some(reference) => Some(reference.done().await?),
        None => None,
    };
    Ok((lengths, reference))
}
