//! Files of earlier layouts are brought to the present one when they are opened.

use prost::Message;

use super::disk::Disk;
use super::former;
use super::harness::*;
use crate::command::Delete;
use crate::model::identity::ParsedIdentity;
use crate::model::{Limits, LogId, Micros, Mpid, ProfileKey};
use crate::proto::v1::{Event, Identity, Profile, WriteOutcome};
use redb::ReadableTable;

use crate::store::{OpenError, Store, StoreError};

fn customer(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
}

/// Profiles 1 and 2, created at 5 and 6 s; 3 came and went. A request made profile 2.
fn former_disk(layout: u64, change: impl FnOnce(&redb::WriteTransaction)) -> Disk {
    let disk = Disk::default();
    tamper(&disk, |transaction| {
        former::begin(transaction, layout);
        for (sequence, mpid) in [(1, 1), (2, 2)] {
            let profile = Profile {
                mpid,
                etag: format!("{sequence:x}-0a0b0c0d"),
                user_identities: vec![customer("customerid", &format!("c{mpid}"))],
                ..Profile::default()
            };
            former::put_profile(transaction, mpid, sequence, &profile.encode_to_vec());
            let event = Event { sequence, mpid, profile: Some(profile), ..Event::default() };
            let time = (4 + mpid) * SECOND;
            former::put_event(transaction, sequence, 0, mpid, time, 1, &event.encode_to_vec());
        }
        former::put_event(transaction, 3, 0, 3, 7 * SECOND, 1, &Event::default().encode_to_vec());
        former::put_event(transaction, 4, 3, 3, 7 * SECOND, 3, &Event::default().encode_to_vec());
        former::put_profile(transaction, 3, 4, &[]);
        former::put_request(transaction, "r", 1, 100 * DAY, 2, 2, WriteOutcome::Created as u8);
        change(transaction);
    });
    disk
}

fn owner(store: &Store, identity: Identity) -> Result<Option<i64>, StoreError> {
    let parsed = ParsedIdentity::parse("identity", identity, &Limits::default()).unwrap();
    let id = store.workspace_id(&workspace()).unwrap();
    Ok(store.snapshot()?.owner(id, &parsed.key)?.map(Mpid::get))
}

#[tokio::test]
async fn a_file_of_layout_2_goes_on_where_it_was() {
    let disk = former_disk(2, |transaction| {
        former::put_identity(transaction, "customer_id\0none\0c1", 1);
        former::put_identity(transaction, "customer_id\0none\0c2", 2);
    });
    for _ in 0..2 {
        let store = store_on(&disk, |_, _| {});
        assert_eq!(owner(&store, customer("customer_id", "c1")).unwrap(), Some(1));
        assert_eq!(owner(&store, customer("customerid", "c2")).unwrap(), Some(2));
        let key = ProfileKey::Identity(
            ParsedIdentity::parse("identity", customer("customerid", "c2"), &Limits::default()).unwrap(),
        );
        let found = store.find(&workspace(), &key, |profile| Profile::decode(profile).unwrap().mpid);
        assert_eq!(found.unwrap(), 2);
        assert_eq!(stored(&store, 3).unwrap(), None);
        assert_eq!(events(&store)[..2].iter().map(|event| event.mpid).collect::<Vec<_>>(), [1, 2]);
        store.close().await;
    }
    let store = store_on(&disk, |_, _| {});
    assert!(store.stamp().uptime.get() < DAY, "it begins now, and the request is as old");
    let repeat = store.write(with_id(command(1, create(2)), "r")).await;
    assert!(repeat.is_ok_and(|answer| number(&answer) == 2), "the first answer");
    let written = store.write(command(1, increment(1))).await.unwrap();
    assert_eq!(number(&written), 5);
    let event = events(&store).pop().unwrap();
    assert_eq!(event.time, Some(Micros::new(7 * SECOND).to_timestamp()), "not before the event before");
    assert_eq!(event.profile.unwrap().etag, "5-0a0b0c0d", "of the same log");
    assert_eq!(store.log, LogId(former::LOG));
    let born = store.write(command(8 * SECOND, create(3))).await.unwrap();
    assert_eq!(number(&born), 6);
    assert_eq!(store.write(command(9 * SECOND, create(9))).await.unwrap().outcome, WriteOutcome::Created);
}

/// In layout 1 an identity was keyed by the type as it was given; by now `customerid` is a name of `customer_id`.
#[tokio::test]
async fn in_a_file_of_layout_1_the_name_that_stays_keeps_the_identity() {
    let disk = former_disk(1, |transaction| {
        former::put_identity(transaction, "customerid\0none\0c1", 1);
        // Another could own the same by the other name.
        former::put_identity(transaction, "customerid\0none\0c2", 1);
        former::put_identity(transaction, "customer_id\0none\0c2", 2);
    });
    let store = store_on(&disk, |_, _| {});
    assert_eq!(owner(&store, customer("customer_id", "c1")).unwrap(), Some(1));
    assert_eq!(owner(&store, customer("customer_id", "c2")).unwrap(), Some(2));

    store.write(command(1, Delete { ..delete(1) })).await.unwrap();
    assert_eq!(owner(&store, customer("customer_id", "c1")).unwrap(), None);
    assert_eq!(owner(&store, customer("customer_id", "c2")).unwrap(), Some(2), "it is not robbed of it");
}

#[tokio::test]
async fn a_damaged_record_of_an_older_file_is_made_good_from_the_profiles() {
    let disk = former_disk(2, |transaction| {
        former::put_identity(transaction, "customer_id\0none\0c1", 1);
        former::put_identity(transaction, "customer_id\0none\0c2", 2);
        let mut identities = transaction.open_table(former::IDENTITIES).unwrap();
        let (owner, checksum) = (1, 99);
        identities.insert((1, &b"customer_id\0none\0c2"[..]), (owner, checksum)).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    assert_eq!(owner(&store, customer("customer_id", "c1")).unwrap(), Some(1));
    assert_eq!(owner(&store, customer("customer_id", "c2")).unwrap(), Some(2), "as profile 2 says");
}

/// Else no version would open it any more.
#[test]
fn a_file_that_cannot_be_brought_up_is_left_as_it_was() {
    let disk = former_disk(2, |transaction| {
        transaction.open_table(former::WORKSPACES).unwrap().insert("a/b/d", 7).unwrap(); // There is no 2.
    });
    for _ in 0..2 {
        assert!(matches!(try_store_on(&disk, |_, _| {}), Err(OpenError::Damaged { .. })));
        tamper(&disk, |transaction| {
            let layout = transaction.open_table(former::META).unwrap().get("format").unwrap().unwrap().value();
            assert_eq!(layout, 2);
        });
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused_by_name() {
    let disk = former_disk(9, |_| {});
    let refused = try_store_on(&disk, |_, _| {}).unwrap_err();
    assert!(matches!(&refused, OpenError::Format { what, .. } if what == "layout 9"), "{refused}");
    assert!(refused.to_string().contains("cameo.redb"));
}

/// Earlier versions compare this number with theirs, and make new tables where it is not there.
#[test]
fn an_earlier_version_is_kept_from_a_file_of_this_one() {
    let disk = Disk::default();
    drop(store_on(&disk, |_, _| {}));
    tamper(&disk, |transaction| {
        let layout = transaction.open_table(former::META).unwrap().get("format").unwrap().unwrap().value();
        assert!(layout > 2, "{layout}");
    });
}
