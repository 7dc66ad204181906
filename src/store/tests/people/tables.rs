//! What the tables of a closed or crashed store hold, row by row.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::disk::Disk;
use super::super::harness::*;
use super::model::Model;
use super::person::Person;
use crate::model::identity::keys_of;
use crate::model::profile::next_expiry;
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::v1::Profile;
use crate::store::WorkspaceId;
use crate::store::rows::{
    AbsorbedRow, AudienceRow, ExpiryRow, Held, MemberRow, MergeRow, OwnerKey, OwnerRow, ProfileRow,
};
use crate::store::rows::{absorbed_key, audience_key, member_key, merge_key};
use crate::store::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, IDENTITY_SETTINGS, MEMBERS, MERGES, META, PROFILES,
    PROGRESS, REMEMBERED, REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS, WORKSPACES,
};

/// The only workspace of these tests.
const ID: WorkspaceId = WorkspaceId(1);

/// A table whose keys and values are bytes.
type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The tables whose keys are bytes.
const TABLES: [(&str, Table); 14] = [
    ("meta", META),
    ("workspaces", WORKSPACES),
    ("requests", REQUESTS),
    ("request ages", REQUEST_AGES),
    ("subscriptions", SUBSCRIPTIONS),
    ("progress", PROGRESS),
    ("skipped", SKIPPED),
    ("audiences", AUDIENCES),
    ("members", MEMBERS),
    ("expiries", EXPIRIES),
    ("merges", MERGES),
    ("absorbed", ABSORBED),
    ("identity settings", IDENTITY_SETTINGS),
    ("remembered", REMEMBERED),
];

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All rows of a store.
pub struct Dump {
    profiles: BTreeMap<i64, Vec<u8>>,
    identities: BTreeMap<OwnerKey, Mpid>,
    /// The tables whose keys are bytes, by name.
    rows: BTreeMap<&'static str, Rows>,
    /// The bytes of the events and of the other tables.
    numbered: Vec<Vec<u8>>,
}

impl Dump {
    pub fn of(disk: &Disk) -> Self {
        let database = database(disk);
        let transaction = database.begin_read().unwrap();
        let rows = TABLES.into_iter().map(|(name, table)| (name, rows(&transaction, table))).collect();
        let (mut profiles, mut identities, mut numbered) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for row in transaction.open_table(PROFILES).unwrap().iter().unwrap() {
            let (key, row) = row.unwrap();
            assert_eq!(key.value().0, ID.0);
            profiles.insert(key.value().1, row.value().to_vec());
        }
        for row in transaction.open_table(IDENTITIES).unwrap().iter().unwrap() {
            let (key, row) = row.unwrap();
            identities.insert(*key.value(), OwnerRow::read(key.value(), row.value()).unwrap());
        }
        for row in transaction.open_table(EVENTS).unwrap().iter().unwrap() {
            numbered.push(row.unwrap().1.value().to_vec());
        }
        for row in transaction.open_table(HEADS).unwrap().iter().unwrap() {
            numbered.push(row.unwrap().1.value().to_vec());
        }
        Self { profiles, identities, rows, numbered }
    }

    /// Where a value is: the table, or `None`.
    pub fn holds(&self, value: &str) -> Option<String> {
        let has = |bytes: &[u8]| bytes.windows(value.len()).any(|window| window == value.as_bytes());
        if let Some(at) = self.numbered.iter().position(|row| has(row)) {
            return Some(format!("event {} of those that the log holds", at + 1));
        }
        if let Some((mpid, _)) = self.profiles.iter().find(|(_, row)| has(row)) {
            return Some(format!("profile {mpid}"));
        }
        let mut tables = self.rows.iter();
        let table = tables.find(|(_, rows)| rows.iter().any(|(key, row)| has(key) || has(row)));
        table.map(|(name, _)| (*name).to_owned())
    }

    /// Every index agrees with the profiles, and the profiles with the model.
    pub fn check(&self, model: &Model) {
        let (people, redirects) = self.profiles();
        let plain: BTreeMap<_, _> = people.iter().map(|(mpid, profile)| (*mpid, Person::of(profile))).collect();
        assert_eq!(plain, model.people, "profiles");
        assert_eq!(redirects, model.redirects, "redirects");
        for (absorbed, survivor) in &redirects {
            assert!(people.contains_key(survivor), "{absorbed} leads to {survivor}, which is no profile");
        }
        self.check_identities(&people);
        self.check_memberships(&people);
        self.check_merges(model);
    }

    /// The absorbed profiles that merges would give back.
    pub fn absorbed(&self) -> BTreeMap<i64, Person> {
        let absorbed = |(key, row): (&Vec<u8>, &Vec<u8>)| {
            let absorbed = Person::of(&MergeRow::read(key, row).unwrap().absorbed.unwrap());
            let mpid = i64::from_be_bytes(key[4..].try_into().unwrap()) ^ i64::MIN;
            (mpid, absorbed)
        };
        self.rows["merges"].iter().map(absorbed).collect()
    }

    fn profiles(&self) -> (BTreeMap<i64, Profile>, BTreeMap<i64, i64>) {
        let (mut people, mut redirects) = (BTreeMap::new(), BTreeMap::new());
        for (number, row) in &self.profiles {
            let row = ProfileRow::read(ID, Mpid::new(*number).unwrap(), row).unwrap();
            match row.held {
                Held::Profile(profile) => {
                    let profile = Profile::decode(profile).unwrap();
                    assert_eq!(profile.mpid, *number);
                    assert_eq!(row.next_expiry, next_expiry(&profile), "of {number}");
                    people.insert(*number, profile);
                }
                Held::Redirect(to) => drop(redirects.insert(*number, to.get())),
                Held::Tombstone => {}
            }
        }
        (people, redirects)
    }

    fn check_identities(&self, people: &BTreeMap<i64, Profile>) {
        let mut owners = BTreeMap::new();
        for (mpid, profile) in people {
            for key in keys_of(profile) {
                let key = OwnerRow::key(ID, ORIGIN.secret.hash(ID, &key));
                assert_eq!(owners.insert(key, Mpid::new(*mpid).unwrap()), None, "two owners");
            }
        }
        assert_eq!(self.identities, owners, "identities");
    }

    fn check_memberships(&self, people: &BTreeMap<i64, Profile>) {
        let (mut members, mut ends) = (Rows::new(), BTreeSet::new());
        let mut counts = BTreeMap::<i64, u64>::new();
        for (number, profile) in people {
            let mpid = Mpid::new(*number).unwrap();
            for joined in &profile.audience_memberships {
                let key = member_key(ID, AudienceId::new(joined.audience_id).unwrap(), mpid);
                let end = joined.expire_time.as_ref().map(Micros::from_timestamp);
                members.insert(key.clone(), MemberRow::encode(&key, end));
                *counts.entry(joined.audience_id).or_default() += 1;
            }
            ends.extend(next_expiry(profile).map(|end| (end, mpid)));
        }
        assert_eq!(self.rows["members"], members, "members");
        let expiries = self.rows["expiries"].iter().map(|(key, row)| ExpiryRow::read(key, row).unwrap());
        assert_eq!(expiries.collect::<BTreeSet<_>>(), ends, "expiries");
        let counted = |(audience, members): (&i64, &u64)| {
            let key = audience_key(ID, AudienceId::new(*audience).unwrap());
            let row = AudienceRow { members: *members, ..AudienceRow::default() }.encode(&key);
            (key, row)
        };
        assert_eq!(self.rows["audiences"], counts.iter().map(counted).collect(), "audiences");
    }

    fn check_merges(&self, model: &Model) {
        let (mut absorbed, mut merges) = (Rows::new(), BTreeMap::new());
        for (number, survivor) in &model.redirects {
            let (mpid, survivor) = (Mpid::new(*number).unwrap(), Mpid::new(*survivor).unwrap());
            let key = absorbed_key(ID, survivor, mpid);
            let merge = &model.merges[number];
            absorbed.insert(key.clone(), AbsorbedRow::encode(&key, Mpid::new(merge.into).unwrap()));
            merges.insert(merge_key(ID, mpid), (merge.into, merge.absorbed.clone()));
        }
        assert_eq!(self.rows["absorbed"], absorbed, "absorbed profiles");
        let stored = self.rows["merges"].iter().map(|(key, row)| {
            let record = MergeRow::read(key, row).unwrap();
            (key.clone(), (record.into, Person::of(&record.absorbed.unwrap_or_default())))
        });
        assert_eq!(stored.collect::<BTreeMap<_, _>>(), merges, "merges");
    }
}

fn rows(transaction: &ReadTransaction, table: Table) -> Rows {
    let table = transaction.open_table(table).unwrap();
    let rows = table.iter().unwrap().map(Result::unwrap);
    rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).collect()
}
