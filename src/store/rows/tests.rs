//! Every row reads back, but only if it is intact and under its own key.

use super::super::WorkspaceId;
use bytes::Bytes;

use super::*;
use crate::model::{EventKind, IdentityKey, LogId, Micros, Place, Sequence};
use crate::proto::v1::{Identity, WriteOutcome};

const HERE: WorkspaceId = WorkspaceId(3);

fn ada() -> Mpid {
    Mpid::new(-7).unwrap()
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

/// Checks that `read` refuses the row with any one bit flipped, and cut off at any byte.
fn assert_sealed<T>(row: &[u8], read: impl Fn(&[u8]) -> Result<T, StoreError>) {
    assert!(read(row).is_ok());
    for bit in 0..8 * row.len() {
        let mut damaged = row.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged).is_err(), "bit {bit}");
    }
    for at in 0..row.len() {
        assert!(read(&row[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_profile_row_reads_back_only_whole_and_in_its_place() {
    for held in [Held::Profile(b"profile"), Held::Tombstone, Held::Redirect(Mpid::new(9).unwrap())] {
        for next_expiry in [None, Some(Micros::new(5))] {
            let written = ProfileRow { next_expiry, last_event: sequence(9), held };
            let row = written.encode(HERE, ada());
            assert_eq!(ProfileRow::read(HERE, ada(), &row).unwrap(), written);
            assert_sealed(&row, |row| ProfileRow::read(HERE, ada(), row).map(|_| ()));
            assert!(ProfileRow::read(WorkspaceId(4), ada(), &row).is_err());
            assert!(ProfileRow::read(HERE, Mpid::new(7).unwrap(), &row).is_err());
        }
    }
}

#[test]
fn an_event_row_reads_back_only_whole_and_in_its_place() {
    for (silent, previous) in [(false, None), (true, Some(sequence(3)))] {
        let (time, kind) = (Micros::new(-4), EventKind::Deleted);
        let written = EventRow { previous, mpid: ada(), time, kind, silent, other: None, event: b"event" };
        let row = written.encode(HERE, sequence(5));
        assert_eq!(EventRow::read(HERE, sequence(5), &row).unwrap(), written);
        assert_sealed(&row, |row| EventRow::read(HERE, sequence(5), row).map(|_| ()));
        assert!(EventRow::read(HERE, sequence(6), &row).is_err());
        assert!(EventRow::read(WorkspaceId(4), sequence(5), &row).is_err());
    }
}

/// As happens if a page of one table is found in place of a page of another.
#[test]
fn a_row_of_another_table_is_refused() {
    let mpid = Mpid::new(5).unwrap();
    let kind = EventKind::Created;
    let event =
        EventRow { previous: None, mpid, time: Micros::new(1), kind, silent: false, other: None, event: b"event" };
    assert!(ProfileRow::read(HERE, mpid, &event.encode(HERE, sequence(5))).is_err());
}

#[test]
fn each_table_seeds_its_checksums_by_itself() {
    let mut seeds: Vec<_> = Kind::ALL.into_iter().map(|kind| kind.seed(b"key")).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), Kind::ALL.len());
}

#[test]
fn the_other_rows_read_back_only_whole_and_in_their_place() {
    let request = RequestRow {
        fingerprint: 1 << 100,
        time: Micros::new(6),
        uptime: Micros::new(7),
        mpid: None,
        place: Place::after(8),
        outcome: WriteOutcome::Unchanged,
        detail: Bytes::from_static(b"detail"),
    };
    let (key, other) = (request_key(HERE, None, "r"), request_key(HERE, None, "s"));
    let row = request.encode(&key);
    assert_eq!(RequestRow::read(&key, &row).unwrap(), request);
    assert_sealed(&row, |row| RequestRow::read(&key, row));
    assert!(RequestRow::read(&other, &row).is_err());

    let age = AgeKey::new(Micros::new(7), &key);
    assert_eq!((age.uptime(), age.request()), (Micros::new(7), &*key));
    assert_sealed(&AgeRow::encode(&age), |row| AgeRow::check(age.as_bytes(), row));

    let head = Head { floor: Place::after(1), place: Place::after(2), time: Micros::new(3), bytes: 4, retired: 5 };
    let row = HeadRow::encode(&head, HERE);
    assert_eq!(HeadRow::read(HERE, &row).unwrap(), head);
    assert_sealed(&row, |row| HeadRow::read(HERE, row));
    assert!(HeadRow::read(WorkspaceId(4), &row).is_err());
    let former = seal(Kind::Head, &HERE.0.to_be_bytes(), row[..row.len() - size_of::<u64>()].to_vec());
    let read = HeadRow::read(HERE, &former).unwrap();
    assert_eq!(read, Head { retired: 0, ..head }, "before numbers were retired, rows were shorter");

    let row = WorkspaceRow::encode(b"a/b/c", HERE);
    assert_eq!(WorkspaceRow::read(b"a/b/c", &row).unwrap(), HERE);
    assert_sealed(&row, |row| WorkspaceRow::read(b"a/b/c", row));
    assert!(WorkspaceRow::read(b"a/b/d", &row).is_err());

    let row = LogRow::encode(LogId(9));
    assert_eq!(LogRow::read(&row).unwrap(), LogId(9));
    assert_sealed(&row, LogRow::read);
    let row = SecretRow::encode(&Secret([7; 16]));
    assert_eq!(SecretRow::read(&row).unwrap(), Secret([7; 16]));
    assert_sealed(&row, SecretRow::read);
    let mut former = FormerLogs::default();
    former.remember(LogId(9), vec![Place::after(3), Place::START]);
    former.remember(LogId(10), Vec::new());
    let row = FormerRow::encode(&former);
    assert_eq!(FormerRow::read(&row).unwrap(), former);
    assert_sealed(&row, FormerRow::read);
    assert_sealed(&FormatsRow::encode(), FormatsRow::unknown);
    assert_eq!(FormatsRow::unknown(&FormatsRow::encode()).unwrap(), None);
}

#[test]
fn an_identity_row_reads_back_only_whole_and_in_its_place() {
    let email = IdentityKey::of(&Identity { r#type: "email".into(), encoding: "none".into(), value: "a@x".into() });
    let secret = Secret([1; 16]);
    let key = OwnerRow::key(HERE, secret.hash(HERE, &email));
    let row = OwnerRow::encode(&key, ada());
    assert_eq!(OwnerRow::read(&key, &row).unwrap(), ada());
    assert_sealed(&row, |row| OwnerRow::read(&key, row.try_into().map_err(|_| Kind::Identity.corrupt())?));
    for bit in 0..8 * key.len() {
        let mut other = key;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(OwnerRow::read(&other, &row).is_err(), "bit {bit} of the key");
    }
    assert_ne!(secret.hash(HERE, &email), secret.hash(WorkspaceId(4), &email));
    assert_ne!(secret.hash(HERE, &email), Secret([2; 16]).hash(HERE, &email));
}
