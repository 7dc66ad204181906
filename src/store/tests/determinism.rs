//! Two stores that apply the same commands hold the same rows, whatever their batches and restarts are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use redb::{ReadableDatabase, ReadableTable};
use uuid::Uuid;

use super::checks::assert_checked;
use super::disk::Disk;
use super::harness::*;
use super::memberships::check_index;
use crate::command::{
    Acknowledge, Begin, Begun, Change, ChangeMembers, Command, Create, CreateAudience, CreateSubscription, Delete,
    DeleteAudience, DeleteSubscription, Erase, EraseEvents, Expire, Identify, MemberChange, Merge, Removal, RequestId,
    Rewrite, SeekSubscription, Stamp, Trim, Unmerge, Update, UpdateIdentitySettings, UpdateSubscription,
    WorkOnAudience,
};
use crate::model::audience::NewAudience;
use crate::model::identity::ParsedIdentity;
use crate::model::{
    self, AudienceId, Etag, IdentityKey, Limits, Micros, Mpid, Patch, Place, Position, ProfileKey, Settings,
    SubscriptionName, Workspace,
};
use crate::proto::v1::{
    AudienceMembership, EventFilter, Identity, IdentitySettings, OnConflict, Profile, ProfilePatch, Subscription,
};
use crate::store::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, IDENTITY_SETTINGS, MEMBERS, MERGES, META, PROFILES,
    PROGRESS, REMEMBERED, REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS, WORKSPACES,
};

/// Every row of every table: table, key, value.
pub(super) type Rows = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

pub(super) fn rows(disk: &Disk) -> Rows {
    let database = database(disk);
    let transaction = database.begin_read().unwrap();
    let mut rows = Rows::new();
    for (name, table) in [
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
    ] {
        for row in transaction.open_table(table).unwrap().iter().unwrap() {
            let (key, value) = row.unwrap();
            rows.insert((name, key.value().to_vec()), value.value().to_vec());
        }
    }
    for row in transaction.open_table(HEADS).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.insert(("heads", key.value().to_be_bytes().to_vec()), value.value().to_vec());
    }
    for row in transaction.open_table(PROFILES).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.insert(("profiles", format!("{:?}", key.value()).into()), value.value().to_vec());
    }
    for row in transaction.open_table(EVENTS).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.insert(("events", format!("{:?}", key.value()).into()), value.value().to_vec());
    }
    for row in transaction.open_table(IDENTITIES).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        rows.insert(("identities", key.value().to_vec()), value.value().to_vec());
    }
    rows
}

/// Applies the commands in order, `in_flight` of them at a time. With `restart`, the store is restarted after each
/// group. They are records of imports, which are served in order. Calls are not: workspaces take turns.
async fn apply(disk: &Disk, commands: &[Vec<u8>], in_flight: usize, restart: bool) {
    let mut store = store_on(disk, |_, _| {});
    for group in commands.chunks(in_flight) {
        let decoded = group.iter().map(|command| Command::decode(command).unwrap());
        let writes: Vec<_> = decoded.map(async |command| store.import(command).await?.await).collect();
        let answers = tokio::time::timeout(Duration::from_secs(60), futures_util::future::join_all(writes)).await;
        drop(answers.expect("every command gets its result"));
        if restart {
            store.close().await;
            store = store_on(disk, |_, _| {});
        }
    }
    store.close().await;
}

fn identity(number: u8) -> Identity {
    let r#type = if number.is_multiple_of(3) { "ios_idfa" } else { "email" };
    Identity { r#type: r#type.into(), encoding: "none".into(), value: format!("{number}@x") }
}

fn mpid() -> impl Strategy<Value = Mpid> {
    (1_i64..6).prop_map(|mpid| Mpid::new(mpid).unwrap())
}

fn key() -> impl Strategy<Value = ProfileKey> {
    prop_oneof![
        mpid().prop_map(ProfileKey::Mpid),
        (0_u8..6).prop_map(|number| ProfileKey::Identity(
            ParsedIdentity::parse("identity", identity(number), &Limits::default()).unwrap()
        )),
    ]
}

fn etag() -> impl Strategy<Value = Option<Etag>> {
    prop_oneof![9 => Just(None), 1 => Just(Etag::parse("stale".into()).unwrap())]
}

fn patch() -> impl Strategy<Value = Box<Patch>> {
    let identities = prop::collection::btree_set(0_u8..6, 0..3);
    let membership = prop::option::of((1_i64..3, prop::option::of(5_i64..200)));
    (identities, any::<bool>(), any::<bool>(), membership).prop_map(|(numbers, add, take, membership)| {
        let identities: Vec<_> = numbers.into_iter().map(identity).collect();
        let join = membership.map(|(audience_id, seconds)| AudienceMembership {
            audience_id,
            expire_time: seconds.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            ..AudienceMembership::default()
        });
        let (add_identities, remove_identities) = if add { (identities, vec![]) } else { (vec![], identities) };
        let patch = ProfilePatch {
            increment_user_attributes: [("n".to_owned(), 1.0)].into(),
            add_identities,
            remove_identities,
            take_identities: take,
            join_audiences: join.into_iter().collect(),
            ..ProfilePatch::default()
        };
        Box::new(Patch::parse(patch, &Limits::default()).unwrap())
    })
}

fn trim() -> impl Strategy<Value = Trim> {
    let age = || prop::option::of((0_u64..200).prop_map(Duration::from_secs));
    let bytes = || prop::option::of(0_u64..4_000);
    (age(), bytes(), age(), bytes(), 1_usize..8).prop_map(|(max_age, max_bytes, hold_age, hold_bytes, most)| Trim {
        max_age,
        max_bytes,
        hold_age,
        hold_bytes,
        most,
    })
}

fn position() -> impl Strategy<Value = Position> {
    (0_u64..6, prop::option::of(prop::option::of(mpid()))).prop_map(|(of, snapshot)| match snapshot {
        None => Place::after(of).into(),
        Some(after) => Position::Snapshot { of: Place::after(of), after },
    })
}

fn begin() -> impl Strategy<Value = Begin> {
    let fixed = prop::sample::select(vec![Begin::Now, Begin::Earliest, Begin::Snapshot]);
    prop_oneof![fixed, position().prop_map(Begin::At)]
}

/// Few subscriptions, so that commands meet.
fn subscription() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(vec!["a", "ab"]);
    let parse = |name: &str| SubscriptionName::parse("name", name).unwrap();
    let settings = || {
        (name(), 0_i32..4, prop::option::of(mpid())).prop_map(|(name, on_expired, mpid)| {
            let filter = mpid.map(|mpid| EventFilter { mpids: vec![mpid.get()], ..EventFilter::default() });
            let subscription = Subscription { name: name.into(), on_expired, filter, ..Subscription::default() };
            Box::new(Settings::parse("subscription", subscription, None).unwrap())
        })
    };
    let skip = (1_u64..6).prop_map(|number| (sequence(number), "lost".to_owned()));
    prop_oneof![
        1 => (settings(), begin()).prop_map(|(settings, start)| {
            Change::CreateSubscription(CreateSubscription { settings, start })
        }),
        1 => settings().prop_map(|settings| {
            let paths = vec!["filter".to_owned()];
            Change::UpdateSubscription(UpdateSubscription { settings, paths })
        }),
        1 => (name(), any::<bool>()).prop_map(move |(name, allow_missing)| {
            Change::DeleteSubscription(DeleteSubscription { name: parse(name), allow_missing })
        }),
        1 => (name(), begin()).prop_map(move |(name, to)| {
            Change::SeekSubscription(SeekSubscription { name: parse(name), to })
        }),
        3 => name().prop_map(move |name| Change::OpenStream(parse(name))),
        3 => (name(), 0_u64..4, position(), prop::collection::vec(skip, 0..3)).prop_map(
            move |(name, stream, position, skipped)| {
                Change::Acknowledge(Acknowledge { name: parse(name), stream, position, skipped })
            }
        ),
    ]
}

fn identify() -> impl Strategy<Value = Change> {
    let on_conflict = prop::sample::select(vec![OnConflict::Keep, OnConflict::Merge, OnConflict::Fail]);
    let numbers = prop::collection::btree_set(0_u8..6, 1..3);
    (numbers, patch(), any::<bool>(), on_conflict, mpid()).prop_map(
        |(numbers, patch, is_patched, on_conflict, create_as)| {
            let parse = |number| ParsedIdentity::parse("identity", identity(number), &Limits::default()).unwrap();
            let identities = numbers.into_iter().map(parse).collect();
            let patch = if is_patched && patch.changes_identities().is_none() { patch } else { empty_patch() };
            Change::Identify(Identify { identities, patch, on_conflict, create_as })
        },
    )
}

fn empty_patch() -> Box<Patch> {
    Box::new(Patch::parse(ProfilePatch::default(), &Limits::default()).unwrap())
}

fn identity_settings() -> impl Strategy<Value = Change> {
    let kinds = || prop::collection::btree_set(prop::sample::select(vec!["email", "ios_idfa"]), 0..2);
    let paths = prop::sample::subsequence(vec!["priority", "unique_types", "type_limits", "never_link_types"], 0..4);
    (kinds(), kinds(), kinds(), prop::option::of(1_i32..3), etag(), paths).prop_map(
        |(priority, unique, never, limit, etag, paths)| {
            let named = |kinds: BTreeSet<&str>| kinds.into_iter().map(str::to_owned).collect();
            let settings = IdentitySettings {
                priority: named(priority),
                unique_types: named(unique),
                never_link_types: named(never),
                type_limits: limit.map(|limit| ("email".to_owned(), limit)).into_iter().collect(),
                etag: etag.map(Etag::into_string).unwrap_or_default(),
                ..IdentitySettings::default()
            };
            let settings = Box::new(model::IdentitySettings::parse("settings", settings).unwrap());
            let paths = paths.into_iter().map(str::to_owned).collect();
            Change::UpdateIdentitySettings(UpdateIdentitySettings { settings, paths })
        },
    )
}

fn erase_events() -> impl Strategy<Value = Change> {
    let keys = prop::collection::btree_set(0_u8..6, 1..3);
    let keys = keys
        .prop_map(|numbers| numbers.into_iter().map(|number| IdentityKey::of(&identity(number))).collect::<Vec<_>>());
    let what = prop_oneof![
        Just(Removal::All),
        Just(Removal::Profiles),
        Just(Removal::Previous),
        keys.prop_map(Removal::Identities)
    ];
    let rewrites = prop::collection::btree_map(1_u64..12, what, 0..4);
    // Those past the head of the log are refused: no plan names them.
    rewrites.prop_map(|rewrites| {
        let rewrite = |(number, what)| Rewrite { sequence: sequence(number), what };
        Change::EraseEvents(EraseEvents { rewrites: rewrites.into_iter().map(rewrite).collect() })
    })
}

fn who_is_who() -> impl Strategy<Value = Change> {
    let merge =
        (key(), key(), any::<bool>(), etag(), etag()).prop_map(|(into, from, prefer_newer, into_etag, from_etag)| {
            Change::Merge(Merge { into, from, prefer_newer, into_etag, from_etag })
        });
    let unmerge = mpid().prop_map(|merged| Change::Unmerge(Unmerge { merged }));
    let most = prop::sample::select(vec![2_usize, 1_000]);
    let begun = (mpid(), 0_u64..4).prop_map(|(mpid, read_to)| Begun { mpid, read_to: Place::after(read_to) });
    let begun = prop::option::of(begun);
    let erase = (key(), etag(), any::<bool>(), most, begun).prop_map(|(key, etag, allow_missing, most, begun)| {
        Change::Erase(Erase { key, etag, allow_missing, most, begun })
    });
    prop_oneof![
        3 => identify(),
        4 => merge,
        2 => unmerge,
        2 => erase,
        1 => erase_events(),
        1 => identity_settings(),
    ]
}

/// Few audiences, so that commands meet.
fn audience() -> impl Strategy<Value = Change> {
    let id = || (1_i64..3).prop_map(|id| AudienceId::new(id).unwrap());
    let end = || prop::option::of((5_i64..200).prop_map(|second| Micros::new(second * SECOND)));
    let members = prop_oneof![2 => end().prop_map(MemberChange::Join), 1 => Just(MemberChange::Leave)];
    prop_oneof![
        2 => (id(), prop::sample::select(vec!["a", "b"]), any::<bool>()).prop_map(|(id, name, drawn)| {
            let audience = Box::new(NewAudience { id, name: name.into(), description: String::new() });
            Change::CreateAudience(CreateAudience { audience, drawn })
        }),
        1 => (id(), any::<bool>()).prop_map(|(id, allow_missing)| {
            Change::DeleteAudience(DeleteAudience { id, allow_missing })
        }),
        4 => (id(), prop::collection::vec(key(), 1..5), members).prop_map(|(id, keys, change)| {
            Change::ChangeMembers(ChangeMembers { id, keys, change })
        }),
        2 => (id(), 1_usize..4).prop_map(|(id, most)| Change::WorkOnAudience(WorkOnAudience { id, most })),
        2 => (1_usize..4).prop_map(|most| Change::Expire(Expire { most })),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let drawn = (mpid(), any::<bool>())
        .prop_map(|(mpid, drawn)| Change::Create(Create { mpid, drawn, ..create_with(1, Profile::default()) }));
    let update = (key(), patch(), etag(), prop::option::of(mpid()))
        .prop_map(|(key, patch, etag, create_as)| Change::Update(Update { key, patch, etag, create_as }));
    let delete = (key(), etag(), any::<bool>())
        .prop_map(|(key, etag, allow_missing)| Change::Delete(Delete { key, etag, allow_missing }));
    let trim = trim().prop_map(Change::Trim);
    prop_oneof![
        2 => drawn,
        6 => update,
        1 => delete,
        1 => trim,
        4 => subscription(),
        8 => who_is_who(),
        5 => audience(),
    ]
}

prop_compose! {
    /// Commands at any time and any uptime, in no order.
    fn any_command()(
        workspace in 0_u8..3,
        time in 0_i64..200,
        uptime in 0..3 * DAY / SECOND,
        id in any::<u128>(),
        request in prop::option::weighted(0.5, (0_u8..8, 0_u128..3)),
        silent in any::<bool>(),
        validate_only in prop::bool::weighted(0.1),
        limit in prop::sample::select(vec![2, 100]),
        change in change(),
    ) -> Command {
        Command {
            workspace: Workspace::parse(&format!("a/b/{workspace}")).unwrap(),
            stamp: Stamp {
                time: Micros::new(time * SECOND),
                uptime: Micros::new(uptime * SECOND),
                event_id: Uuid::from_u128(id),
            },
            actor: (id % 2 == 0).then(|| "tester".to_owned()),
            request: request.map(|(id, fingerprint)| RequestId { id: format!("r{id}"), fingerprint }),
            silent,
            validate_only,
            limits: Limits { identities: limit, ..Limits::default() },
            change,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// One store applies the commands one by one. The other applies them in batches, with a restart after each.
    #[test]
    fn two_stores_that_apply_the_same_commands_hold_the_same_rows(
        commands in prop::collection::vec(any_command(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let encoded: Vec<_> = commands.iter().map(Command::encode).collect();
        let (one_by_one, in_batches) = (Disk::default(), Disk::default());
        runtime.block_on(async {
            apply(&one_by_one, &encoded, 1, false).await;
            // If a decision read a clock or a random number, this store would get other values.
            apply(&in_batches, &encoded, 7, true).await;
        });
        prop_assert_eq!(rows(&one_by_one), rows(&in_batches));
        check_index(&one_by_one);
        assert_checked(&one_by_one);
    }

    #[test]
    fn a_command_reads_back(command in any_command()) {
        let encoded = command.encode();
        let decoded = Command::decode(&encoded).unwrap();
        prop_assert_eq!(decoded.encode(), encoded);
        prop_assert_eq!(decoded, command);
    }
}

#[test]
fn bytes_that_are_not_a_command_are_refused() {
    let encoded = command(1, create(ADA)).encode();
    for at in 0..encoded.len() {
        assert!(Command::decode(&encoded[..at]).is_err(), "cut at {at}");
    }
}
