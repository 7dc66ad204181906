//! Files in earlier layouts are upgraded to the current one when they are opened.

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

/// Ada was created at 5 s and Grace at 6 s. Alan was created and deleted at 7 s. Grace was created by request "r".
fn former_disk(layout: u64, change: impl FnOnce(&redb::WriteTransaction)) -> Disk {
    let disk = Disk::default();
    tamper(&disk, |transaction| {
        former::begin(transaction, layout);
        for (sequence, mpid, time, name) in [(1, ADA, 5 * SECOND, "ada"), (2, GRACE, 6 * SECOND, "grace")] {
            let profile = Profile {
                mpid,
                etag: format!("{sequence:x}-0a0b0c0d"),
                user_identities: vec![customer("customerid", name)],
                ..Profile::default()
            };
            former::put_profile(transaction, mpid, sequence, &profile.encode_to_vec());
            let event = Event { sequence, mpid, profile: Some(profile), ..Event::default() };
            former::put_event(transaction, sequence, 0, mpid, time, former::CREATED, &event.encode_to_vec());
        }
        let event = Event::default().encode_to_vec();
        former::put_event(transaction, 3, 0, ALAN, 7 * SECOND, former::CREATED, &event);
        former::put_event(transaction, 4, 3, ALAN, 7 * SECOND, former::DELETED, &event);
        former::put_profile(transaction, ALAN, 4, &[]);
        former::put_request(transaction, "r", 1, 100 * DAY, GRACE, 2, WriteOutcome::Created as u8);
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
async fn a_file_of_layout_2_continues_where_it_was() {
    let disk = former_disk(2, |transaction| {
        former::put_identity(transaction, "customer_id\0none\0ada", ADA);
        former::put_identity(transaction, "customer_id\0none\0grace", GRACE);
    });
    for _ in 0..2 {
        let store = store_on(&disk, |_, _| {});
        assert_eq!(owner(&store, customer("customer_id", "ada")).unwrap(), Some(ADA));
        assert_eq!(owner(&store, customer("customerid", "grace")).unwrap(), Some(GRACE));
        let key = ProfileKey::Identity(
            ParsedIdentity::parse("identity", customer("customerid", "grace"), &Limits::default()).unwrap(),
        );
        let found = store.find(&workspace(), &key, |found| Profile::decode(found.profile).unwrap().mpid);
        assert_eq!(found.unwrap(), GRACE);
        assert_eq!(stored(&store, ALAN).unwrap(), None);
        assert_eq!(events(&store)[..2].iter().map(|event| event.mpid).collect::<Vec<_>>(), [ADA, GRACE]);
        store.close().await;
    }
    let store = store_on(&disk, |_, _| {});
    assert!(store.stamp().uptime.get() < DAY, "the uptime starts at the upgrade, and so does the age of the request");
    let repeat = store.write(with_id(command(1, create(GRACE)), "r")).await;
    assert!(repeat.is_ok_and(|answer| number(&answer) == 2), "a repeat gets the first result");
    let written = store.write(command(1, increment(ADA))).await.unwrap();
    assert_eq!(number(&written), 5);
    let event = events(&store).pop().unwrap();
    assert_eq!(event.time, Some(Micros::new(7 * SECOND).to_timestamp()), "not before the previous event");
    assert_eq!(event.profile.unwrap().etag, "5-0a0b0c0d", "the log is the same");
    assert_eq!(store.origin.log, LogId(former::LOG));
    let created_again = store.write(command(8 * SECOND, create(ALAN))).await.unwrap();
    assert_eq!(number(&created_again), 6);
    assert_eq!(store.write(command(9 * SECOND, create(9))).await.unwrap().outcome, WriteOutcome::Created);
}

/// Layout 1 keyed an identity by its type as the caller wrote it. Today `customerid` is another name of `customer_id`.
#[tokio::test]
async fn in_a_file_of_layout_1_the_current_name_of_a_type_keeps_the_identity() {
    let disk = former_disk(1, |transaction| {
        former::put_identity(transaction, "customerid\0none\0ada", ADA);
        // Two profiles could own the same identity, each by another name of its type.
        former::put_identity(transaction, "customerid\0none\0grace", ADA);
        former::put_identity(transaction, "customer_id\0none\0grace", GRACE);
    });
    let store = store_on(&disk, |_, _| {});
    assert_eq!(owner(&store, customer("customer_id", "ada")).unwrap(), Some(ADA));
    assert_eq!(owner(&store, customer("customer_id", "grace")).unwrap(), Some(GRACE));

    store.write(command(1, Delete { ..delete(ADA) })).await.unwrap();
    assert_eq!(owner(&store, customer("customer_id", "ada")).unwrap(), None);
    assert_eq!(owner(&store, customer("customer_id", "grace")).unwrap(), Some(GRACE), "Grace keeps her identity");
}

#[tokio::test]
async fn a_damaged_identity_of_an_older_file_is_restored_from_the_profiles() {
    let disk = former_disk(2, |transaction| {
        former::put_identity(transaction, "customer_id\0none\0ada", ADA);
        former::put_identity(transaction, "customer_id\0none\0grace", GRACE);
        let mut identities = transaction.open_table(former::IDENTITIES).unwrap();
        let (owner, wrong_checksum) = (ADA, 99);
        identities.insert((former::ID, &b"customer_id\0none\0grace"[..]), (owner, wrong_checksum)).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    assert_eq!(owner(&store, customer("customer_id", "ada")).unwrap(), Some(ADA));
    assert_eq!(owner(&store, customer("customer_id", "grace")).unwrap(), Some(GRACE), "as Grace's profile says");
}

/// Otherwise no version could open it any more.
#[test]
fn a_file_that_cannot_be_upgraded_is_left_as_it_was() {
    let disk = former_disk(2, |transaction| {
        // A hole: the workspaces are numbered 1 and 7.
        transaction.open_table(former::WORKSPACES).unwrap().insert("a/b/d", 7).unwrap();
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

/// Earlier versions compare this number with their own. If it is missing, they create new tables.
#[test]
fn an_earlier_version_refuses_a_file_of_this_one() {
    let disk = Disk::default();
    drop(store_on(&disk, |_, _| {}));
    tamper(&disk, |transaction| {
        let layout = transaction.open_table(former::META).unwrap().get("format").unwrap().unwrap().value();
        assert!(layout > 2, "{layout}");
    });
}
