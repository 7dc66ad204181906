//! `cameo.v1.ProfileService`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::codec::Encoded;
use super::server::profile_service_server::ProfileService;
use super::{import, status};
use crate::command::{Change, Command, Create, Delete, RequestId, Update};
use crate::model::limits::IMPORTS;
use crate::model::page_token::{self, PageStart};
use crate::model::{Etag, Invalid, Limits, Mask, Mpid, NewProfile, Patch, Place, ProfileKey, Workspace, wire};
use crate::proto::field::{
    batch_get_profiles_response::RESULTS,
    batch_get_profiles_result::{ERROR, FOUND},
    create_profile_response, get_profile_response,
    list_profiles_response::{NEXT_PAGE_TOKEN, PROFILES},
    update_profile_response,
};
use crate::proto::v1::{
    BatchGetProfilesRequest, CreateProfileRequest, DeleteProfileRequest, DeleteProfileResponse, GetProfileRequest,
    ImportProfilesRequest, ListProfilesRequest, UpdateProfileRequest, WriteOutcome,
};
use crate::store::{Lookups, PageSize, Past, Store, StoreError, Written};

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
    pub request: Option<RequestId>,
    pub silent: bool,
    pub validate_only: bool,
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
    start: PageStart,
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
        let key = ProfileKey::parse("key", request.key, &self.limits)?;
        self.check_min_cursor(&workspace, &request.min_cursor)?;
        self.store.find(&workspace, &key, |profile| encode_found(profile, &mask))?.map_err(Status::from)
    }

    fn parse_batch(&self, request: BatchGetProfilesRequest) -> Result<Batch, Status> {
        let workspace = Workspace::parse(&request.workspace)?;
        let mask = Mask::parse(request.read_mask, request.user_attribute_keys)?;
        if request.keys.is_empty() {
            return Err(Invalid::field("keys", "must not be empty").into());
        }
        Invalid::limit("keys", "keys", self.limits.batch_keys, request.keys.len())?;
        let keys = request.keys.into_iter().enumerate();
        let keys = keys
            .map(|(index, key)| ProfileKey::parse(format_args!("keys[{index}]"), Some(key), &self.limits))
            .collect();
        self.check_min_cursor(&workspace, &request.min_cursor)?;
        Ok(Batch { workspace, keys, mask })
    }

    fn parse_list(&self, request: ListProfilesRequest) -> Result<List, Invalid> {
        if request.audience_id != 0 {
            return Err(Invalid::field("audience_id", "is not offered by this version"));
        }
        let workspace = Workspace::parse(&request.workspace)?;
        Ok(List {
            start: page_token::parse(&workspace, &request.page_token)?,
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
            None => Place::START,
        };
        self.store.cursors(workspace).parse("min_cursor", cursor, head)?;
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
        Ok(write.command(self, Change::Create(Create { profile, mpid, drawn: given.is_none() })))
    }

    fn parse_update(&self, mut request: UpdateProfileRequest) -> Result<Command, Invalid> {
        let write = WriteRequest::parse("UpdateProfile", &mut request, |request| {
            (&request.workspace, std::mem::take(&mut request.request_id), request.validate_only)
        })?;
        let key = ProfileKey::parse("key", request.key, &self.limits)?;
        let patch = request.patch.ok_or_else(|| Invalid::field("patch", "must be set"))?;
        let patch = Box::new(Patch::parse(patch, &self.limits)?);
        let (etag, create_as) = (Etag::parse(request.etag)?, request.allow_missing.then(Mpid::draw));
        Ok(write.command(self, Change::Update(Update { key, patch, etag, create_as })))
    }

    fn parse_delete(&self, mut request: DeleteProfileRequest) -> Result<Command, Invalid> {
        let write = WriteRequest::parse("DeleteProfile", &mut request, |request| {
            (&request.workspace, std::mem::take(&mut request.request_id), request.validate_only)
        })?;
        let key = ProfileKey::parse("key", request.key, &self.limits)?;
        let (etag, allow_missing) = (Etag::parse(request.etag)?, request.allow_missing);
        Ok(write.command(self, Change::Delete(Delete { key, etag, allow_missing })))
    }

    async fn write(&self, command: Command) -> Result<(Written, Option<String>), StoreError> {
        let cursors = self.store.cursors(&command.workspace);
        let written = self.store.write(command).await?;
        let cursor = written.place.map(|place| cursors.at(place).to_string());
        Ok((written, cursor))
    }
}

#[tonic::async_trait]
impl ProfileService for Profiles {
    async fn get_profile(&self, request: Request<GetProfileRequest>) -> Result<Response<Encoded>, Status> {
        self.get(request.into_inner()).map(Response::new)
    }

    async fn batch_get_profiles(&self, request: Request<BatchGetProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let batch = self.parse_batch(request.into_inner())?;
        let limit = self.limits.response_bytes;
        self.store.on_read_pool(move |store| get_batch(store, &batch, limit)).await.map(Response::new)
    }

    async fn list_profiles(&self, request: Request<ListProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let list = self.parse_list(request.into_inner())?;
        let size = PageSize { items: list.page_size, bytes: self.limits.response_bytes };
        self.store.on_read_pool(move |store| list_profiles(store, &list, size)).await.map(Response::new)
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
        let (workspace, id, validate_only) = parts(request);
        let workspace = Workspace::parse(workspace)?;
        let request = RequestId::parse(id)?.map(|id| RequestId::new(id, method, request));
        Ok(Self { workspace, request, silent: false, validate_only })
    }

    pub fn command(self, profiles: &Profiles, change: Change) -> Command {
        Command {
            workspace: self.workspace,
            stamp: profiles.store.stamp(),
            actor: None,
            request: self.request,
            silent: self.silent,
            validate_only: self.validate_only,
            limits: profiles.limits,
            change,
        }
    }
}

/// A `BatchGetProfilesResponse`, all of one state.
fn get_batch(store: &Store, batch: &Batch, limit: usize) -> Result<Encoded, Status> {
    let lookups = store.lookups(&batch.workspace)?;
    let mut message = Vec::new();
    for key in &batch.keys {
        if let Err(error) = put_result(&lookups, key, &batch.mask, limit, &mut message) {
            put_nested(ERROR, error.details(), &mut message); // An encoded google.rpc.Status.
        }
    }
    Ok(message.into())
}

/// Writes what was found.
fn put_result(
    lookups: &Lookups,
    key: &Result<ProfileKey, Invalid>,
    mask: &Mask,
    limit: usize,
    message: &mut Vec<u8>,
) -> Result<(), Status> {
    let key = key.as_ref().map_err(|invalid| Status::from(invalid.clone()))?;
    lookups.find(key, |profile| {
        let profile = mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
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
fn list_profiles(store: &Store, list: &List, size: PageSize) -> Result<Encoded, Status> {
    let mut message = Vec::new();
    let page = store.list_profiles(&list.workspace, list.start, size, |profile| {
        let profile = list.mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
        wire::put_delimited(PROFILES, &profile, &mut message);
        Ok(profile.len())
    });
    let token = |start| page_token::encode(&list.workspace, start);
    let next = page.map_err(|error| match error {
        StoreError::Corrupt { table, past: Some(Past::Profile) } => {
            status::list_damaged(table, token(PageStart { over_damage: true, ..list.start }))
        }
        other => other.into(),
    })?;
    if let Some(last) = next {
        wire::put_delimited(NEXT_PAGE_TOKEN, token(PageStart::after(last)).as_bytes(), &mut message);
    }
    Ok(message.into())
}

/// A `GetProfileResponse`: the profile as it is stored, or cut by a mask. Either way it is not decoded.
fn encode_found(profile: &[u8], mask: &Mask) -> Result<Encoded, StoreError> {
    let profile = mask.profile(profile).map_err(|_| StoreError::corrupt("profile"))?;
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
