//! What a check finds: nothing in a sound store, and each inconsistency that is planted, by its name and nothing else.

use std::collections::BTreeMap;
use std::fs;

use prost::Message;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use tempfile::TempDir;

use super::audiences::{add, register};
use super::damage::{ID, turn_bit_of_profile};
use super::disk::Disk;
use super::harness::*;
use super::script::Script;
use super::subscriptions::{at, name, open, skip, subscribe};
use crate::command::{Begin, Change, EraseEvents, Merge, Removal, Rewrite};
use crate::model::{AudienceId, IdentityKey, LogId, Micros, Mpid, Place, ProfileKey, Sequence};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::{Audience, Event};
use crate::store::check::check_database;
use crate::store::rows::{
    AbsorbedRow, AudienceRow, EventRow, ExpiryRow, FormerLogs, Head, HeadRow, Held, MemberRow, MergeRow, OwnerRow,
    ProfileRow, ProgressRow, RememberedRow, RequestRow, SettingsRow, SkippedRow, absorbed_key, audience_key,
    expiry_key, member_key, merge_key, remembered_key, request_key, skipped_key, subscription_key,
};
use crate::store::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, MEMBERS, MERGES, PROFILES, PROGRESS, REMEMBERED,
    REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS,
};
use crate::store::{CheckError, CheckReport, WorkspaceId, check, check_backup};

/// A profile without identities and memberships.
const EDSGER: i64 = 4;
/// The audience that ADA and GRACE are in until [`END`].
const AUDIENCE: i64 = 7;
const END: Micros = Micros::new(100 * SECOND);
/// The latest event.
const HEAD: u64 = 9;

/// What was found, with how often.
type Findings = BTreeMap<String, u64>;

fn report_with(disk: &Disk, former: &FormerLogs) -> CheckReport {
    check_database(&database(disk), ORIGIN.secret, former, |_| {}).unwrap()
}

fn findings(report: CheckReport) -> Findings {
    report.findings.into_iter().map(|finding| (finding.what, finding.count)).collect()
}

/// A closed store agrees with itself.
pub fn assert_checked(disk: &Disk) {
    assert_eq!(findings(report_with(disk, &FormerLogs::default())), Findings::new());
}

fn mpid(number: i64) -> Mpid {
    Mpid::new(number).unwrap()
}

/// A store with a row in nearly every table, whose log has [`HEAD`] events.
async fn disk() -> Disk {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let merge = |into, from| {
        let (into, from) = (ProfileKey::Mpid(mpid(into)), ProfileKey::Mpid(mpid(from)));
        Change::Merge(Merge { into, from, prefer_newer: true, into_etag: None, from_etag: None })
    };
    let changes: [Change; 12] = [
        create_with(ADA, with_emails(["ada@x"])).into(),
        create_with(GRACE, with_emails(["grace@x"])).into(),
        create_with(ALAN, with_emails(["alan@x"])).into(),
        create(EDSGER).into(),
        register(AUDIENCE, "crm"),
        add(AUDIENCE, [ADA, GRACE], Some(END.get())),
        merge(GRACE, ALAN),
        increment(EDSGER).into(),
        subscribe("sub", Begin::Earliest).into(),
        open("sub"),
        skip("sub", 1, at(5), [2, 3]).into(),
        subscribe("other", Begin::Earliest).into(),
    ];
    for (second, change) in (1..).zip(changes) {
        store.write(command(second * SECOND, change)).await.unwrap();
    }
    store.write(with_id(command(20 * SECOND, increment(ADA)), "r1")).await.unwrap();
    assert_eq!(head(&store).get(), HEAD);
    store.close().await;
    disk
}

/// What a check finds after a change of the file.
async fn found_after(change: impl FnOnce(&WriteTransaction)) -> Findings {
    let disk = disk().await;
    tamper(&disk, change);
    findings(report_with(&disk, &FormerLogs::default()))
}

/// These are found, and no other, once each.
macro_rules! finds {
    ($($name:ident: $change:expr => $($what:literal)+;)*) => { $(
        #[tokio::test]
        async fn $name() {
            let expected = [$($what),+].map(|what: &str| (what.to_owned(), 1));
            assert_eq!(found_after($change).await, Findings::from(expected));
        }
    )* };
}

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn put(transaction: &WriteTransaction, table: Table, key: &[u8], row: &[u8]) {
    transaction.open_table(table).unwrap().insert(key, row).unwrap();
}

fn remove(transaction: &WriteTransaction, table: Table, key: &[u8]) {
    assert!(transaction.open_table(table).unwrap().remove(key).unwrap().is_some());
}

fn row(transaction: &WriteTransaction, table: Table, key: &[u8]) -> Vec<u8> {
    transaction.open_table(table).unwrap().get(key).unwrap().unwrap().value().to_vec()
}

/// Removes the first row of a table.
fn remove_first(transaction: &WriteTransaction, table: Table) {
    assert!(transaction.open_table(table).unwrap().pop_first().unwrap().is_some());
}

fn set_profile(transaction: &WriteTransaction, number: i64, change: impl FnOnce(&mut ProfileRow<'_>)) {
    let mut profiles = transaction.open_table(PROFILES).unwrap();
    let stored = profiles.get((ID.0, number)).unwrap().unwrap().value().to_vec();
    let mut row = ProfileRow::read(ID, mpid(number), &stored).unwrap();
    change(&mut row);
    profiles.insert((ID.0, number), &*row.encode(ID, mpid(number))).unwrap();
}

fn set_event(transaction: &WriteTransaction, number: u64, change: impl FnOnce(&mut EventRow<'_>)) {
    let mut events = transaction.open_table(EVENTS).unwrap();
    let stored = events.get((ID.0, number)).unwrap().unwrap().value().to_vec();
    let mut row = EventRow::read(ID, sequence(number), &stored).unwrap();
    change(&mut row);
    events.insert((ID.0, number), &*row.encode(ID, sequence(number))).unwrap();
}

fn set_head(transaction: &WriteTransaction, change: impl FnOnce(&mut Head)) {
    let mut heads = transaction.open_table(HEADS).unwrap();
    let mut head = HeadRow::read(ID, heads.get(ID.0).unwrap().unwrap().value()).unwrap();
    change(&mut head);
    heads.insert(ID.0, &*HeadRow::encode(&head, ID)).unwrap();
}

fn set_progress(transaction: &WriteTransaction, change: impl FnOnce(&mut ProgressRow)) {
    let key = subscription_key(ID, &name("sub"));
    let mut progress = ProgressRow::read(&key, &row(transaction, PROGRESS, &key)).unwrap();
    change(&mut progress);
    put(transaction, PROGRESS, &key, &progress.encode(&key));
}

fn owner_key(email_value: &str) -> crate::store::rows::OwnerKey {
    OwnerRow::key(ID, ORIGIN.secret.hash(ID, &IdentityKey::of(&email(email_value))))
}

/// The key of an identity that the merge of ALAN remembers.
fn remembered(email_value: &str) -> Vec<u8> {
    remembered_key(ID, ORIGIN.secret.hash(ID, &IdentityKey::of(&email(email_value))), mpid(ALAN))
}

fn set_owner(transaction: &WriteTransaction, email_value: &str, owner: i64) {
    let key = owner_key(email_value);
    transaction.open_table(IDENTITIES).unwrap().insert(&key, &OwnerRow::encode(&key, mpid(owner))).unwrap();
}

fn audience(number: i64) -> AudienceId {
    AudienceId::new(number).unwrap()
}

fn put_member(transaction: &WriteTransaction, of: i64, number: i64, end: Option<Micros>) {
    let key = member_key(ID, audience(of), mpid(number));
    put(transaction, MEMBERS, &key, &MemberRow::encode(&key, end));
}

fn put_audience(transaction: &WriteTransaction, of: i64, row: &AudienceRow) {
    let key = audience_key(ID, audience(of));
    put(transaction, AUDIENCES, &key, &row.encode(&key));
}

fn add_to_count(transaction: &WriteTransaction, members: u64) {
    let key = audience_key(ID, audience(AUDIENCE));
    let row = AudienceRow::read(&key, &row(transaction, AUDIENCES, &key)).unwrap();
    put_audience(transaction, AUDIENCE, &AudienceRow { members: row.members + members, ..row });
}

/// A whole event of EDSGER.
fn put_event(transaction: &WriteTransaction, number: u64) {
    let event = Event { sequence: number, mpid: EDSGER, ..Event::default() }.encode_to_vec();
    let mut events = transaction.open_table(EVENTS).unwrap();
    let stored = events.get((ID.0, 4)).unwrap().unwrap().value().to_vec();
    let row = EventRow { previous: None, event: &event, ..EventRow::read(ID, sequence(4), &stored).unwrap() };
    events.insert((ID.0, number), &*row.encode(ID, sequence(number))).unwrap();
}

finds! {
    a_damaged_row: |t| turn_bit_of_profile(t, EDSGER) => "rows that do not verify";
    a_row_of_no_workspace: |t| {
        let key = audience_key(WorkspaceId(9), audience(1));
        let row = AudienceRow { members: 0, registered: Some(Audience::default()), ..AudienceRow::default() };
        put(t, AUDIENCES, &key, &row.encode(&key));
    } => "rows of a workspace that does not exist";
    a_profile_of_another_mpid: |t| set_profile(t, EDSGER, |row| row.held = Held::Profile(&[])) =>
        "profiles that cannot be decoded, or have another mpid than their rows";
    a_profile_with_another_next_end: |t| set_profile(t, EDSGER, |row| row.next_expiry = Some(END)) =>
        "profiles whose row has another next end of a membership than the profile";

    a_missing_identity: |t| {
        t.open_table(IDENTITIES).unwrap().remove(&owner_key("ada@x")).unwrap().unwrap();
    } => "identities of profiles that are missing from the index, or lead to another profile there";
    a_stray_identity: |t| set_owner(t, "nobody@x", EDSGER) =>
        "identities in the index that lead to a profile without them";
    an_identity_of_another_profile: |t| set_owner(t, "ada@x", EDSGER) =>
        "identities of profiles that are missing from the index, or lead to another profile there"
        "identities in the index that lead to a profile without them";

    a_missing_member: |t| remove(t, MEMBERS, &member_key(ID, audience(AUDIENCE), mpid(ADA))) =>
        "memberships that are missing from the index of members, or end at another time there"
        "audiences with another number of members than their rows say";
    a_member_until_another_time: |t| put_member(t, AUDIENCE, ADA, None) =>
        "memberships that are missing from the index of members, or end at another time there";
    a_stray_member: |t| { put_member(t, AUDIENCE, EDSGER, None); add_to_count(t, 1) } =>
        "members in the index whose profiles are not in the audience";
    a_member_of_no_audience: |t| put_member(t, 8, EDSGER, None) =>
        "members in the index whose profiles are not in the audience"
        "members of audiences without a row";
    a_wrong_count_of_members: |t| add_to_count(t, 1) => "audiences with another number of members than their rows say";
    an_audience_for_nothing: |t| put_audience(t, 8, &AudienceRow::default()) =>
        "rows of audiences that are neither registered nor have members";
    a_missing_end: |t| remove(t, EXPIRIES, &expiry_key(ID, END, mpid(ADA))) =>
        "ends of memberships that are missing from their index";
    a_stray_end: |t| {
        let key = expiry_key(ID, END, mpid(EDSGER));
        put(t, EXPIRIES, &key, &ExpiryRow::encode(&key));
    } => "ends of memberships in the index that no profile has next";

    a_redirect_to_nothing: |t| set_profile(t, ALAN, |row| row.held = Held::Redirect(mpid(99))) =>
        "absorbed profiles that lead to no profile"
        "absorbed profiles that are missing from the list of their survivor"
        "profiles in the list of a survivor that do not lead to it";
    a_missing_absorbed: |t| remove(t, ABSORBED, &absorbed_key(ID, mpid(GRACE), mpid(ALAN))) =>
        "absorbed profiles that are missing from the list of their survivor";
    a_stray_absorbed: |t| {
        let key = absorbed_key(ID, mpid(GRACE), mpid(EDSGER));
        put(t, ABSORBED, &key, &AbsorbedRow::encode(&key, mpid(GRACE)));
    } => "profiles in the list of a survivor that do not lead to it";
    a_missing_merge: |t| remove(t, MERGES, &merge_key(ID, mpid(ALAN))) =>
        "absorbed profiles without a record of their merge"
        "identities in the index of merges that the record of the merge does not have";
    a_stray_merge: |t| {
        let key = merge_key(ID, mpid(EDSGER));
        put(t, MERGES, &key, &MergeRow::encode(&key, &MergeRecord::default()));
    } => "records of merges whose profiles were not absorbed";
    an_identity_of_a_merge_that_is_missing: |t| remove(t, REMEMBERED, &remembered("alan@x")) =>
        "identities in records of merges that are missing from their index";
    a_stray_identity_of_a_merge: |t| {
        let key = remembered("nobody@x");
        put(t, REMEMBERED, &key, &RememberedRow::encode(&key));
    } => "identities in the index of merges that the record of the merge does not have";

    a_hole_in_the_log: |t| {
        let removed = t.open_table(EVENTS).unwrap().remove((ID.0, 4)).unwrap().map(|row| row.value().len());
        set_head(t, |head| head.bytes -= removed.unwrap() as u64);
    } => "events that are missing from a log" "chains of events that lead to a missing event";
    an_event_that_is_missing_at_the_end: |t| {
        let removed = t.open_table(EVENTS).unwrap().remove((ID.0, HEAD)).unwrap().map(|row| row.value().len());
        set_head(t, |head| head.bytes -= removed.unwrap() as u64);
    } => "events that are missing from a log" "chains of events that lead to a missing event";
    an_event_that_is_missing_at_the_beginning: |t| set_head(t, |head| head.floor = Place::after(1)) =>
        "events before the beginning or after the end of their log"
        "logs whose size is not that of their events"
        "events that their profile's chain does not reach";
    an_event_after_the_end: |t| put_event(t, HEAD + 1) =>
        "events before the beginning or after the end of their log"
        "events that their profile's chain does not reach";
    an_event_that_is_no_event: |t| set_event(t, 4, |row| row.event = &row.event[..row.event.len() - 1]) =>
        "events that cannot be decoded, or are not those of their rows"
        "logs whose size is not that of their events";
    an_event_of_another_profile: |t| {
        let stored = t.open_table(EVENTS).unwrap().get((ID.0, 4)).unwrap().unwrap().value().to_vec();
        let event = Event::decode(EventRow::read(ID, sequence(4), &stored).unwrap().event).unwrap();
        let event = Event { mpid: GRACE, ..event }.encode_to_vec();
        set_event(t, 4, |row| row.event = event.leak());
    } => "events that cannot be decoded, or are not those of their rows";
    an_event_before_the_one_before: |t| set_event(t, 4, |row| row.time = Micros::new(0)) =>
        "events that are earlier than the event before";
    a_log_of_another_size: |t| set_head(t, |head| head.bytes += 1) => "logs whose size is not that of their events";
    a_log_of_another_time: |t| set_head(t, |head| head.time = END) =>
        "logs whose latest event has another time than the log says";
    a_chain_that_begins_too_early: |t| set_profile(t, EDSGER, |row| row.last_event = sequence(4)) =>
        "events that their profile's chain does not reach";
    a_chain_that_begins_after_the_log: |t| set_profile(t, EDSGER, |row| row.last_event = sequence(HEAD + 1)) =>
        "profiles whose latest event is after the end of the log";
    a_chain_to_another_profile: |t| set_event(t, 8, |row| row.previous = Some(sequence(3))) =>
        "chains of events that lead to an event of another profile, or do not lead back";
    a_head_that_is_missing: |t| { t.open_table(HEADS).unwrap().remove(ID.0).unwrap().unwrap(); } =>
        "workspaces and heads of logs that do not fit together, so that the check is not complete";

    a_subscription_without_progress: |t| remove(t, PROGRESS, &subscription_key(ID, &name("other"))) =>
        "subscriptions without progress";
    progress_without_a_subscription: |t| remove(t, SUBSCRIPTIONS, &subscription_key(ID, &name("other"))) =>
        "progress without a subscription";
    a_subscription_of_another_name: |t| {
        let (key, other) = (subscription_key(ID, &name("other")), subscription_key(ID, &name("sub")));
        let settings = SettingsRow::read(&other, &row(t, SUBSCRIPTIONS, &other)).unwrap();
        put(t, SUBSCRIPTIONS, &key, &SettingsRow::encode(&key, &settings));
    } => "subscriptions with another name than their rows";
    an_acknowledgement_after_the_end: |t| set_progress(t, |row| row.acknowledged = at(HEAD + 1)) =>
        "subscriptions that have acknowledged events after the end of the log";
    a_wrong_count_of_skips: |t| set_progress(t, |row| row.skipped += 1) =>
        "subscriptions with another number of skipped events than their rows say";
    a_skip_after_the_end: |t| {
        let key = skipped_key(&subscription_key(ID, &name("sub")), HEAD + 1);
        let skipped = SkippedRow { time: END, reason: String::new() };
        put(t, SKIPPED, &key, &skipped.encode(&key));
        set_progress(t, |row| row.skipped += 1);
    } => "skipped events after the end of the log";
    a_skip_of_nobody: |t| {
        let key = skipped_key(&subscription_key(ID, &name("nobody")), 1);
        put(t, SKIPPED, &key, &SkippedRow { time: END, reason: String::new() }.encode(&key));
    } => "skipped events without a subscription";

    a_request_without_an_age: |t| remove_first(t, REQUEST_AGES) =>
        "results of requests that are missing from the list by age";
    an_age_without_a_request: |t| remove_first(t, REQUESTS) => "ages of requests without a result";
    a_request_after_the_end: |t| {
        let key = request_key(ID, None, "r1");
        let request = RequestRow::read(&key, &row(t, REQUESTS, &key)).unwrap();
        put(t, REQUESTS, &key, &RequestRow { place: Place::after(HEAD + 1), ..request }.encode(&key));
    } => "results of requests after the end of the log";
}

#[tokio::test]
async fn a_sound_store_has_no_problem_and_its_rows_are_counted() {
    let disk = disk().await;
    let report = report_with(&disk, &FormerLogs::default());
    assert_eq!(report.findings, []);
    let rows: BTreeMap<_, _> = report.rows.into_iter().collect();
    let count = |table| rows[table];
    assert_eq!(["profile", "identity", "event", "merge", "remembered identity"].map(count), [4, 3, HEAD, 1, 1]);
}

/// It has no values to lose, and gains the mark that it lost some.
#[tokio::test]
async fn an_event_that_grows_by_an_erasure_counts_with_its_size() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(SECOND, create(ADA))).await.unwrap();
    let rewrite = Rewrite { sequence: Sequence::new(1).unwrap(), what: Removal::Previous };
    let erase = Change::EraseEvents(EraseEvents { rewrites: vec![rewrite] });
    store.write(command(2 * SECOND, erase)).await.unwrap();
    store.close().await;
    assert_checked(&disk);
}

#[tokio::test]
async fn a_problem_is_named_with_its_first_places_and_no_value() {
    let disk = disk().await;
    tamper(&disk, |t| {
        for number in 100..110 {
            set_owner(t, &format!("{number}@x"), number);
        }
        t.open_table(IDENTITIES).unwrap().remove(&owner_key("grace@x")).unwrap();
    });
    let report = report_with(&disk, &FormerLogs::default());
    let [missing, stray] = &*report.findings else { panic!("{report:?}") };
    let (stray, missing) = if missing.count == 1 { (stray, missing) } else { (missing, stray) };
    assert_eq!((missing.count, &*missing.first), (1, &["a/b/c mpid 2".to_owned()][..]));
    assert_eq!((stray.count, stray.first.len()), (10, 5));
    assert!(!format!("{report:?}").contains("@x"));
}

#[tokio::test]
async fn a_former_log_ends_before_the_log_that_continues_it() {
    let disk = disk().await;
    let found = |end| {
        let mut former = FormerLogs::default();
        former.remember(LogId(1), vec![Place::after(end)]);
        findings(report_with(&disk, &former))
    };
    assert_eq!(found(HEAD), Findings::new());
    let expected = [("former logs that end after the log that continues them".to_owned(), 1)];
    assert_eq!(found(HEAD + 1), Findings::from(expected));
}

/// Whatever was written, in whatever order, with retention at work.
#[tokio::test]
async fn a_check_finds_nothing_in_a_busy_store() {
    for seed in 0..6 {
        let disk = Disk::default();
        let store = store_on(&disk, |_, _| {});
        let mut script = Script::new(seed);
        for _ in 0..150 {
            for command in script.round() {
                drop(store.write(command).await); // Some are refused.
            }
        }
        store.close().await;
        assert_checked(&disk);
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_or_in_use_is_not_checked_and_one_that_is_checked_does_not_change() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    assert!(matches!(check(data, |_| {}), Err(CheckError::Absent { .. })));
    let config = crate::config::StoreConfig { data_dir: data.to_owned(), min_free_bytes: 0, ..config() };
    let store = crate::store::Store::open(&config, |_, _| {}).unwrap();
    assert!(matches!(check(data, |_| {}), Err(CheckError::Locked { .. })));
    store.close().await;
    drop(store);
    let of_rows = |report: CheckReport| (report.findings, report.rows);
    let first = of_rows(check(data, |_| {}).unwrap());
    assert_eq!(first.0, []);
    assert_eq!(of_rows(check(data, |_| {}).unwrap()), first);
}

#[tokio::test]
async fn a_backup_is_checked_as_the_store_that_it_makes() {
    let store = std::sync::Arc::new(store_on(&disk().await, |_, _| {}));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backup");
    let mut backup = store.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.next().await.unwrap() {
        bytes.extend_from_slice(&piece.bytes);
    }
    fs::write(&file, &bytes).unwrap();
    assert_eq!(check_backup(&file, |_| {}).unwrap().findings, []);

    bytes[100] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(
        findings(check_backup(&file, |_| {}).unwrap()).into_keys().collect::<Vec<_>>(),
        ["the backup cannot be used"]
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the copy is removed");

    fs::create_dir(directory.path().join("backup.check")).unwrap();
    assert!(matches!(check_backup(&file, |_| {}), Err(CheckError::Scratch { .. })));
    assert!(matches!(check_backup(&directory.path().join("none"), |_| {}), Err(CheckError::Unreadable { .. })));
}

/// The store in a backup is inconsistent, although the file is whole.
#[tokio::test]
async fn a_backup_of_an_inconsistent_store_is_found_by_its_check() {
    let disk = disk().await;
    tamper(&disk, |t| remove(t, MERGES, &merge_key(ID, mpid(ALAN))));
    let store = std::sync::Arc::new(store_on(&disk, |_, _| {}));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backup");
    let mut backup = store.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.next().await.unwrap() {
        bytes.extend_from_slice(&piece.bytes);
    }
    fs::write(&file, &bytes).unwrap();
    let found = findings(check_backup(&file, |_| {}).unwrap());
    let expected = [
        "absorbed profiles without a record of their merge",
        "identities in the index of merges that the record of the merge does not have",
    ];
    assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
}
