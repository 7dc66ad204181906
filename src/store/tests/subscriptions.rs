//! Durable subscriptions: what each command does to them, and what is read of them.

mod streams;

use redb::ReadableTable;

use super::disk::Disk;
use super::harness::*;
use crate::command::*;
use crate::model::invalid::CursorError;
use crate::model::{Invalid, Limits, Micros, Mpid, Place, Position, Settings, SubscriptionName, Workspace};
use crate::proto::v1::{EventFilter, OnExpired, Shard, SkippedEvent, Subscription, WriteOutcome};
use crate::store::read::LogBounds;
use crate::store::rows::{FormatsRow, Head, HeadRow};
use crate::store::tables::{EVENTS, HEADS, META, PROGRESS, SKIPPED, SUBSCRIPTIONS};
use crate::store::{PageSize, Store, StoreError, SubscriptionState, SubscriptionView, WorkspaceId, Written};

macro_rules! into_change {
    ($($change:ident),*) => {$(
        impl From<$change> for Change {
            fn from(change: $change) -> Self {
                Self::$change(change)
            }
        }
    )*};
}
into_change!(CreateSubscription, DeleteSubscription, SeekSubscription, Acknowledge);

/// A subscription, as a command or a read tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    settings: Subscription,
    pub position: Position,
    stream: u64,
    pub skipped: u64,
}

impl From<SubscriptionState> for Seen {
    fn from(state: SubscriptionState) -> Self {
        let SubscriptionState { settings, acknowledged, stream, skipped } = state;
        Self { settings, position: acknowledged, stream, skipped }
    }
}

fn seen(store: &Store, of: &str) -> Seen {
    let SubscriptionView { settings, acknowledged, stream, skipped, .. } = view(store, of);
    Seen { settings, position: acknowledged, stream, skipped }
}

fn after(written: Written) -> Seen {
    Seen::from(*written.subscription.unwrap())
}

fn changed(settings: Subscription) -> Change {
    let settings = Box::new(Settings::parse("subscription", settings, None).unwrap());
    Change::UpdateSubscription(UpdateSubscription { settings, paths: Vec::new() })
}

pub fn name(name: &str) -> SubscriptionName {
    SubscriptionName::parse("name", name).unwrap()
}

pub fn settings(name: &str) -> Box<Subscription> {
    Box::new(Subscription { name: name.into(), ..Subscription::default() })
}

pub fn subscribe(to: &str, start: Begin) -> CreateSubscription {
    CreateSubscription { settings: Box::new(Settings::parse("subscription", *settings(to), None).unwrap()), start }
}

pub fn open(to: &str) -> Change {
    Change::OpenStream(name(to))
}

pub fn seek(to: &str, begin: Begin) -> SeekSubscription {
    SeekSubscription { name: name(to), to: begin }
}

fn remove(what: &str, allow_missing: bool) -> DeleteSubscription {
    DeleteSubscription { name: name(what), allow_missing }
}

pub fn at(place: u64) -> Position {
    Place::after(place).into()
}

pub fn in_snapshot(of: u64, after: i64) -> Position {
    Position::Snapshot { of: Place::after(of), after: Mpid::new(after) }
}

pub fn ack(of: &str, stream: u64, position: Position) -> Acknowledge {
    Acknowledge { name: name(of), stream, position, skipped: Vec::new() }
}

/// Skips these events for the reason "lost".
pub fn skip(of: &str, stream: u64, position: Position, events: impl IntoIterator<Item = u64>) -> Acknowledge {
    let skipped = events.into_iter().map(|event| (sequence(event), "lost".to_owned())).collect();
    Acknowledge { skipped, ..ack(of, stream, position) }
}

pub async fn write(store: &Store, change: impl Into<Change>) -> Result<Written, StoreError> {
    store.write(command(SECOND, change)).await
}

/// The subscription after a write.
pub async fn done(store: &Store, change: impl Into<Change>) -> Seen {
    after(write(store, change).await.unwrap())
}

pub fn view(store: &Store, of: &str) -> SubscriptionView {
    store.subscription(&workspace(), &name(of)).unwrap()
}

pub fn position(store: &Store, of: &str) -> Position {
    view(store, of).acknowledged
}

/// A store whose log has this many events, of the times 1, 2 and so on.
pub async fn store_with(disk: &Disk, events: i64) -> Store {
    let store = store_on(disk, |_, _| {});
    for time in 1..=events {
        store.write(command(time, create(time))).await.unwrap();
    }
    store
}

/// Restarts the store with a log that begins after a place. Its head must be 10.
pub async fn trimmed(disk: &Disk, store: Store, floor: u64) -> Store {
    store.close().await;
    tamper(disk, |transaction| {
        let mut events = transaction.open_table(EVENTS).unwrap();
        for event in 1..=floor {
            events.remove((1, event)).unwrap();
        }
        let bytes = (floor + 1..=10).map(|event| events.get((1, event)).unwrap().unwrap().value().len() as u64).sum();
        let (floor, place, time) = (Place::after(floor), Place::after(10), Micros::new(10));
        let head = Head { floor, place, time, bytes, retired: 0 };
        transaction.open_table(HEADS).unwrap().insert(1, &*HeadRow::encode(&head, WorkspaceId(1))).unwrap();
    });
    store_on(disk, |_, _| {})
}

pub fn skipped_page(store: &Store, of: &str, after: Option<u64>, most: usize) -> (Vec<SkippedEvent>, bool) {
    let id = store.workspace_id(&workspace()).unwrap();
    store.snapshot().unwrap().skipped_events(id, &name(of), after.map(sequence), most).unwrap()
}

pub fn skipped(store: &Store, of: &str) -> Vec<u64> {
    let (events, more) = skipped_page(store, of, None, usize::MAX);
    assert!(!more);
    assert_eq!(view(store, of).skipped, events.len() as u64, "the count is that of the list");
    events.into_iter().map(|event| event.sequence).collect()
}

#[track_caller]
fn assert_missing<T: std::fmt::Debug>(result: Result<T, StoreError>, named: &str) {
    match result {
        Err(StoreError::SubscriptionNotFound { name }) => assert_eq!(name.as_str(), named),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_subscription_starts_where_it_was_asked_to() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    let store = trimmed(&disk, store, 4).await;
    let starts = [
        (Begin::Now, at(10)),
        (Begin::Earliest, at(4)),
        (Begin::Snapshot, in_snapshot(10, 0)),
        (Begin::At(at(4)), at(4)),
        (Begin::At(at(10)), at(10)),
        (Begin::At(in_snapshot(7, -3)), in_snapshot(7, -3)),
        (Begin::Since(Place::after(6)), at(6)),
        (Begin::Since(Place::after(3)), at(4)),
    ];
    for (number, (start, expected)) in starts.into_iter().enumerate() {
        let written = write(&store, subscribe(&format!("s{number}"), start)).await.unwrap();
        assert_eq!((written.outcome, written.place), (WriteOutcome::Created, Some(Place::after(10))));
        let state = after(written);
        assert_eq!((state.position, state.stream, state.skipped), (expected, 0, 0));
        assert_eq!(seen(&store, &format!("s{number}")), state, "it is stored");
    }
    let expired = write(&store, subscribe("new", Begin::At(at(3)))).await;
    let Err(StoreError::Expired { floor, head: at_head, oldest_time }) = expired else { panic!("{expired:?}") };
    assert_eq!((floor, at_head, oldest_time), (Place::after(4), Place::after(10), Some(Micros::new(5))));
    let future = write(&store, subscribe("new", Begin::At(at(11)))).await;
    let Err(StoreError::Invalid(Invalid::Cursor(error))) = future else { panic!("{future:?}") };
    assert_eq!(error, CursorError::InFuture { field: "cursor", head: Place::after(10) });
    assert_missing(store.subscription(&workspace(), &name("new")), "new");
    assert_eq!(head(&store), Place::after(10), "no command made an event");
}

#[tokio::test]
async fn settings_are_kept_and_what_the_server_sets_is_not() {
    let store = store();
    let given = Subscription {
        filter: Some(EventFilter { mpids: vec![1], ..EventFilter::default() }),
        read_mask: Some(prost_types::FieldMask { paths: vec!["mpid".into()] }),
        user_attribute_keys: vec!["plan".into()],
        shard: Some(Shard { index: 1, count: 2 }),
        on_expired: OnExpired::Snapshot.into(),
        ..*settings("crm")
    };
    let create_time = Some(Micros::new(SECOND).to_timestamp());
    let expected = Subscription { create_time, ..given.clone() };
    let noise = Subscription { skipped_events: 9, lag_events: 9, acknowledged_cursor: "x".into(), ..given };
    let settings_of = |given| Box::new(Settings::parse("subscription", given, None).unwrap());
    let create = CreateSubscription { settings: settings_of(noise.clone()), start: Begin::Now };
    assert_eq!(done(&store, create).await.settings, expected);

    let later = command(9 * SECOND, changed(Subscription { shard: None, ..noise }));
    let updated = store.write(later).await.unwrap();
    assert_eq!(updated.outcome, WriteOutcome::Updated);
    let state = after(updated);
    assert_eq!(state.settings, Subscription { shard: None, ..expected }, "the time is that of the creation");
    assert_eq!(seen(&store, "crm"), state);
    assert_missing(write(&store, changed(*settings("other"))).await, "other");
}

#[tokio::test]
async fn a_name_is_used_once_per_workspace_and_a_workspace_has_a_limit() {
    let store = store();
    let limited = |name: &str, workspace: &str| {
        let limits = Limits { subscriptions: 2, ..Limits::default() };
        let workspace = Workspace::parse(workspace).unwrap();
        Command { workspace, limits, ..command(1, subscribe(name, Begin::Now)) }
    };
    store.write(limited("a", "a/b/c")).await.unwrap();
    let twice = store.write(limited("a", "a/b/c")).await;
    assert!(matches!(&twice, Err(StoreError::SubscriptionExists { name }) if name.as_str() == "a"), "{twice:?}");
    store.write(limited("b", "a/b/c")).await.unwrap();
    let third = store.write(limited("c", "a/b/c")).await;
    assert!(matches!(third, Err(StoreError::TooManySubscriptions { limit: 2 })), "{third:?}");
    store.write(limited("a", "a/b/d")).await.unwrap();

    write(&store, remove("a", false)).await.unwrap();
    store.write(limited("c", "a/b/c")).await.unwrap();
    let none = Limits { subscriptions: 0, ..Limits::default() };
    let refused = store.write(Command { limits: none, ..limited("a", "a/b/e") }).await;
    assert!(matches!(refused, Err(StoreError::TooManySubscriptions { limit: 0 })), "{refused:?}");
}

#[tokio::test]
async fn a_subscription_founds_its_workspace() {
    let store = store();
    assert_missing(store.subscription(&workspace(), &name("crm")), "crm");
    assert_missing(write(&store, open("crm")).await, "crm");
    assert!(store.workspace_id(&workspace()).is_none());
    let none = Limits { workspaces: 0, ..Limits::default() };
    let refused = store.write(Command { limits: none, ..command(1, subscribe("crm", Begin::Now)) }).await;
    assert!(matches!(refused, Err(StoreError::TooManyWorkspaces { limit: 0 })), "{refused:?}");

    let written = write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();

    assert_eq!(written.place, Some(Place::START));
    let view = view(&store, "crm");
    assert_eq!((view.bounds, view.oldest), (LogBounds::default(), None));
    assert_eq!(number(&store.write(command(1, create(ADA))).await.unwrap()), 1, "the log begins with 1");
}

#[tokio::test]
async fn the_acknowledged_position_never_moves_back() {
    let store = store_with(&Disk::default(), 10).await;
    write(&store, subscribe("crm", Begin::At(at(2)))).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    let steps = [
        (at(2), at(2), WriteOutcome::Unchanged),
        (at(1), at(2), WriteOutcome::Unchanged),
        (in_snapshot(5, 0), in_snapshot(5, 0), WriteOutcome::Updated),
        (in_snapshot(5, 3), in_snapshot(5, 3), WriteOutcome::Updated),
        (in_snapshot(5, 2), in_snapshot(5, 3), WriteOutcome::Unchanged),
        (at(4), in_snapshot(5, 3), WriteOutcome::Unchanged),
        (at(5), at(5), WriteOutcome::Updated),
        (in_snapshot(5, 9), at(5), WriteOutcome::Unchanged),
        (at(10), at(10), WriteOutcome::Updated),
    ];
    for (to, expected, outcome) in steps {
        let written = write(&store, ack("crm", 1, to)).await.unwrap();
        assert_eq!((written.outcome, written.place), (outcome, Some(Place::after(10))), "{to:?}");
        assert_eq!(after(written).position, expected, "{to:?}");
        assert_eq!(position(&store, "crm"), expected, "{to:?}");
    }
    let future = write(&store, ack("crm", 1, at(11))).await;
    let Err(StoreError::Invalid(Invalid::Cursor(error))) = future else { panic!("{future:?}") };
    assert_eq!(error, CursorError::InFuture { field: "cursor", head: Place::after(10) });
}

#[tokio::test]
async fn a_seek_goes_anywhere_in_the_log() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    let store = trimmed(&disk, store, 4).await;
    write(&store, subscribe("crm", Begin::Now)).await.unwrap();
    for (to, expected) in [
        (Begin::Earliest, at(4)),
        (Begin::Snapshot, in_snapshot(10, 0)),
        (Begin::At(in_snapshot(6, 2)), in_snapshot(6, 2)),
        (Begin::Now, at(10)),
    ] {
        let check = Command { validate_only: true, ..command(1, seek("crm", to)) };
        let before = seen(&store, "crm");
        let checked = store.write(check).await.unwrap();
        assert_eq!((checked.place, after(checked).position), (None, expected), "as it would be");
        assert_eq!(seen(&store, "crm"), before, "nothing changed");
        assert_eq!(done(&store, seek("crm", to)).await.position, expected);
        assert_eq!(position(&store, "crm"), expected);
    }
    let before = seen(&store, "crm");
    let expired = write(&store, seek("crm", Begin::At(at(3)))).await;
    assert!(matches!(expired, Err(StoreError::Expired { .. })), "{expired:?}");
    let future = write(&store, seek("crm", Begin::At(at(11)))).await;
    assert!(matches!(future, Err(StoreError::Invalid(Invalid::Cursor(_)))), "{future:?}");
    assert_eq!(seen(&store, "crm"), before);
    assert_missing(write(&store, seek("other", Begin::Now)).await, "other");
}

#[tokio::test]
async fn a_deleted_subscription_leaves_nothing() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    for of in ["crm", "crm2"] {
        write(&store, subscribe(of, Begin::Earliest)).await.unwrap();
        write(&store, open(of)).await.unwrap();
        write(&store, skip(of, 1, at(10), 1..=10)).await.unwrap();
    }
    let check = Command { validate_only: true, ..command(1, remove("crm", false)) };
    assert_eq!(store.write(check).await.unwrap().outcome, WriteOutcome::Deleted);
    assert_eq!(skipped(&store, "crm").len(), 10, "it was only validated");
    let deleted = write(&store, remove("crm", false)).await.unwrap();
    assert_eq!((deleted.outcome, deleted.subscription), (WriteOutcome::Deleted, None));
    assert_missing(store.subscription(&workspace(), &name("crm")), "crm");
    store.close().await;
    tamper(&disk, |transaction| {
        let rows = [SUBSCRIPTIONS, PROGRESS, SKIPPED]
            .map(|table| transaction.open_table(table).unwrap().iter().unwrap().count());
        assert_eq!(rows, [1, 1, 10]);
    });
}

#[tokio::test]
async fn a_delete_of_what_is_missing_may_be_allowed() {
    let store = store_with(&Disk::default(), 1).await;
    assert_missing(write(&store, remove("crm", false)).await, "crm");
    let allowed = write(&store, remove("crm", true)).await.unwrap();
    assert_eq!((allowed.outcome, allowed.subscription), (WriteOutcome::Unchanged, None));
}

#[tokio::test]
async fn a_repeated_request_returns_the_subscription_as_it_is_now() {
    let store = store_with(&Disk::default(), 10).await;
    let requests = [
        ("create", Change::from(subscribe("crm", Begin::At(at(2))))),
        ("update", changed(Subscription { user_attribute_keys: vec!["plan".into()], ..*settings("crm") })),
        ("seek", seek("crm", Begin::At(at(4))).into()),
    ];
    for (id, change) in requests.clone() {
        store.write(with_id(command(1, change), id)).await.unwrap();
    }
    let now = seen(&store, "crm");
    assert_eq!((now.position, now.stream), (at(4), 2));
    for (id, change) in requests.clone() {
        let repeated = store.write(with_id(command(2, change), id)).await.unwrap();
        let outcome = repeated.outcome;
        assert_eq!(after(repeated), now, "{id}");
        assert_eq!(outcome, if id == "create" { WriteOutcome::Created } else { WriteOutcome::Updated });
    }
    assert_eq!(seen(&store, "crm"), now, "nothing was done twice");
    let delete = || with_id(command(1, remove("crm", false)), "delete");
    store.write(delete()).await.unwrap();
    assert_eq!(store.write(delete()).await.unwrap().outcome, WriteOutcome::Deleted);
    let (id, create) = requests.into_iter().next().unwrap();
    assert_eq!(store.write(with_id(command(2, create.clone()), id)).await.unwrap().subscription, None);
    let reused =
        store.write(Command { request: Some(RequestId { id: id.into(), fingerprint: 2 }), ..command(1, create) });
    assert!(matches!(reused.await, Err(StoreError::RequestIdReused)));
}

#[tokio::test]
async fn a_list_has_the_subscriptions_in_the_order_of_their_names() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    for (of, place) in [("b", 10), ("ab", 7), ("a", 2)] {
        write(&store, subscribe(of, Begin::At(at(place)))).await.unwrap();
    }
    let other = Workspace::parse("a/b/d").unwrap();
    store.write(Command { workspace: other.clone(), ..command(1, subscribe("aa", Begin::Now)) }).await.unwrap();
    let store = trimmed(&disk, store, 4).await;
    let page = |workspace: &Workspace, after: Option<&str>, most| {
        let (views, more) = store
            .snapshot()
            .unwrap()
            .subscriptions(
                store.workspace_id(workspace).unwrap(),
                after.map(name).as_ref(),
                PageSize { items: most, bytes: 1 << 20 },
            )
            .unwrap();
        let views = views.into_iter().map(|view| (view.settings.name, view.oldest.map(Micros::get)));
        (views.collect::<Vec<_>>(), more)
    };
    let [a, ab, b] = [("a".to_owned(), Some(5)), ("ab".to_owned(), Some(8)), ("b".to_owned(), None)];
    assert_eq!(page(&workspace(), None, 2), (vec![a, ab.clone()], true));
    assert_eq!(page(&workspace(), Some("a"), 2), (vec![ab, b], false));
    assert_eq!(page(&workspace(), Some("b"), 2), (vec![], false));
    assert_eq!(page(&other, None, 2), (vec![("aa".to_owned(), None)], false));
    assert_eq!(
        view(&store, "a").bounds,
        LogBounds { floor: Place::after(4), head: Place::after(10), bytes: view(&store, "a").bounds.bytes }
    );
}

#[tokio::test]
async fn subscriptions_outlive_a_restart_and_older_files_get_their_tables() {
    let disk = Disk::default();
    let store = store_with(&disk, 2).await;
    store.close().await;
    let names = [SUBSCRIPTIONS, PROGRESS, SKIPPED];
    tamper(&disk, |transaction| {
        for table in names {
            assert!(transaction.delete_table(table).unwrap());
        }
    });
    assert!(try_store_on(&disk, |_, _| {}).is_err(), "a file that had the tables is damaged");
    tamper(&disk, |transaction| {
        let formats = FormatsRow::encode_first(8);
        transaction.open_table(META).unwrap().insert(FormatsRow::KEY, &*formats).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    write(&store, subscribe("crm", Begin::Earliest)).await.unwrap();
    write(&store, open("crm")).await.unwrap();
    let state = done(&store, skip("crm", 1, at(2), [1])).await;
    store.close().await;
    let store = store_on(&disk, |_, _| {});
    assert_eq!((seen(&store, "crm"), skipped(&store, "crm")), (state, vec![1]));
}
