//! A connection, with a short method for each RPC.

use std::net::SocketAddr;
use std::time::Duration;

use cameo::proto::v1::admin_service_client::AdminServiceClient;
use cameo::proto::v1::audience_service_client::AudienceServiceClient;
use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::identity_service_client::IdentityServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::*;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::*;

/// How long [`Client::until_oldest`] waits between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A channel, and what it presents with each call.
pub type Service = InterceptedService<Channel, Credential>;

/// A connection to the services. Its short methods work in [`WORKSPACE`] unless the request names another.
#[derive(Clone)]
pub struct Client {
    pub profiles: ProfileServiceClient<Service>,
    pub events: EventServiceClient<Service>,
    pub admin: AdminServiceClient<Service>,
    pub identities: IdentityServiceClient<Service>,
    pub audiences: AudienceServiceClient<Service>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::on(channel(addr).await)
    }

    /// The services on a channel.
    pub fn on(channel: Channel) -> Self {
        Self::with(channel, Credential::default())
    }

    /// A connection on which each call presents a token.
    pub async fn connect_with(addr: SocketAddr, token: &str) -> Self {
        Self::with(channel(addr).await, Credential::token(token))
    }

    /// The services on a channel, with a credential.
    pub fn with(channel: Channel, credential: Credential) -> Self {
        let service = InterceptedService::new(channel, credential);
        Self {
            profiles: ProfileServiceClient::new(service.clone()),
            events: EventServiceClient::new(service.clone()),
            admin: AdminServiceClient::new(service.clone()),
            identities: IdentityServiceClient::new(service.clone()),
            audiences: AudienceServiceClient::new(service),
        }
    }

    /// Looks a profile up by its mpid.
    pub async fn get(&self, mpid: i64) -> Result<Profile, Status> {
        let key = Some(by_mpid(mpid));
        self.get_with(GetProfileRequest { key, ..get_request() }).await
    }

    /// Looks a profile up by an identity.
    pub async fn get_by(&self, identity: Identity) -> Result<Profile, Status> {
        let key = Some(by_identity(identity));
        self.get_with(GetProfileRequest { key, ..get_request() }).await
    }

    pub async fn get_with(&self, request: GetProfileRequest) -> Result<Profile, Status> {
        Ok(self.profiles.clone().get_profile(request).await?.into_inner().profile.unwrap_or_default())
    }

    pub async fn create(&self, profile: Profile) -> Result<CreateProfileResponse, Status> {
        self.create_with(CreateProfileRequest { profile: Some(profile), ..create_request() }).await
    }

    pub async fn create_with(&self, request: CreateProfileRequest) -> Result<CreateProfileResponse, Status> {
        Ok(self.profiles.clone().create_profile(request).await?.into_inner())
    }

    pub async fn update(&self, mpid: i64, patch: ProfilePatch) -> Result<UpdateProfileResponse, Status> {
        self.update_with(UpdateProfileRequest { patch: Some(patch), ..update_request(mpid) }).await
    }

    pub async fn update_with(&self, request: UpdateProfileRequest) -> Result<UpdateProfileResponse, Status> {
        Ok(self.profiles.clone().update_profile(request).await?.into_inner())
    }

    pub async fn delete(&self, mpid: i64) -> Result<DeleteProfileResponse, Status> {
        self.delete_with(delete_request(mpid)).await
    }

    pub async fn delete_with(&self, request: DeleteProfileRequest) -> Result<DeleteProfileResponse, Status> {
        Ok(self.profiles.clone().delete_profile(request).await?.into_inner())
    }

    pub async fn identify(&self, request: IdentifyProfileRequest) -> Result<IdentifyProfileResponse, Status> {
        let request = IdentifyProfileRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.identities.clone().identify_profile(request).await?.into_inner())
    }

    /// Merges the second profile into the first.
    pub async fn merge(&self, into: i64, from: i64) -> Result<MergeProfilesResponse, Status> {
        self.merge_with(MergeProfilesRequest {
            into: Some(by_mpid(into)),
            from: Some(by_mpid(from)),
            ..MergeProfilesRequest::default()
        })
        .await
    }

    pub async fn merge_with(&self, request: MergeProfilesRequest) -> Result<MergeProfilesResponse, Status> {
        let request = MergeProfilesRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.identities.clone().merge_profiles(request).await?.into_inner())
    }

    pub async fn unmerge(&self, merged_mpid: i64) -> Result<UnmergeProfilesResponse, Status> {
        let request = UnmergeProfilesRequest { workspace: WORKSPACE.into(), merged_mpid, ..Default::default() };
        Ok(self.identities.clone().unmerge_profiles(request).await?.into_inner())
    }

    /// Registers an audience. An id of 0 leaves it to the server.
    pub async fn register(&self, audience_id: i64, name: &str) -> Result<Audience, Status> {
        let audience = Some(Audience { audience_id, name: name.into(), ..Audience::default() });
        let response = self.register_with(CreateAudienceRequest { audience, ..Default::default() }).await?;
        Ok(response.audience.unwrap())
    }

    pub async fn register_with(&self, request: CreateAudienceRequest) -> Result<CreateAudienceResponse, Status> {
        let request = CreateAudienceRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().create_audience(request).await?.into_inner())
    }

    pub async fn audience(&self, audience_id: i64) -> Result<Audience, Status> {
        let request = GetAudienceRequest { workspace: WORKSPACE.into(), audience_id };
        Ok(self.audiences.clone().get_audience(request).await?.into_inner().audience.unwrap())
    }

    pub async fn list_audiences(&self, request: ListAudiencesRequest) -> Result<ListAudiencesResponse, Status> {
        let request = ListAudiencesRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().list_audiences(request).await?.into_inner())
    }

    pub async fn unregister(&self, audience_id: i64) -> Result<DeleteAudienceResponse, Status> {
        self.unregister_with(DeleteAudienceRequest { audience_id, ..DeleteAudienceRequest::default() }).await
    }

    pub async fn unregister_with(&self, request: DeleteAudienceRequest) -> Result<DeleteAudienceResponse, Status> {
        let request = DeleteAudienceRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().delete_audience(request).await?.into_inner())
    }

    pub async fn add_members(&self, request: AddAudienceMembersRequest) -> Result<AddAudienceMembersResponse, Status> {
        let request = AddAudienceMembersRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().add_audience_members(request).await?.into_inner())
    }

    pub async fn remove_members(
        &self,
        request: RemoveAudienceMembersRequest,
    ) -> Result<RemoveAudienceMembersResponse, Status> {
        let request = RemoveAudienceMembersRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().remove_audience_members(request).await?.into_inner())
    }

    pub async fn list_members(
        &self,
        request: ListAudienceMembersRequest,
    ) -> Result<ListAudienceMembersResponse, Status> {
        let request = ListAudienceMembersRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.audiences.clone().list_audience_members(request).await?.into_inner())
    }

    /// Changes all identity settings.
    pub async fn set_identity_settings(&self, settings: IdentitySettings) -> Result<IdentitySettings, Status> {
        let request = UpdateIdentitySettingsRequest {
            workspace: WORKSPACE.into(),
            settings: Some(settings),
            ..UpdateIdentitySettingsRequest::default()
        };
        let response = self.identities.clone().update_identity_settings(request).await?.into_inner();
        Ok(response.settings.unwrap())
    }

    pub async fn erase(&self, mpid: i64) -> Result<EraseProfileResponse, Status> {
        self.erase_with(EraseProfileRequest { key: Some(by_mpid(mpid)), ..EraseProfileRequest::default() }).await
    }

    pub async fn erase_with(&self, request: EraseProfileRequest) -> Result<EraseProfileResponse, Status> {
        let request = EraseProfileRequest { workspace: WORKSPACE.into(), ..request };
        Ok(self.profiles.clone().erase_profile(request).await?.into_inner())
    }

    /// All that the service holds on a person.
    pub async fn export(&self, mpid: i64) -> Result<serde_json::Value, Status> {
        let request = ExportSubjectRequest { workspace: WORKSPACE.into(), key: Some(by_mpid(mpid)) };
        let mut parts = self.profiles.clone().export_subject(request).await?.into_inner();
        let mut document = String::new();
        while let Some(part) = parts.message().await? {
            document.push_str(&part.document);
        }
        Ok(serde_json::from_str(&document).expect("a JSON document"))
    }

    /// The result of each key, in order.
    pub async fn batch(
        &self,
        request: BatchGetProfilesRequest,
    ) -> Result<Vec<batch_get_profiles_result::Result>, Status> {
        let response = self.profiles.clone().batch_get_profiles(request).await?.into_inner();
        Ok(response.results.into_iter().map(|result| result.result.expect("found or error")).collect())
    }

    /// One page of profiles.
    pub async fn page(&self, request: ListProfilesRequest) -> Result<ListProfilesResponse, Status> {
        Ok(self.profiles.clone().list_profiles(request).await?.into_inner())
    }

    /// Every profile, read in pages of this size; 0 is the server's default.
    pub async fn all_profiles(&self, page_size: i32) -> Vec<Profile> {
        let mut profiles = Vec::new();
        let mut request = ListProfilesRequest { page_size, ..page_request() };
        within(async {
            loop {
                let page = self.page(request.clone()).await.unwrap();
                profiles.extend(page.profiles);
                if page.next_page_token.is_empty() {
                    return profiles;
                }
                request.page_token = page.next_page_token;
            }
        })
        .await
    }

    pub async fn import(&self, records: Vec<ImportProfilesRequest>) -> Result<ImportProfilesResponse, Status> {
        let records = futures_util::stream::iter(records);
        Ok(self.profiles.clone().import_profiles(records).await?.into_inner())
    }

    /// One page of events.
    pub async fn list(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        Ok(self.events.clone().list_events(request).await?.into_inner())
    }

    /// The whole log.
    pub async fn log(&self) -> Vec<Event> {
        self.pages(ListEventsRequest { page_size: LARGEST_PAGE, ..list_request() }).await.concat()
    }

    /// The events of each page, up to the page that has caught up.
    pub async fn pages(&self, mut request: ListEventsRequest) -> Vec<Vec<Event>> {
        let mut pages = Vec::new();
        within(async {
            loop {
                let page = self.list(request.clone()).await.unwrap();
                pages.push(page.events);
                if page.caught_up {
                    return pages;
                }
                request.start = page_after(&page.cursor);
            }
        })
        .await
    }

    /// The status of the server, and of this workspace's log; without a log if `workspace` is empty.
    pub async fn status(&self, workspace: &str) -> Result<GetStatusResponse, Status> {
        let request = GetStatusRequest { workspace: workspace.into() };
        Ok(self.admin.clone().get_status(request).await?.into_inner())
    }

    /// Waits until retention has removed all events before this one.
    pub async fn until_oldest(&self, sequence: u64) -> LogEnds {
        within(async {
            loop {
                let log = self.status(WORKSPACE).await.unwrap().log.unwrap();
                if log.oldest_sequence >= sequence {
                    return log;
                }
                tokio::time::sleep(LOOK).await;
            }
        })
        .await
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Stream, Status> {
        Ok(Stream(self.events.clone().subscribe(request).await?.into_inner()))
    }

    /// An open stream of what is committed from now on.
    pub async fn listen(&self) -> Stream {
        let mut stream = self.subscribe_from(None).await;
        stream.opened().await;
        stream
    }

    pub async fn subscribe_from(&self, start: Option<subscribe_request::Start>) -> Stream {
        self.subscribe(SubscribeRequest { start, ..subscribe_request() }).await.unwrap()
    }
}
