//! The writes of one profile: each request becomes a command, and what was written becomes its response.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::super::codec::Encoded;
use super::super::large;
use crate::call::Call;
use crate::command::{Change, Command, Create, Delete, Erase, Identify, RequestId, Update};
use crate::model::limits::ERASED_EVENTS;
use crate::model::{Etag, Invalid, Limits, Mpid, NewProfile, Patch, ProfileKey, Workspace, wire};
use crate::proto::field::{
    create_profile_response, identify_profile_response, merge_profiles_response, update_profile_response,
};
use crate::proto::v1::{
    CreateProfileRequest, DeleteProfileRequest, EraseProfileRequest, EraseProfileResponse, ImportProfilesRequest,
    OnConflict, ProfilePatch, UpdateProfileRequest, WriteOutcome,
};
use crate::refusal::Refusal;
use crate::store::{Store, Written};

/// The fields that all write requests share.
pub(in crate::grpc) trait WriteRequest: Message {
    /// The RPC, as it goes into the fingerprint of a request. It must not change: stored fingerprints hold it.
    const FINGERPRINT: &'static str;

    fn workspace(&self) -> &str;
    fn take_request_id(&mut self) -> String;
    fn silent(&self) -> bool;
    fn validate_only(&self) -> bool;
}

/// A request without `silent` is never silent.
macro_rules! write_request {
    ($request:ty, $method:literal, silent: $silent:expr) => {
        impl WriteRequest for $request {
            const FINGERPRINT: &'static str = $method;

            fn workspace(&self) -> &str {
                &self.workspace
            }

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }

            fn silent(&self) -> bool {
                let silent: fn(&Self) -> bool = $silent;
                silent(self)
            }

            fn validate_only(&self) -> bool {
                self.validate_only
            }
        }
    };
}
pub(in crate::grpc) use write_request;

write_request!(CreateProfileRequest, "CreateProfile", silent: |_| false);
write_request!(UpdateProfileRequest, "UpdateProfile", silent: |_| false);
write_request!(DeleteProfileRequest, "DeleteProfile", silent: |_| false);
write_request!(EraseProfileRequest, "EraseProfile", silent: |_| false);
write_request!(ImportProfilesRequest, "ImportProfiles", silent: |request| request.silent);

/// A parsed write request.
pub(in crate::grpc) struct Write {
    workspace: Workspace,
    request: Option<RequestId>,
    silent: bool,
    validate_only: bool,
    change: Change,
}

impl Write {
    /// Parses a request that names its own workspace. `change` parses what only this kind of request has.
    pub fn parse<R: WriteRequest>(
        request: R,
        change: impl FnOnce(R) -> Result<Change, Invalid>,
    ) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(request.workspace())?;
        Self::within(workspace, request, change)
    }

    /// Parses a request in a known workspace. The id is taken out of the request first, so that its fingerprint is of
    /// everything else.
    pub fn within<R: WriteRequest>(
        workspace: Workspace,
        request: R,
        change: impl FnOnce(R) -> Result<Change, Invalid>,
    ) -> Result<Self, Invalid> {
        large::apart(request.encoded_len(), || Self::check(workspace, request, change))
    }

    fn check<R: WriteRequest>(
        workspace: Workspace,
        mut request: R,
        change: impl FnOnce(R) -> Result<Change, Invalid>,
    ) -> Result<Self, Invalid> {
        let id = RequestId::parse(request.take_request_id())?;
        Ok(Self {
            workspace,
            request: id.map(|id| RequestId::new(id, R::FINGERPRINT, &request)),
            silent: request.silent(),
            validate_only: request.validate_only(),
            change: change(request)?,
        })
    }

    pub fn create(request: CreateProfileRequest, limits: &Limits) -> Result<Self, Invalid> {
        Self::parse(request, |request| {
            let profile = request.profile.ok_or_else(|| Invalid::field("profile", "must be set"))?;
            let given = Mpid::new(profile.mpid);
            let profile = Box::new(NewProfile::parse(profile, limits)?);
            Ok(Change::Create(Create { profile, mpid: given.unwrap_or_else(Mpid::draw), drawn: given.is_none() }))
        })
    }

    pub fn update(request: UpdateProfileRequest, limits: &Limits) -> Result<Self, Invalid> {
        Self::parse(request, |request| {
            Ok(Change::Update(Update {
                key: ProfileKey::parse("key", request.key, limits)?,
                patch: parse_patch(request.patch, limits)?,
                etag: Etag::parse(request.etag)?,
                create_as: request.allow_missing.then(Mpid::draw),
            }))
        })
    }

    pub fn delete(request: DeleteProfileRequest, limits: &Limits) -> Result<Self, Invalid> {
        Self::parse(request, |request| {
            Ok(Change::Delete(Delete {
                key: ProfileKey::parse("key", request.key, limits)?,
                etag: Etag::parse(request.etag)?,
                allow_missing: request.allow_missing,
            }))
        })
    }

    pub fn erase(request: EraseProfileRequest, limits: &Limits) -> Result<Self, Invalid> {
        Self::parse(request, |request| {
            Ok(Change::Erase(Erase {
                key: ProfileKey::parse("key", request.key, limits)?,
                etag: Etag::parse(request.etag)?,
                allow_missing: request.allow_missing,
                most: ERASED_EVENTS,
                begun: None,
            }))
        })
    }

    /// The mpid that an update names: the profile that it changes is another if that one was absorbed.
    pub fn redirects(&self) -> Option<Mpid> {
        match &self.change {
            Change::Update(Update { key: ProfileKey::Mpid(mpid), .. }) => Some(*mpid),
            _ => None,
        }
    }

    /// A change that no caller can repeat, and that is not validated only.
    pub fn of(workspace: Workspace, change: Change) -> Self {
        Self { workspace, request: None, silent: false, validate_only: false, change }
    }

    /// The workspace to write to.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The call of `IdentifyProfile` that it is, if it has no request id.
    pub fn identify(&self) -> Option<&Identify> {
        match &self.change {
            Change::Identify(identify) if self.request.is_none() => Some(identify),
            _ => None,
        }
    }

    /// Whether it may merge profiles.
    pub fn may_merge(&self) -> bool {
        matches!(&self.change, Change::Identify(Identify { on_conflict: OnConflict::Merge, .. }))
    }

    /// Whether nothing is to be written.
    pub fn validate_only(&self) -> bool {
        self.validate_only
    }

    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.change.weight()
    }

    pub fn command(self, call: &Call, store: &Store, limits: &Limits) -> Command {
        Command {
            workspace: self.workspace,
            stamp: store.stamp(),
            actor: call.actor().map(str::to_owned),
            request: self.request,
            silent: self.silent,
            validate_only: self.validate_only,
            limits: *limits,
            change: self.change,
        }
    }

    /// Writes as [`Self::run`] does. An erasure may take several commands.
    pub async fn erase_with(
        self,
        call: &Call,
        store: &Arc<Store>,
        limits: &Limits,
    ) -> Result<(Written, Option<String>), Refusal> {
        let Change::Erase(erase) = &self.change else { return self.run(call, store, limits).await };
        call.within(&self.workspace)?;
        let command = |change| {
            let (workspace, request) = (self.workspace.clone(), self.request.clone());
            Self { workspace, request, change, ..self }.command(call, store, limits)
        };
        let written = store.erase(erase, command).await.map_err(|error| call.refuse(error))?;
        call.wrote(written.place.filter(|_| has_event(&written)));
        let cursors = store.cursors(&self.workspace);
        let cursor = written.place.map(|place| cursors.at(place).to_string());
        Ok((written, cursor))
    }

    /// Writes, and returns what was written with the cursor of its event.
    pub async fn run(self, call: &Call, store: &Store, limits: &Limits) -> Result<(Written, Option<String>), Refusal> {
        call.within(&self.workspace)?;
        let cursors = store.cursors(&self.workspace);
        let written = store.write(self.command(call, store, limits)).await.map_err(|error| call.refuse(error))?;
        call.wrote(written.place.filter(|_| has_event(&written)));
        let cursor = written.place.map(|place| cursors.at(place).to_string());
        Ok((written, cursor))
    }
}

/// Whether a write made an event. That of a subscription or an audience made none.
pub(super) fn has_event(written: &Written) -> bool {
    use WriteOutcome::{Created, Deleted, Erased, Unchanged, Unspecified, Updated};
    match written.outcome {
        Created | Updated | Deleted | Erased => written.mpid.is_some(),
        Unchanged | Unspecified => false,
    }
}

/// Parses the required `patch` of a request.
pub(in crate::grpc) fn parse_patch(patch: Option<ProfilePatch>, limits: &Limits) -> Result<Box<Patch>, Invalid> {
    let patch = patch.ok_or_else(|| Invalid::field("patch", "must be set"))?;
    Patch::parse(patch, limits).map(Box::new)
}

/// A response around a profile that is encoded already: that of `CreateProfile`, `UpdateProfile`, `IdentifyProfile` or
/// `MergeProfiles`, and of `CreateProfile` only with the detail that all of them have.
pub(in crate::grpc) fn profile_response(
    written: &Written,
    cursor: Option<&str>,
    outcome: Option<WriteOutcome>,
) -> Encoded {
    profile_message(written, cursor, outcome).into()
}

/// An `UpdateProfileResponse`. `named` is the mpid that the request names, if it names one.
pub(super) fn update_response(written: &Written, cursor: Option<&str>, named: Option<Mpid>) -> Encoded {
    let mut message = profile_message(written, cursor, Some(written.outcome));
    if let Some(named) = named.filter(|named| Some(*named) != written.mpid) {
        prost::encoding::int64::encode(update_profile_response::REDIRECTED_FROM, &named.get(), &mut message);
    }
    message.into()
}

fn profile_message(written: &Written, cursor: Option<&str>, outcome: Option<WriteOutcome>) -> Vec<u8> {
    use update_profile_response::{CURSOR, OUTCOME, PROFILE};
    // The responses have the same numbers for the fields that all have.
    const { assert!(create_profile_response::PROFILE == PROFILE && create_profile_response::CURSOR == CURSOR) };
    const { assert!(identify_profile_response::PROFILE == PROFILE && identify_profile_response::CURSOR == CURSOR) };
    const { assert!(identify_profile_response::OUTCOME == OUTCOME) };
    const { assert!(merge_profiles_response::PROFILE == PROFILE && merge_profiles_response::CURSOR == CURSOR) };
    let profile = written.profile.as_ref();
    let mut message = Vec::with_capacity(profile.map_or(0, Bytes::len) + written.detail.len() + 64);
    if let Some(profile) = profile {
        wire::put_delimited(PROFILE, profile, &mut message);
    }
    if let Some(cursor) = cursor {
        wire::put_delimited(CURSOR, cursor.as_bytes(), &mut message);
    }
    if let Some(outcome) = outcome {
        prost::encoding::int32::encode(OUTCOME, &outcome.into(), &mut message);
    }
    message.extend_from_slice(&written.detail);
    message
}

/// An `EraseProfileResponse`.
pub(super) fn erase_response(written: &Written, cursor: Option<String>) -> Encoded {
    let response = EraseProfileResponse {
        cursor: cursor.unwrap_or_default(),
        outcome: written.outcome.into(),
        ..EraseProfileResponse::default()
    };
    let mut message = response.encode_to_vec();
    message.extend_from_slice(&written.detail);
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Profile, ProfileKey, profile_key};

    fn fingerprint(write: &Write) -> u128 {
        write.request.as_ref().unwrap().fingerprint
    }

    /// Stores hold fingerprints: a retry must match the one that an earlier version computed. The expected values are
    /// XXH3 hashes, by another program, of the RPC's name, a zero byte and the encoded request without its id.
    #[test]
    fn the_fingerprint_of_a_request_does_not_change() {
        let limits = Limits::default();
        let (workspace, request_id) = (String::from("a/b/c"), String::from("r"));
        let key = Some(ProfileKey { key: Some(profile_key::Key::Mpid(1)) });
        let patch = Some(ProfilePatch::default());

        let profile = Some(Profile { mpid: 1, ..Profile::default() });
        let request = CreateProfileRequest {
            workspace: workspace.clone(),
            profile,
            request_id: request_id.clone(),
            ..Default::default()
        };
        assert_eq!(fingerprint(&Write::create(request, &limits).unwrap()), 0x16ef_fe99_a3f2_a96e_3db5_e77d_c322_5a2b);

        let request = UpdateProfileRequest {
            workspace: workspace.clone(),
            key: key.clone(),
            patch: patch.clone(),
            request_id: request_id.clone(),
            ..Default::default()
        };
        assert_eq!(fingerprint(&Write::update(request, &limits).unwrap()), 0x2508_9e4b_82be_98ee_ac38_3f3a_dea0_ed89);

        let request = DeleteProfileRequest { workspace, key, request_id, ..Default::default() };
        assert_eq!(fingerprint(&Write::delete(request, &limits).unwrap()), 0x4c5f_962f_79c5_b11f_a091_1674_4ad8_4aa9);
    }
}
