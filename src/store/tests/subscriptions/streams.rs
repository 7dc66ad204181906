//! The streams of a subscription: their numbers, and where they start.

use super::*;

#[tokio::test]
async fn each_stream_has_the_next_number_and_only_the_last_acknowledges() {
    let store = store_with(&Disk::default(), 10).await;
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    let unopened = write(&store, ack("crm", 1, at(1))).await;
    assert!(matches!(unopened, Err(StoreError::TakenOver)), "{unopened:?}");
    assert_eq!(done(&store, open("crm")).await.stream, 1);
    assert_eq!(done(&store, open("crm")).await.stream, 2);
    for stale in [0, 1, 3] {
        let refused = write(&store, skip("crm", stale, at(1), [1])).await;
        assert!(matches!(refused, Err(StoreError::TakenOver)), "{stale}: {refused:?}");
    }
    assert_eq!(done(&store, ack("crm", 2, at(3))).await.position, at(3));

    assert_eq!(done(&store, seek("crm", Begin::At(at(1)))).await.stream, 3);
    let refused = write(&store, ack("crm", 2, at(4))).await;
    assert!(matches!(refused, Err(StoreError::TakenOver)), "a seek moved the place: {refused:?}");
    assert_eq!((position(&store, "crm"), done(&store, open("crm")).await.stream), (at(1), 4));
    let updated =
        done(&store, changed(Subscription { user_attribute_keys: vec!["plan".into()], ..*settings("crm") })).await;
    assert_eq!((updated.stream, updated.position), (5, at(1)));
    let refused = write(&store, ack("crm", 4, at(4))).await;
    assert!(matches!(refused, Err(StoreError::TakenOver)), "the settings changed: {refused:?}");
    assert_eq!(skipped(&store, "crm"), [0; 0]);
    assert_missing(write(&store, ack("other", 1, at(1))).await, "other");
}

#[tokio::test]
async fn a_stream_does_what_on_expired_says() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    let policies = [OnExpired::Unspecified, OnExpired::Fail, OnExpired::Snapshot, OnExpired::Earliest];
    for policy in policies {
        for (kind, start) in [("lost", at(3)), ("held", at(4)), ("reads", in_snapshot(3, 5))] {
            let named = format!("{kind}-{}", policy as i32);
            let settings = Subscription { on_expired: policy.into(), ..*settings(&named) };
            let settings = Box::new(Settings::parse("subscription", settings, None).unwrap());
            write(&store, CreateSubscription { settings, start: Begin::At(start) }).await.unwrap();
        }
    }
    let store = trimmed(&disk, store, 4).await;
    for policy in policies {
        let held = format!("held-{}", policy as i32);
        assert_eq!(done(&store, open(&held)).await.position, at(4), "{policy:?}: nothing is lost");
        for kind in ["lost", "reads"] {
            let named = format!("{kind}-{}", policy as i32);
            let before = seen(&store, &named);
            let opened = write(&store, open(&named)).await;
            let expected = match policy {
                OnExpired::Snapshot => in_snapshot(10, 0),
                OnExpired::Earliest => at(4),
                OnExpired::Unspecified | OnExpired::Fail => {
                    let Err(StoreError::Expired { floor, .. }) = opened else { panic!("{policy:?}: {opened:?}") };
                    assert_eq!((floor, seen(&store, &named)), (Place::after(4), before));
                    continue;
                }
            };
            let state = after(opened.unwrap());
            assert_eq!((state.position, state.stream), (expected, 1), "{policy:?}");
            assert_eq!(seen(&store, &named), state);
        }
    }
}

/// A reader may still be at work on what a stream of the deleted subscription delivered.
#[tokio::test]
async fn the_number_of_a_stream_never_comes_back() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, subscribe("other", Begin::Now)).await.unwrap();
    for number in 1..=3 {
        assert_eq!(done(&store, open("crm")).await.stream, number);
    }
    write(&store, remove("crm", false)).await.unwrap();
    store.write(command(11, create(11))).await.unwrap(); // Writes the head of the log.
    store.write(command(12, trim_by_age(7))).await.unwrap();
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    write(&store, remove("other", false)).await.unwrap(); // It had fewer streams.

    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    for opened in [false, true] {
        for stale in 0..=3 {
            let refused = write(&store, ack("crm", stale, at(9))).await;
            assert!(matches!(refused, Err(StoreError::TakenOver)), "{stale}, {opened}: {refused:?}");
        }
        assert!(done(&store, open("crm")).await.stream > 3);
    }
    assert_eq!(position(&store, "crm"), at(5));
}
