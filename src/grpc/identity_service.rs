//! `cameo.v1.IdentityService`.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};

use super::codec::Encoded;
use super::profile_service::write::{Write, WriteRequest, parse_patch, profile_response, write_request};
use super::server::identity_service_server::IdentityService;
use crate::auth::Role;
use crate::call::Call;
use crate::command::{Change, Identify, Merge, Unmerge, UpdateIdentitySettings};
use crate::model::identity::ParsedIdentity;
use crate::model::{Etag, IdentitySettings, Invalid, Limits, Mpid, ProfileKey, Workspace, wire};
use crate::proto::field::{identify_profile_response, unmerge_profiles_response};
use crate::proto::v1::{
    self, GetIdentitySettingsRequest, GetIdentitySettingsResponse, IdentifyProfileRequest, MergeProfilesRequest,
    OnConflict, UnmergeProfilesRequest, UpdateIdentitySettingsRequest, WriteOutcome,
};
use crate::refusal::Refusal;
use crate::store::{Identified, ReadClass, Store};

write_request!(IdentifyProfileRequest, "IdentifyProfile", silent: |_| false);
write_request!(MergeProfilesRequest, "MergeProfiles", silent: |_| false);
write_request!(UnmergeProfilesRequest, "UnmergeProfiles", silent: |_| false);
write_request!(UpdateIdentitySettingsRequest, "UpdateIdentitySettings", silent: |_| false);

/// The service.
#[derive(Debug, Clone)]
pub struct Identities {
    store: Arc<Store>,
    limits: Limits,
}

impl Identities {
    /// The service on a store.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits) -> Self {
        Self { store, limits }
    }

    fn parse_identify(&self, request: IdentifyProfileRequest) -> Result<Write, Invalid> {
        Write::parse(request, |request| {
            let on_conflict = OnConflict::try_from(request.on_conflict);
            let on_conflict = on_conflict.map_err(|_| Invalid::field("on_conflict", "is no value of OnConflict"))?;
            let patch = parse_patch(Some(request.patch.unwrap_or_default()), &self.limits)?;
            if let Some(field) = patch.changes_identities() {
                return Err(Invalid::field(field, "must not be set: identities has what is to be linked"));
            }
            if request.identities.is_empty() {
                return Err(Invalid::field("identities", "must not be empty"));
            }
            Ok(Change::Identify(Identify {
                identities: ParsedIdentity::parse_all("identities", request.identities, &self.limits)?,
                patch,
                on_conflict: if on_conflict == OnConflict::Unspecified { OnConflict::Keep } else { on_conflict },
                create_as: Mpid::draw(),
            }))
        })
    }

    fn parse_merge(&self, request: MergeProfilesRequest) -> Result<Write, Invalid> {
        Write::parse(request, |request| {
            Ok(Change::Merge(Merge {
                into: ProfileKey::parse("into", request.into, &self.limits)?,
                from: ProfileKey::parse("from", request.from, &self.limits)?,
                prefer_newer: request.prefer_newer,
                into_etag: Etag::parse_field("into_etag", request.into_etag)?,
                from_etag: Etag::parse_field("from_etag", request.from_etag)?,
            }))
        })
    }

    /// Answers from the latest state, if nothing would change. A call with a request id is a write all the same, so that
    /// a repeat gets the same answer.
    async fn identified(&self, call: &Arc<Call>, write: &Write) -> Result<Option<Encoded>, Refusal> {
        let Some(identify) = write.identify() else { return Ok(None) };
        let Some(id) = self.store.workspace_id(write.workspace()) else { return Ok(None) };
        let limits = self.limits;
        let found = if identify.identities.len() == 1 {
            let read = || self.store.snapshot()?.identify(id, identify, self.store.now(), &limits);
            read().map_err(|error| call.refuse(error))?
        } else {
            // As many lookups as identities, which may be a hundred.
            let identify = identify.clone();
            let read = move |store: &Store, _: &Call| store.snapshot()?.identify(id, &identify, store.now(), &limits);
            call.read(&self.store, ReadClass::Batch, read).await?
        };
        Ok(found.map(|found| self.found(write, found)))
    }

    fn found(&self, write: &Write, found: Identified) -> Encoded {
        use identify_profile_response::{CURSOR, OUTCOME, PROFILE};
        let Identified { profile, place, explanation, .. } = found;
        let mut message = Vec::with_capacity(profile.len() + 128);
        wire::put_delimited(PROFILE, &profile, &mut message);
        if !write.validate_only() {
            let cursor = self.store.cursors(write.workspace()).at(place).to_string();
            wire::put_delimited(CURSOR, cursor.as_bytes(), &mut message);
        }
        prost::encoding::int32::encode(OUTCOME, &WriteOutcome::Unchanged.into(), &mut message);
        explanation.encode(&mut message).expect("a Vec takes any length");
        message.into()
    }

    async fn settings(&self, call: &Arc<Call>, workspace: Workspace) -> Result<v1::IdentitySettings, Refusal> {
        let read = move |store: &Store, _: &Call| store.identity_settings(&workspace);
        call.read(&self.store, ReadClass::Status, read).await
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn identify_profile(&self, request: Request<IdentifyProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let identify = self.parse_identify(request.into_inner()).map_err(|error| call.refuse(error))?;
        call.within(identify.workspace()).map_err(|refusal| call.refuse(refusal))?;
        if identify.may_merge() {
            call.needs(Role::Steward).map_err(|refusal| call.refuse(refusal))?;
        }
        if let Some(found) = self.identified(&call, &identify).await? {
            return Ok(Response::new(found));
        }
        let (written, cursor) = identify.run(&call, &self.store, &self.limits).await?;
        Ok(Response::new(profile_response(&written, cursor.as_deref(), Some(written.outcome))))
    }

    async fn merge_profiles(&self, request: Request<MergeProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let merge = self.parse_merge(request.into_inner()).map_err(|error| call.refuse(error))?;
        let (written, cursor) = merge.run(&call, &self.store, &self.limits).await?;
        Ok(Response::new(profile_response(&written, cursor.as_deref(), None)))
    }

    async fn unmerge_profiles(&self, request: Request<UnmergeProfilesRequest>) -> Result<Response<Encoded>, Status> {
        use unmerge_profiles_response::{CURSOR, PROFILE};
        let call = Call::of(request.extensions());
        let unmerge = Write::parse(request.into_inner(), |request| {
            Ok(Change::Unmerge(Unmerge { merged: Mpid::parse("merged_mpid", request.merged_mpid)? }))
        });
        let unmerge = unmerge.map_err(|error| call.refuse(error))?;
        let (written, cursor) = unmerge.run(&call, &self.store, &self.limits).await?;
        let mut message = Vec::new();
        if let Some(profile) = &written.profile {
            wire::put_delimited(PROFILE, profile, &mut message);
        }
        if let Some(cursor) = cursor {
            wire::put_delimited(CURSOR, cursor.as_bytes(), &mut message);
        }
        message.extend_from_slice(&written.detail);
        Ok(Response::new(message.into()))
    }

    async fn get_identity_settings(
        &self,
        request: Request<GetIdentitySettingsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let workspace = Workspace::parse(&request.into_inner().workspace).map_err(|error| call.refuse(error))?;
        call.within(&workspace).map_err(|refusal| call.refuse(refusal))?;
        let settings = Some(self.settings(&call, workspace).await?);
        Ok(Response::new(Encoded::new(&GetIdentitySettingsResponse { settings })))
    }

    async fn update_identity_settings(
        &self,
        request: Request<UpdateIdentitySettingsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let update = Write::parse(request.into_inner(), |request| {
            let settings = request.settings.ok_or_else(|| Invalid::field("settings", "must be set"))?;
            Ok(Change::UpdateIdentitySettings(UpdateIdentitySettings {
                settings: Box::new(IdentitySettings::parse("settings", settings)?),
                paths: IdentitySettings::parse_paths(
                    "update_mask",
                    request.update_mask.map(|mask| mask.paths).unwrap_or_default(),
                )?,
            }))
        });
        let update = update.map_err(|error| call.refuse(error))?;
        let (written, _) = update.run(&call, &self.store, &self.limits).await?;
        Ok(Response::new(Encoded(written.detail)))
    }
}
