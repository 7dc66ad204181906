//! The encoding of the commands on identities and audiences.

use super::{Undecodable, decode_etag};
use crate::command::{
    Begun, Change, ChangeMembers, CreateAudience, DeleteAudience, Erase, EraseEvents, Expire, Identify, MemberChange,
    Merge, Removal, Rewrite, Unmerge, UpdateIdentitySettings, WorkOnAudience,
};
use crate::model::audience::{AudienceId, NewAudience};
use crate::model::identity::ParsedIdentity;
use crate::model::{Etag, IdentityKey, IdentitySettings, Limits, Micros, Mpid, Patch, Place, ProfileKey, Sequence};
use crate::proto::storage::command::Change as Message;
use crate::proto::storage::{self, rewrite::What};
use crate::proto::v1;

/// Encodes a command on identities or audiences.
pub(super) fn encode(change: &Change) -> Message {
    let etag = |etag: &Option<Etag>| etag.clone().map(Etag::into_string);
    match change {
        Change::Erase(Erase { key, etag: of, allow_missing, most, begun }) => Message::Erase(storage::Erase {
            key: Some(key.into()),
            etag: etag(of),
            allow_missing: *allow_missing,
            most: *most as u64,
            begun: begun.map(|Begun { mpid, read_to }| storage::Begun { mpid: mpid.get(), read_to: read_to.get() }),
        }),
        Change::EraseEvents(EraseEvents { rewrites }) => {
            Message::EraseEvents(storage::EraseEvents { rewrites: rewrites.iter().map(encode_rewrite).collect() })
        }
        Change::Identify(Identify { identities, patch, on_conflict, create_as }) => {
            Message::Identify(storage::Identify {
                identities: identities.iter().map(|parsed| parsed.identity.clone()).collect(),
                patch: Some(patch.to_message()),
                on_conflict: (*on_conflict).into(),
                create_as: create_as.get(),
            })
        }
        Change::Merge(Merge { into, from, prefer_newer, into_etag, from_etag }) => Message::Merge(storage::Merge {
            into: Some(into.into()),
            from: Some(from.into()),
            prefer_newer: *prefer_newer,
            into_etag: etag(into_etag),
            from_etag: etag(from_etag),
        }),
        Change::Unmerge(Unmerge { merged }) => Message::Unmerge(storage::Unmerge { merged_mpid: merged.get() }),
        Change::UpdateIdentitySettings(UpdateIdentitySettings { settings, paths }) => {
            let (settings, paths) = (Some(settings.to_message()), paths.clone());
            Message::UpdateIdentitySettings(storage::UpdateIdentitySettings { settings, paths })
        }
        Change::CreateAudience(CreateAudience { audience, drawn }) => {
            let NewAudience { id, name, description } = &**audience;
            let (audience_id, name, description) = (id.get(), name.clone(), description.clone());
            let audience = v1::Audience { audience_id, name, description, ..v1::Audience::default() };
            Message::CreateAudience(storage::CreateAudience { audience: Some(audience), drawn: *drawn })
        }
        Change::DeleteAudience(DeleteAudience { id, allow_missing }) => {
            let (audience_id, allow_missing) = (id.get(), *allow_missing);
            Message::DeleteAudience(storage::DeleteAudience { audience_id, allow_missing })
        }
        Change::ChangeMembers(ChangeMembers { id, keys, change }) => {
            let (join, end) = match change {
                MemberChange::Join(end) => (true, *end),
                MemberChange::Leave => (false, None),
            };
            Message::ChangeMembers(storage::ChangeMembers {
                audience_id: id.get(),
                keys: keys.iter().map(Into::into).collect(),
                join,
                expire_time: end.map(Micros::to_timestamp),
            })
        }
        Change::WorkOnAudience(WorkOnAudience { id, most }) => {
            Message::WorkOnAudience(storage::WorkOnAudience { audience_id: id.get(), most: *most as u64 })
        }
        Change::Expire(Expire { most }) => Message::Expire(storage::Expire { most: *most as u64 }),
        _ => unreachable!("the caller encodes the others"),
    }
}

/// Decodes a command on identities or audiences.
pub(super) fn decode(change: Message, limits: &Limits) -> Result<Change, Undecodable> {
    let number = |most: u64| usize::try_from(most).map_err(|_| Undecodable::Field("most"));
    Ok(match change {
        Message::Erase(erase) => Change::Erase(Erase {
            key: ProfileKey::parse("key", erase.key, limits)?,
            etag: decode_etag(erase.etag)?,
            allow_missing: erase.allow_missing,
            most: number(erase.most)?,
            begun: erase.begun.map(decode_begun).transpose()?,
        }),
        Message::EraseEvents(erase) => {
            let rewrites = erase.rewrites.into_iter().map(decode_rewrite).collect::<Option<_>>();
            Change::EraseEvents(EraseEvents { rewrites: rewrites.ok_or(Undecodable::Field("rewrites"))? })
        }
        Message::Identify(identify) => {
            let on_conflict = v1::OnConflict::try_from(identify.on_conflict);
            Change::Identify(Identify {
                identities: ParsedIdentity::parse_all("identities", identify.identities, limits)?,
                patch: Box::new(Patch::parse(identify.patch.unwrap_or_default(), limits)?),
                on_conflict: on_conflict.map_err(|_| Undecodable::Field("on_conflict"))?,
                create_as: Mpid::parse("create_as", identify.create_as)?,
            })
        }
        Message::Merge(merge) => Change::Merge(Merge {
            into: ProfileKey::parse("into", merge.into, limits)?,
            from: ProfileKey::parse("from", merge.from, limits)?,
            prefer_newer: merge.prefer_newer,
            into_etag: decode_etag(merge.into_etag)?,
            from_etag: decode_etag(merge.from_etag)?,
        }),
        Message::Unmerge(unmerge) => {
            Change::Unmerge(Unmerge { merged: Mpid::parse("merged_mpid", unmerge.merged_mpid)? })
        }
        Message::UpdateIdentitySettings(update) => {
            let settings = IdentitySettings::parse("settings", update.settings.unwrap_or_default())?;
            Change::UpdateIdentitySettings(UpdateIdentitySettings { settings: Box::new(settings), paths: update.paths })
        }
        Message::CreateAudience(create) => {
            let audience = create.audience.ok_or(Undecodable::Field("audience"))?;
            let id = AudienceId::parse("audience_id", audience.audience_id)?;
            let audience = Box::new(NewAudience::parse("audience", audience, id)?);
            Change::CreateAudience(CreateAudience { audience, drawn: create.drawn })
        }
        Message::DeleteAudience(delete) => Change::DeleteAudience(DeleteAudience {
            id: AudienceId::parse("audience_id", delete.audience_id)?,
            allow_missing: delete.allow_missing,
        }),
        Message::ChangeMembers(change) => {
            let end = change.expire_time.as_ref().map(Micros::from_timestamp);
            let keys = change.keys.into_iter().map(|key| ProfileKey::parse("keys", Some(key), limits));
            Change::ChangeMembers(ChangeMembers {
                id: AudienceId::parse("audience_id", change.audience_id)?,
                keys: keys.collect::<Result<_, _>>()?,
                change: if change.join { MemberChange::Join(end) } else { MemberChange::Leave },
            })
        }
        Message::WorkOnAudience(work) => Change::WorkOnAudience(WorkOnAudience {
            id: AudienceId::parse("audience_id", work.audience_id)?,
            most: number(work.most)?,
        }),
        Message::Expire(expire) => Change::Expire(Expire { most: number(expire.most)? }),
        _ => unreachable!("the caller decodes the others"),
    })
}

fn decode_begun(storage::Begun { mpid, read_to }: storage::Begun) -> Result<Begun, Undecodable> {
    Ok(Begun { mpid: Mpid::parse("begun", mpid)?, read_to: Place::after(read_to) })
}

fn encode_rewrite(Rewrite { sequence, what }: &Rewrite) -> storage::Rewrite {
    let what = match what {
        Removal::All => What::All(true),
        Removal::Profiles => What::Profiles(true),
        Removal::Previous => What::Previous(true),
        Removal::Identities(keys) => What::Identities(encode_keys(keys)),
    };
    storage::Rewrite { sequence: sequence.get(), what: Some(what) }
}

fn decode_rewrite(rewrite: storage::Rewrite) -> Option<Rewrite> {
    let what = match rewrite.what? {
        What::All(_) => Removal::All,
        What::Profiles(_) => Removal::Profiles,
        What::Previous(_) => Removal::Previous,
        What::Identities(keys) => Removal::Identities(decode_keys(&keys)?),
    };
    Some(Rewrite { sequence: Sequence::new(rewrite.sequence)?, what })
}

fn encode_keys(keys: &[IdentityKey]) -> storage::Keys {
    storage::Keys { keys: keys.iter().map(|key| key.as_bytes().to_vec()).collect() }
}

fn decode_keys(storage::Keys { keys }: &storage::Keys) -> Option<Vec<IdentityKey>> {
    keys.iter().map(|key| IdentityKey::from_bytes(key)).collect()
}
