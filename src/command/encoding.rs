//! Encodes commands as bytes and decodes them. Decoding parses like a request, into types that are valid by
//! construction.

use prost::Message;
use uuid::Uuid;

use super::{Change, Command, Create, Delete, RequestId, Stamp, Update};
use crate::model::{Etag, Invalid, Limits, Micros, Mpid, NewProfile, Patch, ProfileKey, Workspace};
use crate::proto::storage;

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
    })
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
        ..Limits::default()
    })
}
