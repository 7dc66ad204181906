//! A store that holds the profiles, and what the measurements need besides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use cameo::clock::machine_time;
use cameo::command::{Change, Command, Create, Update};
use cameo::config::StoreConfig;
use cameo::model::{Limits, Mpid, NewProfile, Patch, ProfileKey, Workspace, wire};
use cameo::proto::field::get_profile_response;
use cameo::store::{Snapshot, Store, WorkspaceId};
use futures_util::{StreamExt, stream};
use tempfile::TempDir;

use crate::child::Child;
use crate::profiles::{Dice, WORKSPACE, mpid, patch, profile};
use crate::reference;

/// Updates that are made before the measurements. [`crate::bare`] writes the rows that they leave.
pub const SAMPLES: u64 = 1_000;
/// Writes in flight while the store is filled: enough for the largest batches.
const IN_FLIGHT: usize = 2_048;
/// The store's file, in its directory.
const STORE_FILE: &str = "cameo.redb";
/// A check that profiles are as large as real ones.
const MIN_PROFILE_BYTES: usize = 300;

/// What to prepare in addition to the store.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// [`Fixture::profile_bytes`], for measurements that look profiles up.
    pub lengths: bool,
    /// The reference. It needs `lengths` too.
    pub reference: bool,
    /// The copy of the store for [`crate::bare`].
    pub copy: bool,
}

/// What all measurements share. Dropping it removes the files.
pub struct Fixture {
    pub profiles: u64,
    /// The encoded length of each profile, by index, before any measurement has updated it.
    pub profile_bytes: Arc<[u32]>,
    pub store: StoreConfig,
    dir: TempDir,
}

impl Fixture {
    /// Fills a store and closes it, and starts the reference with its profiles.
    pub async fn build(profiles: u64, needs: Needs) -> anyhow::Result<(Self, Option<Child>)> {
        // Not in the system's temporary directory, which may be in memory, where a sync costs nothing.
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
        self.store.data_dir.join(STORE_FILE)
    }

    /// A directory for the files of a measurement.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A copy of the store, which no server has open, in a directory.
    pub fn copied_to(&self, dir: &Path) -> anyhow::Result<StoreConfig> {
        let store = StoreConfig { data_dir: dir.join("data"), ..self.store.clone() };
        std::fs::create_dir_all(&store.data_dir)?;
        std::fs::copy(self.store_file(), store.data_dir.join(STORE_FILE))?;
        Ok(store)
    }

    /// The copy of the store for [`crate::bare`].
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
        ensure!(profile.len() > MIN_PROFILE_BYTES, "a profile is as large as a real one");
        Ok(profile)
    }
}

/// The lengths of the profiles, and a reference that returns them, if they are needed.
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
            wire::put_delimited(get_profile_response::PROFILE, &profile, &mut answer);
            reference.add(index, &answer).await?;
        }
    }
    let reference = match reference {
        Some(reference) => Some(reference.done().await?),
        None => None,
    };
    Ok((lengths, reference))
}
