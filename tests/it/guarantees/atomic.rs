//! *Atomic.* One write is one commit.

use cameo::proto::v1::*;

use crate::harness::*;

const AUDIENCE: i64 = 1;
const WRITES: i32 = 300;

/// The nth write. It counts in three attributes at once; the odd ones opt out and join the audience, the even ones undo
/// both.
fn write(n: i32) -> ProfilePatch {
    let odd = n % 2 == 1;
    ProfilePatch {
        is_opted_out: Some(odd),
        increment_user_attributes: ["a", "b", "c"].map(|key| (key.to_owned(), 1.0)).into(),
        join_audiences: if odd { vec![member(AUDIENCE, None)] } else { vec![] },
        leave_audiences: if odd { vec![] } else { vec![AUDIENCE] },
        ..ProfilePatch::default()
    }
}

/// Asserts that the profile is as some number of whole writes left it.
fn assert_whole(profile: &Profile) {
    let numbers = ["a", "b", "c"].map(|key| number_of(profile, key));
    assert!(numbers.iter().all(|number| number.to_bits() == numbers[0].to_bits()), "{numbers:?}");
    let odd = numbers[0] % 2.0 > 0.5;
    let is_member = profile.audience_memberships.len() == 1;
    assert_eq!((profile.is_opted_out, is_member), (odd, odd));
}

/// Atomic: one write is one event; neither a reader nor a subscriber ever sees half of it.
#[tokio::test(flavor = "multi_thread")]
async fn atomic_writes_are_seen_whole_or_not_at_all() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let mut stream = client.subscribe_from(earliest()).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 1..=WRITES {
                client.update(ADA, write(n)).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        assert_whole(&client.get(ADA).await.unwrap());
    }
    writer.await.unwrap();
    for sequence in 1..=1 + u64::from(WRITES.cast_unsigned()) {
        let (_, event) = stream.event().await;
        assert_eq!(event.sequence, sequence);
        assert_whole(&event.profile.unwrap());
    }
}
