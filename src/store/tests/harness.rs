//! A store on a disk in memory, the people whose profiles the tests change, and short names for writes and reads.
//!
//! Times and uptimes are in microseconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value};
use rand::SeedableRng;
use rand::rngs::StdRng;
use redb::{Database, ReadableDatabase, StorageBackend, TableError};
use uuid::Uuid;

use super::disk::{Crash, Disk, Operation, Replay};
use crate::command::{Change, Command, Create, Delete, RequestId, Stamp, Trim, Update};
use crate::config::StoreConfig;
use crate::model::{Limits, LogId, Micros, Mpid, NewProfile, Patch, Place, ProfileKey, Sequence, Workspace};
use crate::proto::v1::{AudienceMembership, Event, Identity, Profile, ProfilePatch};
use crate::store::backend::Backend;
use crate::store::open::{self, Opened};
use crate::store::rows::{Origin, Secret};
use crate::store::tables::META;
use crate::store::{Commit, LogBounds, OpenError, PageSize, Store, StoreError, Written};
use crate::telemetry::traces::Traces;

pub const SECOND: i64 = 1_000_000;
pub const HOUR: i64 = 60 * 60 * SECOND;
pub const DAY: i64 = 24 * HOUR;
/// The mpids of people.
pub const ADA: i64 = 1;
pub const GRACE: i64 = 2;
pub const ALAN: i64 = 3;
/// The log id and the secret of every store in the tests, so that equal commands make equal rows.
pub const ORIGIN: Origin = Origin { log: LogId(0x0123_4567_89ab_cdef), secret: Secret([7; 16]) };
pub const EVERYTHING: PageSize = PageSize { items: usize::MAX, bytes: usize::MAX };

pub fn database(disk: &Disk) -> Database {
    Database::builder().create_with_backend(Backend::new(disk.clone())).unwrap()
}

pub fn store_on(disk: &Disk, on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static) -> Store {
    try_store_on(disk, on_commit).unwrap()
}

pub fn try_store_on(
    disk: &Disk,
    on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static,
) -> Result<Store, OpenError> {
    start(database(disk), &config(), on_commit)
}

/// Opens a store, and loses the power at many moments of that. Checks the disk of each after it was opened again.
pub async fn open_after_power_losses(disk: &Disk, check: impl Fn(&Disk)) {
    let begun = disk.operations();
    store_on(disk, |_, _| {}).close().await;
    let is_due = |at: &usize| matches!(disk.journal()[at - 1], Operation::Sync) || at.is_multiple_of(8);
    for cut in (begun..=disk.operations()).filter(is_due) {
        let image = Replay::up_to(disk, cut).crash(Crash::LoseAll, &mut StdRng::seed_from_u64(7));
        let survivor = Disk::holding(image);
        store_on(&survivor, |_, _| {}).close().await;
        check(&survivor);
    }
}

/// The directory serves only to find out how full its disk is.
pub fn config() -> StoreConfig {
    StoreConfig { data_dir: ".".into(), scrub_rate: 0, ..StoreConfig::default() }
}

/// Starts a store on a database that may be new.
pub fn start(
    database: Database,
    config: &StoreConfig,
    on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static,
) -> Result<Store, OpenError> {
    let opened = open(database)?;
    Store::start(opened, config, Traces::default(), on_commit)
}

pub fn open(database: Database) -> Result<Opened, OpenError> {
    let path = Path::new("cameo.redb");
    if is_new(&database) {
        open::initialize(&database, ORIGIN).unwrap();
    }
    let facts = open::load(&database, path)?;
    Ok(Opened { database, lock: None, path: path.to_owned(), facts })
}

fn is_new(database: &Database) -> bool {
    let transaction = database.begin_read().unwrap();
    let absent = |result| matches!(result, Err(TableError::TableDoesNotExist(_)));
    absent(transaction.open_table(META).map(|_| ())) && absent(transaction.open_table(super::former::META).map(|_| ()))
}

pub fn store() -> Store {
    store_on(&Disk::default(), |_, _| {})
}

pub fn workspace() -> Workspace {
    Workspace::parse("a/b/c").unwrap()
}

/// A command at a time that is also the store's uptime.
pub fn command(time: i64, change: impl Into<Change>) -> Command {
    let stamp = Stamp { time: Micros::new(time), uptime: Micros::new(time), event_id: Uuid::now_v7() };
    Command {
        workspace: workspace(),
        stamp,
        actor: None,
        request: None,
        silent: false,
        validate_only: false,
        limits: Limits::default(),
        change: change.into(),
    }
}

impl From<Create> for Change {
    fn from(create: Create) -> Self {
        Self::Create(create)
    }
}

impl From<Update> for Change {
    fn from(update: Update) -> Self {
        Self::Update(update)
    }
}

impl From<Delete> for Change {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete)
    }
}

impl From<Trim> for Change {
    fn from(trim: Trim) -> Self {
        Self::Trim(trim)
    }
}

pub fn create(mpid: i64) -> Create {
    create_with(mpid, Profile::default())
}

pub fn create_with(mpid: i64, profile: Profile) -> Create {
    let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
    Create { profile, mpid: Mpid::new(mpid).unwrap(), drawn: false }
}

/// A profile with these email addresses.
pub fn with_emails<'v>(values: impl IntoIterator<Item = &'v str>) -> Profile {
    Profile { user_identities: values.into_iter().map(email).collect(), ..Profile::default() }
}

pub fn email(value: &str) -> Identity {
    Identity { r#type: "email".into(), encoding: "none".into(), value: value.into() }
}

pub fn update(mpid: i64, patch: ProfilePatch) -> Update {
    let patch = Box::new(Patch::parse(patch, &Limits::default()).unwrap());
    Update { key: ProfileKey::Mpid(Mpid::new(mpid).unwrap()), patch, etag: None, create_as: None }
}

pub fn increment(mpid: i64) -> Update {
    let increment_user_attributes = [("n".to_owned(), 1.0)].into();
    update(mpid, ProfilePatch { increment_user_attributes, ..ProfilePatch::default() })
}

pub fn join(mpid: i64, audience_id: i64, until_second: i64) -> Update {
    let expire_time = Some(prost_types::Timestamp { seconds: until_second, nanos: 0 });
    let membership = AudienceMembership { audience_id, expire_time, ..Default::default() };
    update(mpid, ProfilePatch { join_audiences: vec![membership], ..ProfilePatch::default() })
}

/// A patch that changes nothing: it leaves an audience that no profile is in.
pub fn leave_nothing(mpid: i64) -> Update {
    update(mpid, ProfilePatch { leave_audiences: vec![99], ..ProfilePatch::default() })
}

/// A patch that makes a profile nearly as large as the limit. The profile is created if it does not exist.
pub fn set_large_attributes(mpid: i64) -> Update {
    let value = Value { kind: Some(ValueKind::StringValue("x".repeat(60_000))) };
    let fields = ["a", "b", "c", "d"].map(|key| (key.to_owned(), value.clone())).into();
    let patch = ProfilePatch { set_user_attributes: Some(Struct { fields }), ..ProfilePatch::default() };
    Update { create_as: Mpid::new(mpid), ..update(mpid, patch) }
}

pub fn delete(mpid: i64) -> Delete {
    Delete { key: ProfileKey::Mpid(Mpid::new(mpid).unwrap()), etag: None, allow_missing: false }
}

/// Removes nothing.
pub const NO_TRIM: Trim = Trim { max_age: None, max_bytes: None, hold_age: None, hold_bytes: None, most: usize::MAX };

/// Removes what is older than this many microseconds.
pub fn trim_by_age(micros: u64) -> Trim {
    Trim { max_age: Some(Duration::from_micros(micros)), ..NO_TRIM }
}

/// Removes the oldest events until the log has no more than this many bytes.
pub fn trim_by_bytes(bytes: u64) -> Trim {
    Trim { max_bytes: Some(bytes), ..NO_TRIM }
}

/// The ends and the bytes of the log.
pub fn log(store: &Store) -> LogBounds {
    let id = store.workspace_id(&workspace()).unwrap();
    store.snapshot().unwrap().log_bounds(id).unwrap()
}

pub fn with_id(command: Command, id: &str) -> Command {
    Command { request: Some(RequestId { id: id.into(), fingerprint: 1 }), ..command }
}

/// The sequence of a command's own event, or of the latest event if the command changed nothing.
pub fn number(written: &Written) -> u64 {
    written.place.unwrap().get()
}

pub fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

pub fn stored(store: &Store, mpid: i64) -> Result<Option<Profile>, StoreError> {
    stored_as_of(store, mpid, 0)
}

pub fn stored_as_of(store: &Store, mpid: i64, now: i64) -> Result<Option<Profile>, StoreError> {
    let snapshot = store.snapshot()?;
    let Some(workspace) = store.workspace_id(&workspace()) else { return Ok(None) };
    let decode = |profile: &[u8]| Profile::decode(profile).unwrap();
    snapshot.profile(workspace, Mpid::new(mpid).unwrap(), Micros::new(now), decode)
}

/// The whole log.
pub fn events(store: &Store) -> Vec<Event> {
    let (snapshot, id) = (store.snapshot().unwrap(), store.workspace_id(&workspace()).unwrap());
    let head = snapshot.log_bounds(id).unwrap().head;
    let event = |number| snapshot.event(id, sequence(number), |event| Ok(Event::decode(event.event).unwrap())).unwrap();
    (1..=head.get()).map(event).collect()
}

pub fn head(store: &Store) -> Place {
    let id = store.workspace_id(&workspace()).unwrap();
    store.snapshot().unwrap().log_bounds(id).unwrap().head
}

/// Everything on a disk.
pub fn bytes_of(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len().unwrap()).unwrap()];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

/// A disk that holds these.
pub fn disk_of(bytes: &[u8]) -> Disk {
    let disk = Disk::default();
    disk.set_len(bytes.len() as u64).unwrap();
    disk.write(0, bytes).unwrap();
    disk
}

/// The store on a disk. `None` if it cannot be opened, or redb panics.
pub fn store_if_sound(disk: &Disk) -> Option<Store> {
    catch_unwind(AssertUnwindSafe(|| try_store_on(disk, |_, _| {}))).ok()?.ok()
}

/// Changes the file of a closed store.
pub fn tamper(disk: &Disk, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = database(disk);
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}
