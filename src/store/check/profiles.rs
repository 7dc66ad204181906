//! The profiles, the indexes of them, and the profiles that were absorbed.
//!
//! An index holds what the profiles say, and nothing else. The first is looked up profile by profile. The second
//! follows from the numbers: if the index has as many rows as were looked up, it has no other.

use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{
    AbsorbedRow, ExpiryRow, Held, Kind, MemberRow, MergeRow, OwnerRow, ProfileRow, absorbed_key, expiry_key,
    member_key, merge_key, unsorted_mpid,
};
use super::report::Problems;
use super::{Bytes, Store, workspace_in};
use crate::model::identity::keys_of;
use crate::model::profile::{expiry, next_expiry};
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::v1::Profile;

const UNDECODED: &str = "profiles that cannot be decoded, or have another mpid than their rows";
const WRONG_EXPIRY: &str = "profiles whose row has another next end of a membership than the profile";
const NO_IDENTITY: &str = "identities of profiles that are missing from the index, or lead to another profile there";
const STRAY_IDENTITY: &str = "identities in the index that lead to a profile without them";
const NO_MEMBER: &str = "memberships that are missing from the index of members, or end at another time there";
const STRAY_MEMBER: &str = "members in the index whose profiles are not in the audience";
const NO_EXPIRY: &str = "ends of memberships that are missing from their index";
const STRAY_EXPIRY: &str = "ends of memberships in the index that no profile has next";
const NO_SURVIVOR: &str = "absorbed profiles that lead to no profile";
const NO_ABSORBED: &str = "absorbed profiles that are missing from the list of their survivor";
const STRAY_ABSORBED: &str = "profiles in the list of a survivor that do not lead to it";
const NO_MERGE: &str = "absorbed profiles without a record of their merge";
const STRAY_MERGE: &str = "records of merges whose profiles were not absorbed";

/// How many rows of each index the profiles ask for, and were found.
#[derive(Default)]
struct Found {
    identities: u64,
    members: u64,
    expiries: u64,
    absorbed: u64,
    merges: u64,
}

/// A profile that is checked.
#[derive(Clone, Copy)]
struct At {
    workspace: WorkspaceId,
    mpid: Mpid,
}

pub(super) fn check(store: &Store, damaged: &dyn Fn(Kind) -> bool, problems: &mut Problems) -> Result<(), StoreError> {
    let mut found = Found::default();
    for row in store.profiles.iter()? {
        let (key, row) = row?;
        let (workspace, mpid) = key.value();
        let (workspace, Some(mpid)) = (WorkspaceId(workspace), Mpid::new(mpid)) else { continue };
        let Ok(row) = ProfileRow::read(workspace, mpid, row.value()) else { continue };
        check_row(store, At { workspace, mpid }, &row, &mut found, problems)?;
    }
    if damaged(Kind::Profile) {
        return Ok(()); // What a damaged profile asks for would look like too much.
    }
    check_strays(store, &found, problems)
}

fn check_row(
    store: &Store,
    at: At,
    row: &ProfileRow<'_>,
    found: &mut Found,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    match row.held {
        Held::Tombstone => Ok(()),
        Held::Redirect(to) => check_redirect(store, at, to, found, problems),
        Held::Profile(profile) => match Profile::decode(profile) {
            Ok(profile) if profile.mpid == at.mpid.get() => {
                if row.next_expiry != next_expiry(&profile) {
                    problems.add_profile(WRONG_EXPIRY, at.workspace, at.mpid);
                }
                check_identities(store, at, &profile, found, problems)?;
                check_memberships(store, at, &profile, found, problems)
            }
            _ => {
                problems.add_profile(UNDECODED, at.workspace, at.mpid);
                Ok(())
            }
        },
    }
}

fn check_identities(
    store: &Store,
    at: At,
    profile: &Profile,
    found: &mut Found,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let mut keys = keys_of(profile);
    keys.dedup();
    for key in keys {
        let key = OwnerRow::key(at.workspace, store.secret.hash(at.workspace, &key));
        let owner = store.identities.get(&key)?.map(|row| OwnerRow::read(&key, row.value()));
        match owner {
            Some(Ok(owner)) if owner != at.mpid => problems.add_profile(NO_IDENTITY, at.workspace, at.mpid),
            None => problems.add_profile(NO_IDENTITY, at.workspace, at.mpid),
            Some(_) => found.identities += 1, // One that does not verify is reported with the rows.
        }
    }
    Ok(())
}

fn check_memberships(
    store: &Store,
    at: At,
    profile: &Profile,
    found: &mut Found,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let At { workspace, mpid } = at;
    for joined in &profile.audience_memberships {
        let Some(audience) = AudienceId::new(joined.audience_id) else { continue };
        let key = member_key(workspace, audience, mpid);
        let is_right = |row: &[u8]| MemberRow::read(&key, row).map_or(true, |(_, end)| end == expiry(joined));
        let row = store.members.get(&*key)?;
        found.members += u64::from(row.is_some());
        if !row.is_some_and(|row| is_right(row.value())) {
            problems.add_profile(NO_MEMBER, workspace, mpid);
        }
    }
    if let Some(end) = next_expiry(profile) {
        let row = store.expiries.get(&*expiry_key(workspace, end, mpid))?;
        found.expiries += u64::from(row.is_some());
        if row.is_none() {
            problems.add_profile(NO_EXPIRY, workspace, mpid);
        }
    }
    Ok(())
}

fn check_redirect(
    store: &Store,
    at: At,
    to: Mpid,
    found: &mut Found,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let At { workspace, mpid } = at;
    let survivor = store.profiles.get((workspace.0, to.get()))?;
    let is_profile =
        |row: &[u8]| ProfileRow::read(workspace, to, row).map_or(true, |row| matches!(row.held, Held::Profile(_)));
    if !survivor.is_some_and(|row| is_profile(row.value())) {
        problems.add_profile(NO_SURVIVOR, workspace, mpid);
    }
    let mut look = |table: &Bytes, key: &[u8], missing| -> Result<u64, StoreError> {
        let is_there = table.get(key)?.is_some();
        if !is_there {
            problems.add_profile(missing, workspace, mpid);
        }
        Ok(is_there.into())
    };
    found.absorbed += look(&store.absorbed, &absorbed_key(workspace, to, mpid), NO_ABSORBED)?;
    found.merges += look(&store.merges, &merge_key(workspace, mpid), NO_MERGE)?;
    Ok(())
}

/// Walks over each index that has more rows than the profiles ask for.
fn check_strays(store: &Store, found: &Found, problems: &mut Problems) -> Result<(), StoreError> {
    if store.identities.len()? > found.identities {
        check_stray_identities(store, problems)?;
    }
    if store.members.len()? > found.members {
        strays(store, &store.members, STRAY_MEMBER, problems, |key, row| {
            let (mpid, end) = MemberRow::read(key, row).ok()?;
            Some((mpid, Box::new(move |held| is_member(held, key, end))))
        })?;
    }
    if store.expiries.len()? > found.expiries {
        strays(store, &store.expiries, STRAY_EXPIRY, problems, |key, row| {
            let (end, mpid) = ExpiryRow::read(key, row).ok()?;
            let has_end = move |held: &Held<'_>| profile_in(held).is_some_and(|held| next_expiry(&held) == Some(end));
            Some((mpid, Box::new(has_end)))
        })?;
    }
    if store.absorbed.len()? > found.absorbed {
        strays(store, &store.absorbed, STRAY_ABSORBED, problems, |key, row| {
            let (mpid, _) = AbsorbedRow::read(key, row).ok()?;
            let survivor = unsorted_mpid(key.get(4..12)?);
            Some((mpid, Box::new(move |held| matches!(held, Held::Redirect(to) if Some(*to) == survivor))))
        })?;
    }
    if store.merges.len()? > found.merges {
        strays(store, &store.merges, STRAY_MERGE, problems, |key, row| {
            MergeRow::read(key, row).ok()?;
            Some((unsorted_mpid(key.get(4..12)?)?, Box::new(|held| matches!(held, Held::Redirect(_)))))
        })?;
    }
    Ok(())
}

/// Whether what an mpid has is what a row of an index says.
type Agrees<'k> = Box<dyn Fn(&Held<'_>) -> bool + 'k>;

/// Reports the rows of an index with which their profiles do not agree. `read` returns the profile of a row; `None` if
/// the row does not verify, which is reported with the rows.
fn strays(
    store: &Store,
    index: &Bytes,
    what: &'static str,
    problems: &mut Problems,
    read: impl for<'k> Fn(&'k [u8], &[u8]) -> Option<(Mpid, Agrees<'k>)>,
) -> Result<(), StoreError> {
    for row in index.iter()? {
        let (key, row) = row?;
        let workspace = workspace_in(key.value());
        let Some((mpid, agrees)) = read(key.value(), row.value()) else { continue };
        if !holds(store, At { workspace, mpid }, &*agrees)? {
            problems.add_profile(what, workspace, mpid);
        }
    }
    Ok(())
}

fn check_stray_identities(store: &Store, problems: &mut Problems) -> Result<(), StoreError> {
    for row in store.identities.iter()? {
        let (key, row) = row?;
        let (key, workspace) = (key.value(), workspace_in(key.value()));
        let Ok(mpid) = OwnerRow::read(key, row.value()) else { continue };
        let has_identity = |held: &Held<'_>| {
            let hash = |identity| OwnerRow::key(workspace, store.secret.hash(workspace, &identity));
            profile_in(held).is_some_and(|profile| keys_of(&profile).into_iter().any(|identity| hash(identity) == *key))
        };
        if !holds(store, At { workspace, mpid }, &has_identity)? {
            problems.add_profile(STRAY_IDENTITY, workspace, mpid);
        }
    }
    Ok(())
}

/// Whether an mpid has a row, and what it holds agrees.
fn holds(store: &Store, At { workspace, mpid }: At, agrees: &dyn Fn(&Held<'_>) -> bool) -> Result<bool, StoreError> {
    let Some(row) = store.profiles.get((workspace.0, mpid.get()))? else { return Ok(false) };
    Ok(ProfileRow::read(workspace, mpid, row.value()).map_or(true, |row| agrees(&row.held)))
}

fn profile_in(held: &Held<'_>) -> Option<Profile> {
    match held {
        Held::Profile(profile) => Profile::decode(*profile).ok(),
        Held::Tombstone | Held::Redirect(_) => None,
    }
}

/// Whether a profile is in the audience of a member's key, until this time.
fn is_member(held: &Held<'_>, key: &[u8], end: Option<Micros>) -> bool {
    let Some(profile) = profile_in(held) else { return false };
    let (workspace, Some(mpid)) = (workspace_in(key), Mpid::new(profile.mpid)) else { return false };
    profile.audience_memberships.iter().any(|joined| {
        let of = |audience| *key == *member_key(workspace, audience, mpid);
        AudienceId::new(joined.audience_id).is_some_and(of) && expiry(joined) == end
    })
}
