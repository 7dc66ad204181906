//! `cameo.v1.ProfileService`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::codec::Encoded;
use super::page::Page;
use super::server::profile_service_server::ProfileService;
use super::{import, status};
use crate::model::cursor::CursorSpace;
use crate::model::identity::ParsedIdentity;
use crate::model::limits::IMPORTS;
use crate::model::{
    Invalid, Limits, Mask, Micros, Mpid, NewProfile, Patch, ProfileKey, Workspace, page_token, time, wire,
};
use crate::proto::field::{
    batch_get_profiles_response::RESULTS,
    batch_get_profiles_result::{ERROR, FOUND},
    create_profile_response, get_profile_response,
    list_profiles_response::{NEXT_PAGE_TOKEN, PROFILES},
    update_profile_response,
};
use crate::proto::v1::{
    self as pb, BatchGetProfilesRequest, CreateProfileRequest, DeleteProfileRequest, DeleteProfileResponse,
    GetProfileRequest, ImportProfilesRequest, ListProfilesRequest, UpdateProfileRequest, WriteOutcome,
    delete_profile_request, get_profile_request, profile_key, update_profile_request,
};
use crate::store::{Change, Command, RequestId, Snapshot, Store, StoreError, WorkspaceId, Written};

/// The service.
#[derive(Debug, Clone)]
pub struct Profiles {
    pub(super) store: Arc<Store>,
    pub(super) limits: Limits,
    /// Cancelled when the server shuts down.
    pub(super) stop: CancellationToken,
    /// A permit for each that may run.
    pub(super) imports: Arc<Semaphore>,
}

/// What the writes have in common.
pub(super) struct WriteRequest {
    pub workspace: Workspace,
    pub now: Micros,
    pub request: Option<RequestId>,
    pub silent: bool,
    pub validate_only: bool,
    pub bytes: usize,
}

/// A parsed `BatchGetProfilesRequest`.
struct Batch {
    workspace: Workspace,
    keys: Vec<Result<ProfileKey, Invalid>>,
    mask: Mask,
}

/// A parsed `ListProfilesRequest`.
struct List {
    workspace: Workspace,
    after: Option<Mpid>,
    mask: Mask,
    page_size: usize,
}

impl Profiles {
    /// The service on a store, until `stop` is cancelled: that ends the imports.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits, stop: CancellationToken) -> Self {
        Self { store, limits, stop, imports: Arc::new(Semaphore::new(IMPORTS)) }
    }

    fn get(&self, request: GetProfileRequest) -> Result<Encoded, Status> {
        let workspace = Workspace::parse(&request.workspace)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
        let key = match request.key.ok_or_else(ProfileKey::missing)? {
            get_profile_request::Key::Mpid(mpid) => ProfileKey::mpid(mpid)?,
            get_profile_request::Key::Identity(identity) => ProfileKey::identity(identity, &self.limits)?,
        };
        self.check_min_cursor(&workspace, &request.min_cursor)?;
        self.store.find(&workspace, &key, time::now(), |profile| encode_found(profile, &mask))?.map_err(Status::from)
    }

    fn parse_batch(&self, request: BatchGetProfilesRequest) -> Result<Batch, Status> {
        let workspace = Workspace::parse(&request.workspace)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
        if request.keys.is_empty() {
            return Err(Invalid::field("keys", "must not be empty").into());
        }
        Invalid::limit("keys", "keys", self.limits.batch_keys, request.keys.len())?;
        let keys = request.keys.into_iter().enumerate();
        let keys = keys.map(|(index, key)| parse_key(&format!("keys[{index}]"), key, &self.limits)).collect();
        self.check_min_cursor(&workspace, &request.min_cursor)?;
        Ok(Batch { workspace, keys, mask })
    }

    fn parse_list(&self, request: ListProfilesRequest) -> Result<List, Invalid> {
        if request.audience_id != 0 {
            return Err(Invalid::field("audience_id", "is not offered by this version"));
        }
        let workspace = Workspace::parse(&request.workspace)?;
        Ok(List {
            after: page_token::parse(&workspace, &request.page_token)?,
            workspace,
            mask: Mask::parse(request.read_mask, request.user_attribute_keys)?,
            page_size: self.limits.page_size(request.page_size)?,
        })
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

    async fn batch_get_profiles(&self, request: Request<BatchGetProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let batch = self.parse_batch(request.into_inner())?;
        let (store, limit) = (Arc::clone(&self.store), self.limits.answer_bytes);
        off_the_loop(move || get_batch(&store, &batch, limit)).await
    }

    async fn list_profiles(&self, request: Request<ListProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let list = self.parse_list(request.into_inner())?;
        let (store, page) = (Arc::clone(&self.store), Page::new(PROFILES, list.page_size, &self.limits));
        off_the_loop(move || list_profiles(&store, &list, page).map_err(Status::from)).await
    }

    async fn import_profiles(
        &self,
        request: Request<Streaming<ImportProfilesRequest>>,
    ) -> Result<Response<Encoded>, Status> {
        let answer = import::run(self, request.into_inner()).await?;
        Ok(Response::new(Encoded::new(&answer)))
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
        Ok(Self { workspace, now: time::now(), request, silent: false, validate_only, bytes })
    }

    pub fn command(self, change: Change) -> Command {
        Command {
            workspace: self.workspace,
            time: self.now,
            event_id: Uuid::now_v7(),
            actor: String::new(),
            request: self.request,
            silent: self.silent,
            validate_only: self.validate_only,
            change,
            request_bytes: self.bytes,
        }
    }
}

/// Parses a `ProfileKey`.
pub(super) fn parse_key(field: &str, key: pb::ProfileKey, limits: &Limits) -> Result<ProfileKey, Invalid> {
    match key.key {
        Some(profile_key::Key::Mpid(mpid)) => Mpid::parse(&format!("{field}.mpid"), mpid).map(ProfileKey::Mpid),
        Some(profile_key::Key::Identity(identity)) => {
            ParsedIdentity::parse(&format!("{field}.identity"), identity, limits).map(ProfileKey::Identity)
        }
        None => Err(Invalid::field(field, "either mpid or identity must be set")),
    }
}

/// For a read that may ask the disk for much: not on a thread that serves others.
async fn off_the_loop(
    read: impl FnOnce() -> Result<Encoded, Status> + Send + 'static,
) -> Result<Response<Encoded>, Status> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(StoreError::Closed.into())).map(Response::new)
}

/// A `BatchGetProfilesResponse`, all of one snapshot.
fn get_batch(store: &Store, batch: &Batch, limit: usize) -> Result<Encoded, Status> {
    let (snapshot, now) = (store.snapshot()?, time::now());
    let workspace = store.workspace_id(&batch.workspace);
    let mut message = Vec::new();
    for key in &batch.keys {
        if let Err(error) = put_result(&snapshot, workspace, key, &batch.mask, now, limit, &mut message) {
            put_nested(ERROR, error.details(), &mut message); // An encoded google.rpc.Status.
        }
    }
    Ok(message.into())
}

/// Writes what was found.
fn put_result(
    snapshot: &Snapshot,
    workspace: Option<WorkspaceId>,
    key: &Result<ProfileKey, Invalid>,
    mask: &Mask,
    now: Micros,
    limit: usize,
    message: &mut Vec<u8>,
) -> Result<(), Status> {
    let key = key.as_ref().map_err(|invalid| Status::from(invalid.clone()))?;
    let workspace = workspace.ok_or_else(|| StoreError::not_found(key))?;
    snapshot.find(workspace, key, now, |profile| {
        let profile = mask.profile(profile).map_err(|_| StoreError::Corrupt { table: "profile" })?;
        let found = message.len() + profile.len();
        if found > limit && !message.is_empty() {
            return Err(status::answer_full(limit, found));
        }
        put_nested(FOUND, &profile, message);
        Ok(())
    })?
}

/// Writes a result with this one field.
fn put_nested(field: u32, value: &[u8], message: &mut Vec<u8>) {
    wire::put_delimited_header(RESULTS, wire::delimited_len(field, value.len()), message);
    wire::put_delimited(field, value, message);
}

/// A `ListProfilesResponse`.
fn list_profiles(store: &Store, list: &List, mut page: Page) -> Result<Encoded, StoreError> {
    let next = match store.workspace_id(&list.workspace) {
        Some(workspace) => {
            let snapshot = store.snapshot()?;
            snapshot.profiles(workspace, list.after, time::now(), |profile| page.push(list.mask.profile(profile)))?
        }
        None => None,
    };
    let mut message = page.finish().map_err(|_| StoreError::Corrupt { table: "profile" })?;
    if let Some(last) = next {
        let token = page_token::encode(&list.workspace, last);
        wire::put_delimited(NEXT_PAGE_TOKEN, token.as_bytes(), &mut message);
    }
    Ok(message.into())
}

/// A `GetProfileResponse`: the profile as it is stored, or cut by a mask. Either way it is not decoded.
fn encode_found(profile: &[u8], mask: &Mask) -> Result<Encoded, StoreError> {
    let profile = mask.profile(profile).map_err(|_| StoreError::Corrupt { table: "profile" })?;
    let mut message = Vec::with_capacity(wire::delimited_len(get_profile_response::PROFILE, profile.len()));
    wire::put_delimited(get_profile_response::PROFILE, &profile, &mut message);
    Ok(message.into())
}

/// A `CreateProfileResponse` or an `UpdateProfileResponse`, around a profile that is encoded already.
fn encode(profile: Option<Bytes>, cursor: Option<&str>, outcome: Option<WriteOutcome>) -> Encoded {
    use update_profile_response::{CURSOR, OUTCOME, PROFILE};
    // The two are alike in the fields that both have.
    const { assert!(create_profile_response::PROFILE == PROFILE && create_profile_response::CURSOR == CURSOR) };
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
