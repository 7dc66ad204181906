//! What only the store can be asked: a disk that forgets, rows that are damaged, a day that has passed.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use redb::{Database, ReadableTable, StorageBackend};
use uuid::Uuid;

use super::tables::{EVENTS, PROFILES};
use super::*;
use crate::model::{Filter, IdentityKey, Invalid, Micros, Mpid, NewProfile, Patch, ProfileKey};
use crate::proto::v1::{AudienceMembership, Event, Identity, Profile, ProfilePatch, WriteOutcome};

const SECOND: Micros = 1_000_000;
const DAY: Micros = 24 * 60 * 60 * SECOND;

/// A disk that keeps, over a loss of power, only what was synced.
#[derive(Debug, Clone, Default)]
struct Disk {
    written: Arc<Mutex<Vec<u8>>>,
    synced: Arc<Mutex<Vec<u8>>>,
}

impl Disk {
    fn after_power_loss(&self) -> Self {
        let synced = self.synced.lock().unwrap().clone();
        Self { written: Arc::new(Mutex::new(synced.clone())), synced: Arc::new(Mutex::new(synced)) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.written.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.written.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.written.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.synced.lock().unwrap().clone_from(&self.written.lock().unwrap());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let offset = usize::try_from(offset).unwrap();
        self.written.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn store_on(disk: &Disk, on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static) -> Store {
    start(disk, Limits::default(), on_commit)
}

fn start(disk: &Disk, limits: Limits, on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static) -> Store {
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    // The directory is only asked how full its disk is.
    let config = StoreConfig { data_dir: ".".into(), ..StoreConfig::default() };
    Store::start(database, &config, limits, on_commit).unwrap()
}

fn store() -> Store {
    store_on(&Disk::default(), |_, _| {})
}

fn workspace() -> Workspace {
    Workspace::parse("a/b/c").unwrap()
}

fn command(time: Micros, change: Change) -> Command {
    Command {
        workspace: workspace(),
        time,
        event_id: Uuid::now_v7(),
        actor: String::new(),
        request: None,
        silent: false,
        validate_only: false,
        change,
        request_bytes: 100,
    }
}

fn create(mpid: i64) -> Change {
    let profile = NewProfile::parse(Profile::default(), &Limits::default()).unwrap();
    Change::Create { profile: Box::new(profile), mpid: Mpid::new(mpid).unwrap(), drawn: false }
}

fn increment(mpid: i64) -> Change {
    let increment_user_attributes = [("n".to_owned(), 1.0)].into();
    let patch = ProfilePatch { increment_user_attributes, ..ProfilePatch::default() };
    let patch = Box::new(Patch::parse(patch, &Limits::default()).unwrap());
    Change::Update { key: ProfileKey::mpid(mpid).unwrap(), patch, etag: String::new(), allow_missing: None }
}

fn with_id(command: Command, id: &str) -> Command {
    Command { request: Some(RequestId { id: id.into(), fingerprint: 1 }), ..command }
}

fn stored(store: &Store, mpid: i64) -> Result<Option<Profile>, StoreError> {
    let snapshot = store.snapshot()?;
    let Some(workspace) = store.workspace_id(&workspace()) else { return Ok(None) };
    snapshot.profile(workspace, Mpid::new(mpid).unwrap(), 0, |profile| Profile::decode(profile).unwrap())
}

/// Changes the file behind the store's back.
fn tamper(disk: &Disk, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

/// To the byte; over gRPC the times, which take more or fewer bytes, are the server's.
#[tokio::test]
async fn a_profile_may_be_as_large_as_the_limit_and_no_larger() {
    let written = store().write(command(1, create(1))).await.unwrap();
    let bytes = written.profile.unwrap().len();
    let store_with = |profile_bytes| start(&Disk::default(), Limits { profile_bytes, ..Limits::default() }, |_, _| {});

    assert!(store_with(bytes).write(command(1, create(1))).await.is_ok(), "at the limit");

    let refused = store_with(bytes - 1).write(command(1, create(1))).await.unwrap_err();
    let StoreError::Invalid(Invalid::ProfileTooLarge { limit, found }) = refused else { panic!("{refused:?}") };
    assert_eq!((limit, found), (bytes - 1, bytes), "one past it");
}

/// A file of format 1 keyed an identity by the type that was given; by now `customerid` is a name of `customer_id`.
#[tokio::test]
async fn a_file_of_format_1_is_brought_to_this_one() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let named = |value: &str| Identity { r#type: "customerid".into(), encoding: "none".into(), value: value.into() };
    let profile = Profile { user_identities: vec![named("a"), named("b")], ..Profile::default() };
    let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
    store.write(command(1, Change::Create { profile, mpid: Mpid::new(1).unwrap(), drawn: false })).await.unwrap();
    store.write(command(1, create(2))).await.unwrap();
    store.close().await;
    let [key_a, key_b] = ["a", "b"].map(|value| IdentityKey::of(&named(value)));
    let id = WorkspaceId(1);
    tamper(&disk, |transaction| {
        let mut identities = transaction.open_table(super::tables::IDENTITIES).unwrap();
        for value in ["a", "b"] {
            let former = format!("customerid\0none\0{value}");
            let (former, key) = IdentityKey::renamed(former.as_bytes()).unwrap();
            identities.remove((id.0, key.as_bytes())).unwrap();
            let row = super::rows::owner_row(id, &former, Mpid::new(1).unwrap());
            identities.insert((id.0, former.as_bytes()), row).unwrap();
        }
        // In format 1 another could own the same by the other name.
        let row = super::rows::owner_row(id, &key_b, Mpid::new(2).unwrap());
        identities.insert((id.0, key_b.as_bytes()), row).unwrap();
        transaction.open_table(super::tables::META).unwrap().insert("format", 1).unwrap();
    });

    let store = store_on(&disk, |_, _| {});

    let owner = |store: &Store, key: &IdentityKey| store.snapshot().unwrap().owner(id, key).unwrap().map(Mpid::get);
    assert_eq!(
        (owner(&store, &key_a), owner(&store, &key_b)),
        (Some(1), Some(2)),
        "who has the name that stays, keeps"
    );
    let key = ProfileKey::mpid(1).unwrap();
    store.write(command(1, Change::Delete { key, etag: String::new(), allow_missing: false })).await.unwrap();
    assert_eq!((owner(&store, &key_a), owner(&store, &key_b)), (None, Some(2)), "and is not robbed of it");
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    assert_eq!(owner(&store, &key_b), Some(2), "it is done once");
}

/// Whoever was answered or told of an event finds the change after a loss of power in the next moment.
#[tokio::test]
async fn durable_before_visible() {
    let disk = Disk::default();
    let (log, heard) = (disk.clone(), Arc::new(Mutex::new(0)));
    let told = Arc::clone(&heard);
    let check = move |_: LogId, events: &[Committed]| {
        let survivor = store_on(&log.after_power_loss(), |_, _| {});
        let id = survivor.workspace_id(&workspace()).unwrap();
        let head = survivor.snapshot().unwrap().log_bounds(id).unwrap().head;
        assert_eq!(head, events.last().unwrap().sequence);
        *told.lock().unwrap() += events.len();
    };
    let store = store_on(&disk, check);
    store.write(command(1, create(1))).await.unwrap();
    for written in 1..30 {
        let answer = store.write(command(1, increment(1))).await.unwrap().profile;
        let survivor = store_on(&disk.after_power_loss(), |_, _| {});
        let profile = stored(&survivor, 1).unwrap().unwrap();
        assert_eq!(Bytes::from(profile.encode_to_vec()), answer.unwrap(), "write {written}");
    }
    store.close().await;
    assert_eq!(*heard.lock().unwrap(), 30);
}

#[tokio::test]
async fn a_request_id_is_remembered_for_a_day_and_then_forgotten() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(0, create(1))).await.unwrap();
    let first = store.write(with_id(command(10, increment(1)), "r")).await.unwrap();
    store.write(command(11, increment(1))).await.unwrap();
    store.close().await;

    let store = store_on(&disk, |_, _| {});
    let repeat = store.write(with_id(command(9 + DAY, increment(1)), "r")).await.unwrap();
    assert_eq!((repeat.sequence, repeat.outcome), (first.sequence, first.outcome));
    assert_eq!(repeat.profile, first.profile, "as it was answered, though it has changed since");
    let anew = store.write(with_id(command(10 + DAY, increment(1)), "r")).await.unwrap();
    assert_eq!(anew.sequence, 4);

    // Old ones do not pile up.
    for n in 0..50 {
        store.write(with_id(command(2 * DAY, increment(1)), &format!("old {n}"))).await.unwrap();
    }
    for n in 0..50 {
        store.write(with_id(command(4 * DAY, increment(1)), &format!("new {n}"))).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        use redb::ReadableTableMetadata;
        assert_eq!(transaction.open_table(tables::REQUESTS).unwrap().len().unwrap(), 50);
        assert_eq!(transaction.open_table(tables::REQUEST_AGES).unwrap().len().unwrap(), 50);
    });
}

#[tokio::test]
async fn a_clock_that_goes_back_does_not_turn_the_log_back() {
    let store = store();
    store.write(command(500, create(1))).await.unwrap();
    store.write(command(400, increment(1))).await.unwrap();
    let profile = stored(&store, 1).unwrap().unwrap();
    assert_eq!(profile.update_time, profile.create_time);
}

#[tokio::test]
async fn a_damaged_row_is_refused_and_the_rest_is_served() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=3 {
        store.write(command(1, create(mpid))).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        let mut profiles = transaction.open_table(PROFILES).unwrap();
        let mut row = profiles.get((1, 2)).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        profiles.insert((1, 2), row.as_slice()).unwrap();
    });

    let store = store_on(&disk, |_, _| {});
    assert!(matches!(stored(&store, 2), Err(StoreError::Corrupt { table: "profile" })));
    let refused = store.write(command(2, increment(2))).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { table: "profile" })));
    assert_eq!(stored(&store, 3).unwrap().unwrap().mpid, 3);
    assert_eq!(store.write(command(2, increment(3))).await.unwrap().sequence, 4);
}

#[tokio::test]
async fn a_damaged_identity_does_not_lead_to_another_person() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let email = Identity { r#type: "email".into(), encoding: "none".into(), value: "a@x.com".into() };
    let profile = Profile { user_identities: vec![email.clone()], ..Profile::default() };
    let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
    let first = Change::Create { profile, mpid: Mpid::new(1).unwrap(), drawn: false };
    store.write(command(1, first)).await.unwrap();
    store.write(command(1, create(3))).await.unwrap();
    store.close().await;
    let key = IdentityKey::of(&email);
    tamper(&disk, |transaction| {
        let mut identities = transaction.open_table(tables::IDENTITIES).unwrap();
        let (owner, checksum) = identities.get((1, key.as_bytes())).unwrap().unwrap().value();
        identities.insert((1, key.as_bytes()), (owner ^ 2, checksum)).unwrap(); // 1 becomes 3.
    });
    let store = store_on(&disk, |_, _| {});
    let id = store.workspace_id(&workspace()).unwrap();
    let owner = store.snapshot().unwrap().owner(id, &key);
    assert!(matches!(owner, Err(StoreError::Corrupt { table: "identity" })));
}

#[tokio::test]
async fn a_request_id_is_remembered_even_where_there_is_no_workspace_yet() {
    let store = store();
    let delete = || {
        let key = ProfileKey::mpid(1).unwrap();
        with_id(command(1, Change::Delete { key, etag: String::new(), allow_missing: true }), "r")
    };
    assert_eq!(store.write(delete()).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert_eq!(store.write(command(1, create(1))).await.unwrap().sequence, 1);
    assert_eq!(store.write(delete()).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert!(stored(&store, 1).unwrap().is_some());
}

#[tokio::test]
async fn a_repeat_gets_its_first_answer_though_what_it_joined_has_expired() {
    let store = store();
    store.write(command(1, create(1))).await.unwrap();
    let join = |audience_id, seconds| {
        let expire_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let membership = AudienceMembership { audience_id, expire_time, ..Default::default() };
        let patch = ProfilePatch { join_audiences: vec![membership], ..ProfilePatch::default() };
        let patch = Box::new(Patch::parse(patch, &Limits::default()).unwrap());
        Change::Update { key: ProfileKey::mpid(1).unwrap(), patch, etag: String::new(), allow_missing: None }
    };
    let first = store.write(with_id(command(1, join(7, 2)), "r")).await.unwrap();
    let repeat = store.write(with_id(command(3 * SECOND, join(7, 2)), "r")).await.unwrap();
    assert_eq!((repeat.sequence, repeat.profile), (first.sequence, first.profile));
    let late = store.write(command(3 * SECOND, join(7, 2))).await;
    assert!(matches!(late, Err(StoreError::Invalid(Invalid::Field { .. }))));

    // It has expired: a write that changes nothing does not show it, and who joins again enters again.
    let leave = ProfilePatch { leave_audiences: vec![99], ..ProfilePatch::default() };
    let patch = Box::new(Patch::parse(leave, &Limits::default()).unwrap());
    let key = ProfileKey::mpid(1).unwrap();
    let nothing = Change::Update { key, patch, etag: String::new(), allow_missing: None };
    let answer = store.write(command(3 * SECOND, nothing)).await.unwrap();
    assert_eq!(answer.outcome, WriteOutcome::Unchanged);
    assert!(Profile::decode(answer.profile.unwrap()).unwrap().audience_memberships.is_empty());
    let again = store.write(command(3 * SECOND, join(7, 9))).await.unwrap();
    let id = store.workspace_id(&workspace()).unwrap();
    let event = store.snapshot().unwrap().event(id, again.sequence, |event| Event::decode(event.event).unwrap());
    assert_eq!(event.unwrap().entered_audience_ids, [7]);
}

#[tokio::test]
async fn a_log_that_has_lost_its_beginning_says_so() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, create(1))).await.unwrap();
    for _ in 0..4 {
        store.write(command(1, increment(1))).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        let mut events = transaction.open_table(EVENTS).unwrap();
        events.remove((1, 1)).unwrap();
        events.remove((1, 2)).unwrap();
    });

    let store = store_on(&disk, |_, _| {});
    let (snapshot, id) = (store.snapshot().unwrap(), store.workspace_id(&workspace()).unwrap());
    let mut sequences = Vec::new();
    let mut read = |after| {
        snapshot.events(id, after, 5, &Filter::default(), |event| {
            sequences.push(event.sequence);
            true
        })
    };
    assert!(matches!(read(1), Err(StoreError::Expired { oldest: 3, head: 5, .. })));
    assert_eq!(read(2).unwrap(), EventPage { through: 5, complete: true });
    assert_eq!(sequences, [3, 4, 5]);
    assert!(snapshot.log_bounds(id).unwrap().check_held(1).is_err());
    assert_eq!(snapshot.history(id, Mpid::new(1).unwrap(), 2, 5).unwrap(), Some(vec![3, 4, 5]));
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_and_in_commands() {
    for (queue_bytes, queue_commands, request_bytes) in [(10_000, 1_000, 10_000), (1 << 20, 2, 100)] {
        let config = StoreConfig { data_dir: ".".into(), queue_bytes, queue_commands, ..StoreConfig::default() };
        let database = Database::builder().create_with_backend(Disk::default()).unwrap();
        let store = Store::start(database, &config, Limits::default(), |_, _| {}).unwrap();
        // Polled once each, in this one thread: the writer may take some, but not all of so many.
        let large = |mpid| store.write(Command { request_bytes, ..command(1, create(mpid)) });
        let answers = futures_util::future::join_all((1..=200).map(large)).await;
        let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Overloaded))).count();
        let written = answers.iter().flatten().count();
        assert!(refused > 0 && written > 0, "{refused} refused, {written} written");
        assert_eq!(written + refused, 200);
        assert_eq!((1..=200).filter(|mpid| stored(&store, *mpid).unwrap().is_some()).count(), written);
    }
}

#[tokio::test]
async fn a_failing_disk_ends_the_store_and_the_caller_is_told() {
    #[derive(Debug)]
    struct Failing(Disk, Arc<Mutex<bool>>);
    impl StorageBackend for Failing {
        fn len(&self) -> Result<u64, io::Error> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> Result<(), io::Error> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> Result<(), io::Error> {
            if *self.1.lock().unwrap() { Err(io::Error::other("no")) } else { self.0.sync_data() }
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            self.0.write(offset, data)
        }
    }
    let (disk, failing) = (Disk::default(), Arc::new(Mutex::new(false)));
    let backend = Failing(disk.clone(), Arc::clone(&failing));
    let database = Database::builder().create_with_backend(backend).unwrap();
    let config = StoreConfig { data_dir: ".".into(), ..StoreConfig::default() };
    let store = Store::start(database, &config, Limits::default(), |_, _| {}).unwrap();
    store.write(command(1, create(1))).await.unwrap();

    *failing.lock().unwrap() = true;
    assert!(matches!(store.write(command(1, create(2))).await, Err(StoreError::Failed)));
    assert!(store.failed().is_cancelled());
    assert!(matches!(store.write(command(1, create(3))).await, Err(StoreError::Failed)));

    let survivor = store_on(&disk.after_power_loss(), |_, _| {});
    assert_eq!(stored(&survivor, 1).unwrap().unwrap().mpid, 1);
    assert_eq!(stored(&survivor, 3).unwrap(), None);
}
