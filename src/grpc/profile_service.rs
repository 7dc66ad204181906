//! `cameo.v1.ProfileService`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::codec::Encoded;
use super::server::profile_service_server::ProfileService;
use crate::model::cursor::CursorSpace;
use crate::model::{Invalid, Limits, Mask, Micros, Mpid, NewProfile, Patch, ProfileKey, Workspace, time, wire};
use crate::proto::v1::{
    CreateProfileRequest, DeleteProfileRequest, DeleteProfileResponse, GetProfileRequest, UpdateProfileRequest,
    WriteOutcome, delete_profile_request, get_profile_request, update_profile_request,
};
use crate::store::{Change, Command, RequestId, Store, StoreError, Written};

/// `profile` of all responses; `cursor` and `outcome` of those to writes.
const PROFILE: u32 = 1;
const CURSOR: u32 = 2;
const OUTCOME: u32 = 3;

/// The service.
#[derive(Debug, Clone)]
pub struct Profiles {
    store: Arc<Store>,
    limits: Limits,
}

/// What the writes have in common.
struct WriteRequest {
    workspace: Workspace,
    now: Micros,
    request: Option<RequestId>,
    validate_only: bool,
    bytes: usize,
}

impl Profiles {
    /// The service on a store.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits) -> Self {
        Self { store, limits }
    }

    fn get(&self, request: GetProfileRequest) -> Result<Encoded, Status> {
        let workspace = Workspace::parse(&request.workspace)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
        let key = match request.key.ok_or_else(ProfileKey::missing)? {
            get_profile_request::Key::Mpid(mpid) => ProfileKey::mpid(mpid)?,
            get_profile_request::Key::Identity(identity) => ProfileKey::identity(identity, &self.limits)?,
        };
        self.check_min_cursor(&workspace, &request.min_cursor)?;
        Ok(self.find(&workspace, &key, |profile| encode_found(profile, &mask))??)
    }

    /// Gives `read` the profile, as it is stored.
    fn find<T>(&self, workspace: &Workspace, key: &ProfileKey, read: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError> {
        let asked = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(_) => None,
        };
        let not_found = || StoreError::ProfileNotFound { mpid: asked };
        let workspace = self.store.workspace_id(workspace).ok_or_else(not_found)?;
        let snapshot = self.store.snapshot()?;
        let mpid = match key {
            ProfileKey::Mpid(mpid) => *mpid,
            ProfileKey::Identity(identity) => snapshot.owner(workspace, &identity.key)?.ok_or_else(not_found)?,
        };
        snapshot.profile(workspace, mpid, time::now(), read)?.ok_or_else(not_found)
    }

    /// A cursor that we gave is never ahead of what we read: it was given after its commit. So it is only checked.
    fn check_min_cursor(&self, workspace: &Workspace, cursor: &str) -> Result<(), Status> {
        if cursor.is_empty() {
            return Ok(());
        }
        let head = match self.store.workspace_id(workspace) {
            Some(id) => self.store.snapshot()?.log_bounds(id)?.head,
            None => 0,
        };
        self.cursors(workspace).parse("min_cursor", cursor, head)?;
        Ok(())
    }

    fn parse_create(&self, mut request: CreateProfileRequest) -> Result<Command, Invalid> {
        let write = WriteRequest::parse("CreateProfile", &mut request, |request| {
            (&request.workspace, std::mem::take(&mut request.request_id), request.validate_only)
        })?;
        let profile = request.profile.ok_or_else(|| Invalid::field("profile", "must be set"))?;
        let given = Mpid::new(profile.mpid);
        let profile = Box::new(NewProfile::parse(profile, &self.limits)?);
        let mpid = given.unwrap_or_else(Mpid::draw);
        Ok(write.command(Change::Create { profile, mpid, drawn: given.is_none() }))
    }

    fn parse_update(&self, mut request: UpdateProfileRequest) -> Result<Command, Invalid> {
        let write = WriteRequest::parse("UpdateProfile", &mut request, |request| {
            (&request.workspace, std::mem::take(&mut request.request_id), request.validate_only)
        })?;
        let key = match request.key.ok_or_else(ProfileKey::missing)? {
            update_profile_request::Key::Mpid(mpid) => ProfileKey::mpid(mpid)?,
            update_profile_request::Key::Identity(identity) => ProfileKey::identity(identity, &self.limits)?,
        };
        let patch = request.patch.ok_or_else(|| Invalid::field("patch", "must be set"))?;
        let patch = Box::new(Patch::parse(patch, &self.limits)?);
        let allow_missing = request.allow_missing.then(Mpid::draw);
        Ok(write.command(Change::Update { key, patch, etag: request.etag, allow_missing }))
    }

    fn parse_delete(&self, mut request: DeleteProfileRequest) -> Result<Command, Invalid> {
        let write = WriteRequest::parse("DeleteProfile", &mut request, |request| {
            (&request.workspace, std::mem::take(&mut request.request_id), request.validate_only)
        })?;
        let key = match request.key.ok_or_else(ProfileKey::missing)? {
            delete_profile_request::Key::Mpid(mpid) => ProfileKey::mpid(mpid)?,
            delete_profile_request::Key::Identity(identity) => ProfileKey::identity(identity, &self.limits)?,
        };
        let DeleteProfileRequest { etag, allow_missing, .. } = request;
        Ok(write.command(Change::Delete { key, etag, allow_missing }))
    }

    async fn write(&self, command: Command) -> Result<(Written, Option<String>), StoreError> {
        let cursors = self.cursors(&command.workspace);
        let preview = command.validate_only;
        let written = self.store.write(command).await?;
        let cursor = (!preview).then(|| cursors.at(written.sequence).to_string());
        Ok((written, cursor))
    }

    fn cursors(&self, workspace: &Workspace) -> CursorSpace {
        CursorSpace::new(self.store.log_id(), workspace)
    }
}

#[tonic::async_trait]
impl ProfileService for Profiles {
    async fn get_profile(&self, request: Request<GetProfileRequest>) -> Result<Response<Encoded>, Status> {
        self.get(request.into_inner()).map(Response::new)
    }

    async fn create_profile(&self, request: Request<CreateProfileRequest>) -> Result<Response<Encoded>, Status> {
        let command = self.parse_create(request.into_inner())?;
        let (written, cursor) = self.write(command).await?;
        Ok(Response::new(encode(written.profile, cursor.as_deref(), None)))
    }

    async fn update_profile(&self, request: Request<UpdateProfileRequest>) -> Result<Response<Encoded>, Status> {
        let command = self.parse_update(request.into_inner())?;
        let (written, cursor) = self.write(command).await?;
        Ok(Response::new(encode(written.profile, cursor.as_deref(), Some(written.outcome))))
    }

    async fn delete_profile(&self, request: Request<DeleteProfileRequest>) -> Result<Response<Encoded>, Status> {
        let command = self.parse_delete(request.into_inner())?;
        let (written, cursor) = self.write(command).await?;
        let outcome = written.outcome.into();
        let response = DeleteProfileResponse { cursor: cursor.unwrap_or_default(), outcome };
        Ok(Response::new(Encoded::new(&response)))
    }
}

impl WriteRequest {
    /// Takes the id out of the request first, so that its fingerprint is of the rest.
    fn parse<R: Message>(
        method: &str,
        request: &mut R,
        parts: impl FnOnce(&mut R) -> (&String, String, bool),
    ) -> Result<Self, Invalid> {
        let bytes = request.encoded_len();
        let (workspace, id, validate_only) = parts(request);
        let workspace = Workspace::parse(workspace)?;
        let request = RequestId::parse(id)?.map(|id| RequestId::new(id, method, request));
        Ok(Self { workspace, now: time::now(), request, validate_only, bytes })
    }

    fn command(self, change: Change) -> Command {
        Command {
            workspace: self.workspace,
            time: self.now,
            event_id: Uuid::now_v7(),
            actor: String::new(),
            request: self.request,
            validate_only: self.validate_only,
            change,
            request_bytes: self.bytes,
        }
    }
}

/// A `GetProfileResponse`: the profile as it is stored, or cut by a mask. Either way it is not decoded.
fn encode_found(profile: &[u8], mask: &Mask) -> Result<Encoded, StoreError> {
    let cut;
    let profile = if mask.is_all() {
        profile
    } else {
        cut = mask.cut_profile(profile).map_err(|_| StoreError::Corrupt { table: "profile" })?;
        &cut
    };
    let mut message = Vec::with_capacity(wire::delimited_len(PROFILE, profile.len()));
    wire::put_delimited(PROFILE, profile, &mut message);
    Ok(message.into())
}

/// A `CreateProfileResponse` or an `UpdateProfileResponse`, around a profile that is encoded already.
fn encode(profile: Option<Bytes>, cursor: Option<&str>, outcome: Option<WriteOutcome>) -> Encoded {
    let mut message = Vec::with_capacity(profile.as_ref().map_or(0, Bytes::len) + 64);
    if let Some(profile) = profile {
        wire::put_delimited(PROFILE, &profile, &mut message);
    }
    if let Some(cursor) = cursor {
        wire::put_delimited(CURSOR, cursor.as_bytes(), &mut message);
    }
    if let Some(outcome) = outcome {
        prost::encoding::int32::encode(OUTCOME, &outcome.into(), &mut message);
    }
    message.into()
}
