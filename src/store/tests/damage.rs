//! Damaged rows and keys, pages that cannot be read, and disks that fail.
//!
//! Damage affects only the calls that need the damaged rows. No call returns wrong data, or takes a row for absent that
//! damage hides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use prost::Message;
use redb::{Database, ReadableTable, StorageBackend, WriteTransaction};

use super::disk::{Disk, Fault};
use super::harness::*;
use super::lists::each_unreadable_page;
use super::lists::list;
use crate::command::Delete;
use crate::config::StoreConfig;
use crate::model::cursor::Start;
use crate::model::identity::ParsedIdentity;
use crate::model::page_token::PageStart;
use crate::model::{Filter, Limits, Mpid, Place, ProfileKey};
use crate::proto::v1::{Profile, ProfilePatch};
use crate::store::backend::Backend;
use crate::store::rows::{Head, HeadRow, OwnerKey, OwnerRow};
use crate::store::tables::{EVENTS, HEADS, IDENTITIES, PROFILES};
use crate::store::{EventPage, PAGE, PageSize, Past, ReadClass, ScrubReport, Store, StoreError, WorkspaceId};

/// The number of the only workspace.
pub(super) const ID: WorkspaceId = WorkspaceId(1);
/// Bytes of the key of a profile's row: the workspace and the mpid.
const PROFILE_KEY: usize = 4 + 8;
/// Bytes of the key of an identity's row: the workspace and the hash.
const IDENTITY_KEY: usize = 4 + 16;
/// The first byte of a page of redb.
pub(super) const LEAF: u8 = 1;
const BRANCH: u8 = 2;

fn mpid(number: i64) -> Mpid {
    Mpid::new(number).unwrap()
}

/// A closed store with profiles from 1 to `profiles`, each with the email `{mpid}@x`. The first was updated `updates`
/// times.
pub(super) async fn disk_with(profiles: i64, updates: usize) -> Disk {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=profiles {
        store.write(command(1, create_with(mpid, with_emails([&*format!("{mpid}@x")])))).await.unwrap();
    }
    for _ in 0..updates {
        store.write(command(1, increment(1))).await.unwrap();
    }
    store.close().await;
    disk
}

fn owner_key(email_value: &str) -> OwnerKey {
    let parsed = ParsedIdentity::parse("identity", email(email_value), &Limits::default()).unwrap();
    OwnerRow::key(ID, ORIGIN.secret.hash(ID, &parsed.key))
}

pub(super) fn turn_bit_of_profile(transaction: &WriteTransaction, mpid: i64) {
    let mut profiles = transaction.open_table(PROFILES).unwrap();
    let mut row = profiles.get((1, mpid)).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    profiles.insert((1, mpid), &*row).unwrap();
}

pub(super) fn turn_bit_of_event(transaction: &WriteTransaction, sequence: u64) {
    let mut events = transaction.open_table(EVENTS).unwrap();
    let mut row = events.get((1, sequence)).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    events.insert((1, sequence), &*row).unwrap();
}

fn turn_bit_of_owner(transaction: &WriteTransaction, email_value: &str) {
    let mut identities = transaction.open_table(IDENTITIES).unwrap();
    let key = owner_key(email_value);
    let mut row = *identities.get(&key).unwrap().unwrap().value();
    row[OwnerRow::LENGTH - 1] ^= 1;
    identities.insert(&key, &row).unwrap();
}

fn is_corrupt<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Corrupt { .. }))
}

fn find(store: &Store, email_value: &str) -> Result<i64, StoreError> {
    let key = ProfileKey::Identity(ParsedIdentity::parse("identity", email(email_value), &Limits::default()).unwrap());
    store.find(&workspace(), &key, |found| Profile::decode(found.profile).unwrap().mpid)
}

#[tokio::test]
async fn a_damaged_row_is_refused_and_the_rest_is_served() {
    let disk = disk_with(3, 0).await;
    tamper(&disk, |transaction| turn_bit_of_profile(transaction, 2));
    let store = store_on(&disk, |_, _| {});
    assert!(is_corrupt(&stored(&store, 2)));
    assert!(is_corrupt(&store.write(command(2, increment(2))).await));
    assert!(is_corrupt(&store.write(command(2, create(2))).await));
    assert_eq!(stored(&store, 3).unwrap().unwrap().mpid, 3);
    assert_eq!(number(&store.write(command(2, increment(3))).await.unwrap()), 4);
}

#[tokio::test]
async fn a_damaged_identity_does_not_lead_to_another_person() {
    let disk = disk_with(3, 0).await;
    tamper(&disk, |transaction| turn_bit_of_owner(transaction, "2@x"));
    let store = store_on(&disk, |_, _| {});
    assert!(is_corrupt(&find(&store, "2@x")));
    assert_eq!(find(&store, "3@x").unwrap(), 3);
}

/// The index and the profile lie on different pages, and one page may be an older version.
#[tokio::test]
async fn an_identity_that_the_profile_does_not_have_is_damage() {
    let disk = disk_with(2, 0).await;
    tamper(&disk, |transaction| {
        let (key, other) = (owner_key("1@x"), Mpid::new(2).unwrap());
        transaction.open_table(IDENTITIES).unwrap().insert(&key, &OwnerRow::encode(&key, other)).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    assert!(is_corrupt(&find(&store, "1@x")));
    assert_eq!(find(&store, "2@x").unwrap(), 2);
}

/// Once, half of such a command was committed, and two events got the same number.
#[tokio::test]
async fn a_command_that_meets_a_damaged_identity_changes_nothing() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, create_with(ADA, with_emails(["a@x", "b@x", "c@x"])))).await.unwrap();
    store.write(command(1, create_with(GRACE, with_emails(["d@x"])))).await.unwrap();
    store.close().await;
    tamper(&disk, |transaction| turn_bit_of_owner(transaction, "b@x"));
    let store = store_on(&disk, |_, _| {});
    let before = stored(&store, ADA).unwrap();

    let unlink = ProfilePatch {
        remove_identities: vec![email("a@x"), email("b@x")],
        add_identities: vec![email("new@x")],
        ..ProfilePatch::default()
    };
    let take =
        ProfilePatch { add_identities: vec![email("d@x"), email("b@x")], take_identities: true, ..Default::default() };
    let commands = [
        command(2, update(ADA, unlink)),
        command(2, delete(ADA)),
        command(2, update(GRACE, take)),
        command(2, increment(GRACE)),
        command(2, Delete { allow_missing: true, ..delete(ADA) }),
        command(2, increment(GRACE)),
    ];
    let answers = join_all(commands.into_iter().map(|command| store.write(command))).await;

    let numbers: Vec<_> = answers.iter().map(|answer| answer.as_ref().ok().map(number)).collect();
    assert_eq!(numbers, [None, None, None, Some(3), None, Some(4)]);
    assert!(answers.iter().filter(|answer| answer.is_err()).all(is_corrupt));
    assert_eq!(stored(&store, ADA).unwrap(), before);
    assert_eq!([find(&store, "a@x").unwrap(), find(&store, "d@x").unwrap()], [ADA, GRACE]);
    assert!(matches!(find(&store, "new@x"), Err(StoreError::ProfileNotFound { .. })));
    assert_eq!(events(&store).iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

/// A copy of the disk with one bit of these bytes flipped, wherever they occur in the file.
fn with_rotten(disk: &Disk, bytes: &[u8], bit: usize) -> Disk {
    let whole = bytes_of(disk);
    let copy = disk_of(&whole);
    let places: Vec<_> = (0..whole.len() - bytes.len()).filter(|at| whole[*at..].starts_with(bytes)).collect();
    assert!(!places.is_empty());
    for at in places {
        let at = at + bit / 8;
        copy.write(at as u64, &[whole[at] ^ (1 << (bit % 8))]).unwrap();
    }
    copy
}

/// A damaged key hides its row, but stays where it was: beside the place where the row is looked for.
#[tokio::test]
async fn no_second_profile_is_created_where_a_key_is_damaged() {
    let disk = disk_with(5, 0).await;
    let keys: Vec<u8> = (1..=5_i64).flat_map(|mpid| [&1_u32.to_le_bytes()[..], &mpid.to_le_bytes()].concat()).collect();
    let third = 2 * PROFILE_KEY * 8; // The keys of a leaf lie side by side.
    for bit in third..third + PROFILE_KEY * 8 {
        let store = store_on(&with_rotten(&disk, &keys, bit), |_, _| {});
        assert!(is_corrupt(&stored(&store, 3)), "bit {bit}");
        assert!(is_corrupt(&store.write(command(2, create(3))).await), "bit {bit}");
    }
}

#[tokio::test]
async fn no_second_owner_is_created_where_the_key_of_an_identity_is_damaged() {
    let disk = disk_with(5, 0).await;
    let mut owners: Vec<_> = (1..=5).map(|mpid| (owner_key(&format!("{mpid}@x")), format!("{mpid}@x"))).collect();
    owners.sort();
    let keys: Vec<u8> = owners.iter().flat_map(|(key, _)| *key).collect();
    let (third, address) = (2 * IDENTITY_KEY * 8, &*owners[2].1);
    for bit in third..third + IDENTITY_KEY * 8 {
        let store = store_on(&with_rotten(&disk, &keys, bit), |_, _| {});
        assert!(is_corrupt(&find(&store, address)), "bit {bit}");
        let second = store.write(command(2, create_with(9, with_emails([address])))).await;
        assert!(is_corrupt(&second), "bit {bit}: {second:?}");
    }
}

#[tokio::test]
async fn a_list_delivers_what_precedes_the_damage_and_says_where_to_continue() {
    let disk = disk_with(9, 0).await;
    tamper(&disk, |transaction| [4, 5].iter().for_each(|mpid| turn_bit_of_profile(transaction, *mpid)));
    let store = store_on(&disk, |_, _| {});
    let page = |after: Option<i64>, over_damage| {
        let mut seen = Vec::new();
        let start = PageStart { after: after.map(mpid), over_damage };
        let next = store.list_profiles(&workspace(), start, EVERYTHING, |profile| {
            seen.push(Profile::decode(profile).unwrap().mpid);
            Ok(1)
        });
        (seen, next.map(|next| next.map(Mpid::get)))
    };
    let (seen, next) = page(None, false);
    assert_eq!((seen, next.unwrap()), (vec![1, 2, 3], Some(3)));
    let (seen, damaged) = page(Some(3), false);
    assert!(seen.is_empty());
    assert!(matches!(damaged, Err(StoreError::Corrupt { past: Some(Past::Profile), .. })));
    let (seen, next) = page(Some(3), true);
    assert_eq!((seen, next.unwrap()), (vec![6, 7, 8, 9], None));

    store.close().await;
    tamper(&disk, |transaction| (6..=9).for_each(|mpid| turn_bit_of_profile(transaction, mpid)));
    let store = store_on(&disk, |_, _| {});
    let over = PageStart { after: Some(mpid(3)), over_damage: true };
    let nothing = store.list_profiles(&workspace(), over, EVERYTHING, |_| panic!("nothing follows"));
    assert_eq!(nothing.unwrap(), None);
}

/// Lists all profiles in pages of `items`, and continues behind damage. Returns the profiles, and how often the list
/// met damage.
fn list_over_damage(store: &Store, items: usize) -> (Vec<i64>, usize) {
    let (mut listed, mut start, mut breaks) = (Vec::new(), PageStart::default(), 0);
    loop {
        let next = store.list_profiles(&workspace(), start, PageSize { items, bytes: usize::MAX }, |profile| {
            listed.push(Profile::decode(profile).unwrap().mpid);
            Ok(1)
        });
        start = match next {
            Ok(Some(last)) => PageStart::after(last),
            Ok(None) => return (listed, breaks),
            Err(_) => PageStart { over_damage: true, ..start },
        };
        breaks += usize::from(start.over_damage);
        assert!(breaks < 10, "the list goes round in a circle");
    }
}

/// A damaged key in a page above the rows leads a page of the list to rows behind, or before, its first.
#[tokio::test]
async fn a_list_that_is_led_astray_leaves_nothing_out_silently() {
    const BRANCH_HEADER: usize = 8;
    const CHILD: usize = 16 + 8;
    let disk = disk_with(400, 0).await;
    let whole = bytes_of(&disk);
    let mut led_astray = 0;
    for page in (1..whole.len() / PAGE).filter(|page| whole[page * PAGE] == BRANCH) {
        let branch = &whole[page * PAGE..(page + 1) * PAGE];
        let keys = usize::from(u16::from_le_bytes([branch[2], branch[3]]));
        let first = BRANCH_HEADER + CHILD * (keys + 1);
        for (key, bit) in (0..keys.min(8)).flat_map(|key| [0, 2, 4, 5, 6, 7, 8].map(|bit| (key, bit))) {
            let at = page * PAGE + first + PROFILE_KEY * key + 4 + bit / 8; // The low bytes of an mpid.
            let copy = disk_of(&whole);
            copy.write(at as u64, &[whole[at] ^ (1 << (bit % 8))]).unwrap();
            let Some(store) = store_if_sound(&copy) else { continue };
            let (listed, breaks) = list_over_damage(&store, 7);
            let told = breaks > 0;
            let whole = listed.iter().copied().eq(1..=400);
            assert!(whole || told, "page {page}, key {key}, bit {bit}: {listed:?}");
            led_astray += usize::from(told);
        }
    }
    assert!(led_astray > 0);
}

#[tokio::test]
async fn a_list_continues_behind_a_page_that_cannot_be_read() {
    each_unreadable_page(|store| list_over_damage(store, usize::MAX).0).await;
}

pub(super) fn page_of_events(store: &Store, after: u64, filter: &Filter) -> (Vec<u64>, Result<EventPage, StoreError>) {
    let mut seen = Vec::new();
    let start = if after == 0 {
        Start::Earliest
    } else {
        Start::After(store.cursors(&workspace()).at(Place::after(after)).to_string())
    };
    let page = list(store, &start, filter, EVERYTHING, |event| seen.push(event));
    (seen, page)
}

#[tokio::test]
async fn a_log_delivers_what_precedes_the_damage_and_says_where_to_continue() {
    let disk = disk_with(1, 19).await; // 20 events, all of one profile.
    tamper(&disk, |transaction| [1, 8, 9, 10, 20].iter().for_each(|event| turn_bit_of_event(transaction, *event)));
    let store = store_on(&disk, |_, _| {});
    let of_one = crate::proto::v1::EventFilter { mpids: vec![1], ..Default::default() };
    for filter in [Filter::default(), Filter::parse(Some(of_one), None).unwrap()] {
        let past = |after| match page_of_events(&store, after, &filter) {
            (seen, Err(StoreError::Corrupt { past: Some(Past::Position(past)), .. })) if seen.is_empty() => {
                past.place().get()
            }
            other => panic!("after {after}: {other:?}"),
        };
        assert_eq!(past(0), 1, "the oldest");
        let (seen, page) = page_of_events(&store, 1, &filter);
        assert_eq!(seen, [2, 3, 4, 5, 6, 7]);
        assert_eq!(page.unwrap(), EventPage { through: Place::after(7), complete: false });
        assert_eq!(past(7), 10);
        let (seen, page) = page_of_events(&store, 10, &filter);
        assert_eq!(seen, (11..=19).collect::<Vec<_>>());
        assert!(!page.unwrap().complete);
        assert_eq!(past(19), 20, "the latest");
        assert!(page_of_events(&store, 20, &filter).1.unwrap().complete);
    }
    assert_eq!(number(&store.write(command(2, increment(1))).await.unwrap()), 21);
}

/// The head is kept apart from the log, so a log that has lost its last events is not mistaken for a shorter one.
#[tokio::test]
async fn a_log_that_has_lost_its_end_or_its_middle_says_so() {
    let disk = disk_with(1, 9).await;
    tamper(&disk, |transaction| {
        let mut events = transaction.open_table(EVENTS).unwrap();
        for event in [3, 9, 10] {
            events.remove((1, event)).unwrap().unwrap();
        }
    });
    let store = store_on(&disk, |_, _| {});
    let all = Filter::default();
    let (seen, page) = page_of_events(&store, 0, &all);
    assert_eq!((seen, page.unwrap().complete), (vec![1, 2], false));
    assert!(is_corrupt(&page_of_events(&store, 2, &all).1));
    let (seen, page) = page_of_events(&store, 3, &all);
    assert_eq!((seen, page.unwrap().complete), ((4..=8).collect(), false));
    assert!(is_corrupt(&page_of_events(&store, 8, &all).1));
    assert_eq!(number(&store.write(command(2, increment(1))).await.unwrap()), 11, "no number is given twice");
}

#[tokio::test]
async fn a_trimmed_log_refuses_places_before_its_floor() {
    let disk = disk_with(1, 9).await;
    tamper(&disk, |transaction| {
        let mut events = transaction.open_table(EVENTS).unwrap();
        for event in 1..=4 {
            events.remove((1, event)).unwrap().unwrap();
        }
        let head = Head { floor: Place::after(4), place: Place::after(10), ..Head::default() };
        transaction.open_table(HEADS).unwrap().insert(1, &*HeadRow::encode(&head, ID)).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    let of_one = crate::proto::v1::EventFilter { mpids: vec![1], ..Default::default() };
    for filter in [Filter::default(), Filter::parse(Some(of_one), None).unwrap()] {
        let (seen, page) = page_of_events(&store, 0, &filter);
        assert_eq!((seen, page.unwrap().complete), ((5..=10).collect(), true));
        assert_eq!(page_of_events(&store, 4, &filter).0, (5..=10).collect::<Vec<_>>());
        let expired = page_of_events(&store, 3, &filter).1;
        assert!(matches!(expired, Err(StoreError::Expired { floor, .. }) if floor == Place::after(4)), "{expired:?}");
    }
    store.write(command(2, increment(1))).await.unwrap();
    let expired = page_of_events(&store, 3, &Filter::default()).1;
    assert!(matches!(expired, Err(StoreError::Expired { .. })), "also after the log has grown: {expired:?}");
}

/// Ada has 3,001 events, and one more while they are read. All pages together deliver each event once.
#[tokio::test]
async fn a_long_history_is_read_in_pages_while_it_grows() {
    const ITEMS: usize = 50;
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, create(ADA))).await.unwrap();
    for _ in 0..30 {
        join_all((0..100).map(|_| store.write(command(1, increment(ADA))))).await;
    }
    let of_ada = crate::proto::v1::EventFilter { mpids: vec![ADA], ..Default::default() };
    let filter = Filter::parse(Some(of_ada), None).unwrap();
    let (cursors, mut start, mut seen) = (store.cursors(&workspace()), Start::Earliest, Vec::new());
    let size = PageSize { items: ITEMS, bytes: usize::MAX };
    loop {
        let mut took = 0;
        let page = list(&store, &start, &filter, size, |event| {
            seen.push(event);
            took += 1;
        });
        let page = page.unwrap();
        assert!(took <= ITEMS);
        if page.complete {
            break;
        }
        if seen.len() == ITEMS {
            store.write(command(2, increment(ADA))).await.unwrap(); // The chain grows meanwhile.
        }
        start = Start::After(cursors.at(page.through).to_string());
    }
    assert_eq!(seen, (1..=3_002).collect::<Vec<_>>());
}

/// redb alone would refuse all reads until the file is opened again. Here only the calls that need the page fail, and
/// once the disk works again, so does every call.
#[tokio::test]
async fn a_failed_read_of_the_disk_fails_that_call_alone() {
    for cache_bytes in [0, 64 << 10] {
        let disk = disk_with(300, 0).await;
        let backend = Backend::new(disk.clone());
        let database = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend).unwrap();
        let store = start(database, &config(), |_, _| {}).unwrap();
        let refused = || {
            let by_mpid = (1..=300).filter(|mpid| is_corrupt(&stored(&store, *mpid))).count();
            let by_email = (1..=300).filter(|mpid| is_corrupt(&find(&store, &format!("{mpid}@x")))).count();
            by_mpid + by_email
        };
        disk.refuse(Fault::Reads);
        assert!(refused() > 300, "{} of 600 with a cache of {cache_bytes} bytes", refused());
        disk.refuse(None);
        assert_eq!(refused(), 0, "no failed read was cached");
        assert!(!store.failed().is_cancelled());
        assert_eq!(number(&store.write(command(2, increment(1))).await.unwrap()), 301);
    }
}

#[tokio::test]
async fn a_failed_write_or_sync_ends_the_store_and_the_caller_learns_it() {
    for fault in [Fault::Writes, Fault::Syncs] {
        let disk = Disk::default();
        let store = store_on(&disk, |_, _| {});
        store.write(command(1, create(ADA))).await.unwrap();

        disk.refuse(fault);
        assert!(matches!(store.write(command(1, create(GRACE))).await, Err(StoreError::Failed)), "{fault:?}");
        assert!(store.failed().is_cancelled());
        disk.refuse(None);
        let later = store.write(command(1, create(ALAN))).await;
        assert!(matches!(later, Err(StoreError::Failed)), "{fault:?}: what the disk has lost is unknown");

        let survivor = store_on(&disk.after_power_loss(), |_, _| {});
        assert_eq!(stored(&survivor, ADA).unwrap().unwrap().mpid, ADA);
        assert_eq!(stored(&survivor, ALAN).unwrap(), None);
    }
}

#[tokio::test]
async fn a_panic_in_a_read_is_an_internal_error_and_does_not_stop_the_store() {
    let store = Arc::new(store());
    let panicked: Result<(), StoreError> = store.on_read_pool(ReadClass::Scan, None, |_| panic!("a bug")).await;
    assert!(matches!(panicked, Err(StoreError::Panicked)));
    assert!(store.write(command(1, create(ADA))).await.is_ok());
    let damaged: Result<(), _> = crate::store::tables::guarded(crate::store::rows::Kind::Event, || panic!("redb"));
    assert!(is_corrupt(&damaged));
}

#[tokio::test]
async fn the_scrubber_finds_damage_that_no_call_meets() {
    let disk = disk_with(600, 0).await; // More rows than a step reads.
    tamper(&disk, |transaction| {
        turn_bit_of_profile(transaction, 300);
        turn_bit_of_owner(transaction, "7@x");
        turn_bit_of_event(transaction, 600);
    });
    let config = StoreConfig { scrub_rate: 1_000_000, ..config() };
    let store = start(database(&disk), &config, |_, _| {}).unwrap();
    let report = first_report_after(&store, 2);
    assert_eq!(report.damaged, 3);
    // In each pass: 600 profiles, identities and events, one workspace and its head.
    assert!(report.rows >= 2 * 1_802, "{report:?}");
    store.close().await;
    assert_eq!(store.scrub_report(), ScrubReport::default(), "the scrubber has ended");
}

fn first_report_after(store: &Store, passes: u64) -> ScrubReport {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let report = store.scrub_report();
        if report.passes >= passes {
            return report;
        }
        assert!(Instant::now() < patience, "{report:?}");
        std::thread::yield_now();
    }
}
