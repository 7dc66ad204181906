//! Encodes commands as bytes and decodes them. Decoding parses like a request, into types that are valid by
//! construction.
//!
//! `people` has the commands of `identity` and `audience`.

mod people;

use std::time::Duration;

use prost::Message;
use uuid::Uuid;

use super::{
    Acknowledge, Begin, Change, Command, Create, CreateSubscription, Delete, DeleteSubscription, RequestId,
    SeekSubscription, Stamp, Trim, Update, UpdateSubscription,
};
use crate::model::{
    Etag, Invalid, Limits, Micros, Mpid, NewProfile, Patch, Place, Position, ProfileKey, Sequence, Settings,
    SubscriptionName, Workspace,
};
use crate::proto::v1::acknowledge_request::Skip;
use crate::proto::{storage, v1};

/// Why bytes are not a command.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// They are not an encoded `Command` message.
    #[error("not an encoded command")]
    Malformed(#[from] prost::DecodeError),
    /// A field is missing or wrong.
    #[error("a command whose {0} is missing or wrong")]
    Field(&'static str),
    /// A field breaks the limits that the command itself carries.
    #[error("a command that its own limits refuse")]
    Invalid(#[from] Invalid),
}

impl Command {
    /// The command as bytes. Equal commands have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let change = match &self.change {
            Change::Create(Create { profile, mpid, drawn }) => storage::command::Change::Create(storage::Create {
                profile: Some(profile.profile.clone()),
                mpid: mpid.get(),
                drawn: *drawn,
            }),
            Change::Update(Update { key, patch, etag, create_as }) => {
                storage::command::Change::Update(storage::Update {
                    key: Some(key.into()),
                    patch: Some(patch.to_message()),
                    etag: etag.clone().map(Etag::into_string),
                    create_as: create_as.map(Mpid::get),
                })
            }
            Change::Delete(Delete { key, etag, allow_missing }) => storage::command::Change::Delete(storage::Delete {
                key: Some(key.into()),
                etag: etag.clone().map(Etag::into_string),
                allow_missing: *allow_missing,
            }),
            Change::Erase(_)
            | Change::EraseEvents(_)
            | Change::Identify(_)
            | Change::Merge(_)
            | Change::Unmerge(_)
            | Change::UpdateIdentitySettings(_)
            | Change::CreateAudience(_)
            | Change::DeleteAudience(_)
            | Change::ChangeMembers(_)
            | Change::WorkOnAudience(_)
            | Change::Expire(_) => people::encode(&self.change),
            Change::CreateSubscription(CreateSubscription { settings, start }) => {
                storage::command::Change::CreateSubscription(storage::CreateSubscription {
                    settings: Some(settings.message().clone()),
                    start: Some(encode_begin(*start)),
                })
            }
            Change::UpdateSubscription(UpdateSubscription { settings, paths }) => {
                let (settings, paths) = (Some(settings.message().clone()), paths.clone());
                storage::command::Change::UpdateSubscription(storage::UpdateSubscription { settings, paths })
            }
            Change::DeleteSubscription(DeleteSubscription { name, allow_missing }) => {
                let (name, allow_missing) = (name.to_string(), *allow_missing);
                storage::command::Change::DeleteSubscription(storage::DeleteSubscription { name, allow_missing })
            }
            Change::SeekSubscription(SeekSubscription { name, to }) => {
                let (name, to) = (name.to_string(), Some(encode_begin(*to)));
                storage::command::Change::SeekSubscription(storage::SeekSubscription { name, to })
            }
            Change::OpenStream(name) => {
                storage::command::Change::OpenStream(storage::OpenStream { name: name.to_string() })
            }
            Change::Acknowledge(acknowledge) => storage::command::Change::Acknowledge(encode_acknowledge(acknowledge)),
            Change::Trim(Trim { max_age, max_bytes, hold_age, hold_bytes, most }) => {
                storage::command::Change::Trim(storage::Trim {
                    max_age_micros: max_age.map(micros),
                    max_bytes: *max_bytes,
                    hold_age_micros: hold_age.map(micros),
                    hold_bytes: *hold_bytes,
                    most: *most as u64,
                })
            }
        };
        let message = storage::Command {
            workspace: self.workspace.as_str().to_owned(),
            time_micros: self.stamp.time.get(),
            uptime_micros: self.stamp.uptime.get(),
            event_id: self.stamp.event_id.as_bytes().to_vec(),
            actor: self.actor.clone(),
            request: self.request.as_ref().map(encode_request),
            silent: self.silent,
            validate_only: self.validate_only,
            limits: Some(encode_limits(&self.limits)),
            change: Some(change),
        };
        message.encode_to_vec()
    }

    /// The command with these bytes.
    ///
    /// # Errors
    /// [`Undecodable`] if the bytes are not a command.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let message = storage::Command::decode(bytes)?;
        let limits = decode_limits(&message.limits.ok_or(Undecodable::Field("limits"))?)?;
        let stamp = Stamp {
            time: Micros::new(message.time_micros),
            uptime: Micros::new(message.uptime_micros),
            event_id: Uuid::from_slice(&message.event_id).map_err(|_| Undecodable::Field("event_id"))?,
        };
        Ok(Self {
            workspace: Workspace::parse(&message.workspace)?,
            stamp,
            actor: message.actor,
            request: message.request.map(decode_request).transpose()?,
            silent: message.silent,
            validate_only: message.validate_only,
            limits,
            change: decode_change(message.change.ok_or(Undecodable::Field("change"))?, &limits)?,
        })
    }
}

fn decode_change(change: storage::command::Change, limits: &Limits) -> Result<Change, Undecodable> {
    Ok(match change {
        storage::command::Change::Create(create) => {
            let profile = create.profile.ok_or(Undecodable::Field("profile"))?;
            Change::Create(Create {
                profile: Box::new(NewProfile::parse(profile, limits)?),
                mpid: Mpid::parse("mpid", create.mpid)?,
                drawn: create.drawn,
            })
        }
        storage::command::Change::Update(update) => {
            let patch = update.patch.ok_or(Undecodable::Field("patch"))?;
            Change::Update(Update {
                key: ProfileKey::parse("key", update.key, limits)?,
                patch: Box::new(Patch::parse(patch, limits)?),
                etag: decode_etag(update.etag)?,
                create_as: update.create_as.map(|mpid| Mpid::parse("create_as", mpid)).transpose()?,
            })
        }
        storage::command::Change::Delete(delete) => Change::Delete(Delete {
            key: ProfileKey::parse("key", delete.key, limits)?,
            etag: decode_etag(delete.etag)?,
            allow_missing: delete.allow_missing,
        }),
        change @ (storage::command::Change::Erase(_)
        | storage::command::Change::EraseEvents(_)
        | storage::command::Change::Identify(_)
        | storage::command::Change::Merge(_)
        | storage::command::Change::Unmerge(_)
        | storage::command::Change::UpdateIdentitySettings(_)
        | storage::command::Change::CreateAudience(_)
        | storage::command::Change::DeleteAudience(_)
        | storage::command::Change::ChangeMembers(_)
        | storage::command::Change::WorkOnAudience(_)
        | storage::command::Change::Expire(_)) => people::decode(change, limits)?,
        storage::command::Change::CreateSubscription(create) => Change::CreateSubscription(CreateSubscription {
            settings: decode_settings(create.settings)?,
            start: decode_begin(create.start)?,
        }),
        storage::command::Change::UpdateSubscription(update) => {
            let (settings, paths) = (decode_settings(update.settings)?, update.paths);
            Change::UpdateSubscription(UpdateSubscription { settings, paths })
        }
        storage::command::Change::DeleteSubscription(delete) => Change::DeleteSubscription(DeleteSubscription {
            name: SubscriptionName::parse("name", &delete.name)?,
            allow_missing: delete.allow_missing,
        }),
        storage::command::Change::SeekSubscription(seek) => Change::SeekSubscription(SeekSubscription {
            name: SubscriptionName::parse("name", &seek.name)?,
            to: decode_begin(seek.to)?,
        }),
        storage::command::Change::OpenStream(open) => Change::OpenStream(SubscriptionName::parse("name", &open.name)?),
        storage::command::Change::Acknowledge(acknowledge) => Change::Acknowledge(decode_acknowledge(acknowledge)?),
        storage::command::Change::Trim(trim) => Change::Trim(Trim {
            max_age: trim.max_age_micros.map(Duration::from_micros),
            max_bytes: trim.max_bytes,
            hold_age: trim.hold_age_micros.map(Duration::from_micros),
            hold_bytes: trim.hold_bytes,
            most: usize::try_from(trim.most).map_err(|_| Undecodable::Field("most"))?,
        }),
    })
}

fn encode_begin(begin: Begin) -> storage::Begin {
    let begin = match begin {
        Begin::Now => storage::begin::Begin::Now(true),
        Begin::Earliest => storage::begin::Begin::Earliest(true),
        Begin::Snapshot => storage::begin::Begin::Snapshot(true),
        Begin::At(position) => storage::begin::Begin::At(encode_position(position)),
        Begin::Since(place) => storage::begin::Begin::Since(place.get()),
    };
    storage::Begin { begin: Some(begin) }
}

fn decode_begin(begin: Option<storage::Begin>) -> Result<Begin, Undecodable> {
    Ok(match begin.and_then(|begin| begin.begin).ok_or(Undecodable::Field("begin"))? {
        storage::begin::Begin::Now(_) => Begin::Now,
        storage::begin::Begin::Earliest(_) => Begin::Earliest,
        storage::begin::Begin::Snapshot(_) => Begin::Snapshot,
        storage::begin::Begin::At(position) => Begin::At(decode_position(position)),
        storage::begin::Begin::Since(place) => Begin::Since(Place::after(place)),
    })
}

fn encode_position(position: Position) -> storage::Position {
    let place = position.place().get();
    match position {
        Position::Log(_) => storage::Position { place, in_snapshot: false, after_mpid: 0 },
        Position::Snapshot { after, .. } => {
            storage::Position { place, in_snapshot: true, after_mpid: after.map_or(0, Mpid::get) }
        }
    }
}

fn decode_position(position: storage::Position) -> Position {
    let of = Place::after(position.place);
    if position.in_snapshot {
        Position::Snapshot { of, after: Mpid::new(position.after_mpid) }
    } else {
        Position::Log(of)
    }
}

fn decode_settings(settings: Option<v1::Subscription>) -> Result<Box<Settings>, Undecodable> {
    let settings = settings.ok_or(Undecodable::Field("settings"))?;
    Ok(Box::new(Settings::parse("settings", settings, None)?))
}

fn encode_acknowledge(acknowledge: &Acknowledge) -> storage::Acknowledge {
    let Acknowledge { name, stream, position, skipped } = acknowledge;
    let skip = |(sequence, reason): &(Sequence, String)| Skip { sequence: sequence.get(), reason: reason.clone() };
    storage::Acknowledge {
        name: name.to_string(),
        stream: *stream,
        position: Some(encode_position(*position)),
        skipped: skipped.iter().map(skip).collect(),
    }
}

fn decode_acknowledge(acknowledge: storage::Acknowledge) -> Result<Acknowledge, Undecodable> {
    let storage::Acknowledge { name, stream, position, skipped } = acknowledge;
    let skip = |Skip { sequence, reason }| Some((Sequence::new(sequence)?, reason));
    let skipped: Option<Vec<_>> = skipped.into_iter().map(skip).collect();
    Ok(Acknowledge {
        name: SubscriptionName::parse("name", &name)?,
        stream,
        position: decode_position(position.ok_or(Undecodable::Field("position"))?),
        skipped: skipped.ok_or(Undecodable::Field("skipped"))?,
    })
}

/// A longer time than a number of this type holds comes to the same: no event is as old.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn decode_etag(etag: Option<String>) -> Result<Option<Etag>, Invalid> {
    etag.map_or(Ok(None), Etag::parse)
}

fn encode_request(request: &RequestId) -> storage::RequestId {
    storage::RequestId { id: request.id.clone(), fingerprint: request.fingerprint.to_le_bytes().to_vec() }
}

fn decode_request(request: storage::RequestId) -> Result<RequestId, Undecodable> {
    let fingerprint = request.fingerprint.try_into().map_err(|_| Undecodable::Field("fingerprint"))?;
    let id = RequestId::parse(request.id)?.ok_or(Undecodable::Field("request"))?;
    Ok(RequestId { id, fingerprint: u128::from_le_bytes(fingerprint) })
}

fn encode_limits(limits: &Limits) -> storage::Limits {
    storage::Limits {
        profile_bytes: limits.profile_bytes as u64,
        attributes: limits.attributes as u64,
        attribute_key_bytes: limits.attribute_key_bytes as u64,
        attribute_value_bytes: limits.attribute_value_bytes as u64,
        identities: limits.identities as u64,
        identity_value_bytes: limits.identity_value_bytes as u64,
        audience_memberships: limits.audience_memberships as u64,
        attributions: limits.attributions as u64,
        workspaces: limits.workspaces as u64,
        subscriptions: limits.subscriptions as u64,
    }
}

/// Limits that do not apply to writes get their defaults: no command depends on them.
fn decode_limits(limits: &storage::Limits) -> Result<Limits, Undecodable> {
    // With every name, so that the compiler asks for a new limit here.
    let storage::Limits {
        profile_bytes,
        attributes,
        attribute_key_bytes,
        attribute_value_bytes,
        identities,
        identity_value_bytes,
        audience_memberships,
        attributions,
        workspaces,
        subscriptions,
    } = *limits;
    let number = |limit: u64| usize::try_from(limit).map_err(|_| Undecodable::Field("limits"));
    Ok(Limits {
        profile_bytes: number(profile_bytes)?,
        attributes: number(attributes)?,
        attribute_key_bytes: number(attribute_key_bytes)?,
        attribute_value_bytes: number(attribute_value_bytes)?,
        identities: number(identities)?,
        identity_value_bytes: number(identity_value_bytes)?,
        audience_memberships: number(audience_memberships)?,
        attributions: number(attributions)?,
        workspaces: number(workspaces)?,
        subscriptions: number(subscriptions)?,
        ..Limits::default()
    })
}
