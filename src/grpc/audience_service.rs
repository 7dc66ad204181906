//! `cameo.v1.AudienceService`.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};
use tonic_types::pb;

use super::codec::Encoded;
use super::profile_service::write::{Write, WriteRequest, write_request};
use super::server::audience_service_server::AudienceService;
use crate::call::Call;
use crate::command::{Change, ChangeMembers, CreateAudience, DeleteAudience, MemberChange};
use crate::model::audience::NewAudience;
use crate::model::audience_page::{self, AudienceStart, Listed};
use crate::model::limits::MEMBERS;
use crate::model::page_token::PageStart;
use crate::model::{AudienceId, Grant, Invalid, Limits, Micros, Mpid, ProfileKey, Workspace, time};
use crate::proto::v1::{
    self, AddAudienceMembersRequest, AddAudienceMembersResponse, AudienceMemberResult, CreateAudienceRequest,
    DeleteAudienceRequest, GetAudienceRequest, GetAudienceResponse, ListAudienceMembersRequest,
    ListAudienceMembersResponse, ListAudiencesRequest, ListAudiencesResponse, RemoveAudienceMembersRequest,
    RemoveAudienceMembersResponse, WriteOutcome,
};
use crate::refusal::Refusal;
use crate::store::{MemberResult, PageSize, Past, ReadClass, Store, StoreError, Written};

write_request!(CreateAudienceRequest, "CreateAudience", silent: |_| false);
write_request!(DeleteAudienceRequest, "DeleteAudience", silent: |_| false);
write_request!(AddAudienceMembersRequest, "AddAudienceMembers", silent: |_| false);
write_request!(RemoveAudienceMembersRequest, "RemoveAudienceMembers", silent: |_| false);

/// The service.
#[derive(Debug, Clone)]
pub struct Audiences {
    store: Arc<Store>,
    limits: Limits,
}

impl Audiences {
    /// The service on a store.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits) -> Self {
        Self { store, limits }
    }

    /// Writes, and returns the response, which is encoded already.
    async fn write(&self, call: &Call, write: Result<Write, Invalid>) -> Result<Response<Encoded>, Status> {
        let write = write.map_err(|error| call.refuse(error))?;
        let (written, _) = write.run(call, &self.store, &self.limits).await?;
        Ok(Response::new(Encoded(written.detail)))
    }

    /// Writes, and returns a result for each key, and the cursor.
    async fn change(
        &self,
        call: &Call,
        write: Result<Write, Invalid>,
    ) -> Result<(Vec<AudienceMemberResult>, String), Status> {
        let write = write.map_err(|error| call.refuse(error))?;
        let (written, cursor) = write.run(call, &self.store, &self.limits).await?;
        Ok((results(call, &written), cursor.unwrap_or_default()))
    }

    fn page_size(&self, asked: i32) -> Result<PageSize, Invalid> {
        Ok(PageSize { items: self.limits.page_size(asked)?, bytes: self.limits.response_bytes })
    }

    async fn get(&self, call: &Arc<Call>, request: GetAudienceRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let id = AudienceId::parse("audience_id", request.audience_id)?;
        call.within(&workspace)?;
        sees_audiences(call)?;
        let read = move |store: &Store, _: &Call| store.audience(&workspace, id);
        let audience = Some(call.read(&self.store, ReadClass::Status, read).await?);
        Ok(Encoded::new(&GetAudienceResponse { audience }))
    }

    async fn list(&self, call: &Arc<Call>, request: ListAudiencesRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let size = self.page_size(request.page_size)?;
        let start = audience_page::parse_audiences(&workspace, &request.page_token)?;
        call.within(&workspace)?;
        sees_audiences(call)?;
        let read = move |store: &Store, _: &Call| {
            let mut audiences = Vec::new();
            let page = store.list_audiences(&workspace, start, size, |audience| {
                let bytes = audience.encoded_len();
                audiences.push(audience);
                bytes
            });
            let token = |start| audience_page::of_audiences(&workspace, start);
            let last = page.map_err(|error| damaged(error, || token(AudienceStart { over_damage: true, ..start })))?;
            let next = last.map(|last| token(AudienceStart { after: Some(last), over_damage: false }));
            let next_page_token = next.unwrap_or_default();
            Ok::<_, Refusal>(Encoded::new(&ListAudiencesResponse { audiences, next_page_token }))
        };
        call.read(&self.store, ReadClass::Scan, read).await
    }

    async fn list_members(&self, call: &Arc<Call>, request: ListAudienceMembersRequest) -> Result<Encoded, Refusal> {
        let workspace = Workspace::parse(&request.workspace)?;
        let id = AudienceId::parse("audience_id", request.audience_id)?;
        let size = self.page_size(request.page_size)?;
        let start = audience_page::parse_members(Listed::Members, &workspace, id, &request.page_token)?;
        call.within(&workspace)?;
        sees_audiences(call)?;
        let read = move |store: &Store, _: &Call| {
            let mut members = Vec::new();
            let page = store.list_members(&workspace, id, start, size, |member| {
                let bytes = member.encoded_len();
                members.push(member);
                bytes
            });
            let token = |start| audience_page::of_members(Listed::Members, &workspace, id, start);
            let last = page.map_err(|error| damaged(error, || token(PageStart { over_damage: true, ..start })))?;
            let next_page_token = last.map(|last| token(PageStart::after(last))).unwrap_or_default();
            Ok::<_, Refusal>(Encoded::new(&ListAudienceMembersResponse { members, next_page_token }))
        };
        call.read(&self.store, ReadClass::Scan, read).await
    }
}

/// How many members an audience has tells of who is in it.
fn sees_audiences(call: &Call) -> Result<(), Invalid> {
    let sees = call.grant().is_none_or(|grant| grant.has_audiences());
    Grant::check(sees, "audience", "audience_memberships")
}

/// What a caller is told of a page that failed. `token` leads over damage.
fn damaged(error: StoreError, token: impl FnOnce() -> String) -> Refusal {
    match error {
        StoreError::Corrupt { table, past: Some(Past::Profile) } => Refusal::list_damaged(table, &token()),
        other => other.into(),
    }
}

/// One result for each key.
fn results(call: &Call, written: &Written) -> Vec<AudienceMemberResult> {
    let result = |MemberResult { mpid, outcome }| {
        let mpid = mpid.map_or(0, Mpid::get);
        match outcome {
            Ok(outcome) => AudienceMemberResult { mpid, outcome: outcome.into(), error: None },
            Err(error) => {
                let status = Status::from(call.refuse(error));
                let error = pb::Status::decode(status.details()).expect("it was just encoded");
                AudienceMemberResult { mpid, outcome: WriteOutcome::Unspecified.into(), error: Some(error) }
            }
        }
    };
    written.member_results().into_iter().map(result).collect()
}

fn parse_create(request: CreateAudienceRequest) -> Result<Write, Invalid> {
    Write::parse(request, |request| {
        let audience = request.audience.ok_or_else(|| Invalid::field("audience", "must be set"))?;
        let drawn = audience.audience_id == 0;
        let audience = Box::new(NewAudience::parse("audience", audience, AudienceId::draw())?);
        Ok(Change::CreateAudience(CreateAudience { audience, drawn }))
    })
}

fn parse_delete(request: DeleteAudienceRequest) -> Result<Write, Invalid> {
    Write::parse(request, |request| {
        let id = AudienceId::parse("audience_id", request.audience_id)?;
        Ok(Change::DeleteAudience(DeleteAudience { id, allow_missing: request.allow_missing }))
    })
}

fn parse_add(request: AddAudienceMembersRequest, limits: &Limits) -> Result<Write, Invalid> {
    Write::parse(request, |request| {
        if request.expire_time.as_ref().is_some_and(|end| !time::is_valid(end)) {
            return Err(Invalid::field("expire_time", "is not a valid timestamp"));
        }
        let end = request.expire_time.as_ref().map(Micros::from_timestamp);
        parse_change(request.audience_id, request.keys, MemberChange::Join(end), limits)
    })
}

fn parse_remove(request: RemoveAudienceMembersRequest, limits: &Limits) -> Result<Write, Invalid> {
    Write::parse(request, |request| parse_change(request.audience_id, request.keys, MemberChange::Leave, limits))
}

fn parse_change(id: i64, keys: Vec<v1::ProfileKey>, change: MemberChange, limits: &Limits) -> Result<Change, Invalid> {
    let id = AudienceId::parse("audience_id", id)?;
    if keys.is_empty() {
        return Err(Invalid::field("keys", "must not be empty"));
    }
    Invalid::limit("keys", "keys", MEMBERS, keys.len())?;
    let keys = keys.into_iter().enumerate();
    let keys = keys.map(|(index, key)| ProfileKey::parse(format_args!("keys[{index}]"), Some(key), limits));
    Ok(Change::ChangeMembers(ChangeMembers { id, keys: keys.collect::<Result<_, _>>()?, change }))
}

#[tonic::async_trait]
impl AudienceService for Audiences {
    async fn create_audience(&self, request: Request<CreateAudienceRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        self.write(&call, parse_create(request.into_inner())).await
    }

    async fn get_audience(&self, request: Request<GetAudienceRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.get(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn list_audiences(&self, request: Request<ListAudiencesRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.list(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }

    async fn delete_audience(&self, request: Request<DeleteAudienceRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        self.write(&call, parse_delete(request.into_inner())).await
    }

    async fn add_audience_members(
        &self,
        request: Request<AddAudienceMembersRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let (results, cursor) = self.change(&call, parse_add(request.into_inner(), &self.limits)).await?;
        Ok(Response::new(Encoded::new(&AddAudienceMembersResponse { results, cursor })))
    }

    async fn remove_audience_members(
        &self,
        request: Request<RemoveAudienceMembersRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let (results, cursor) = self.change(&call, parse_remove(request.into_inner(), &self.limits)).await?;
        Ok(Response::new(Encoded::new(&RemoveAudienceMembersResponse { results, cursor })))
    }

    async fn list_audience_members(
        &self,
        request: Request<ListAudienceMembersRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.list_members(&call, request.into_inner()).await;
        Ok(Response::new(response.map_err(|error| call.refuse(error))?))
    }
}
