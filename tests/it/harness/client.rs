//! A connection, with a short method for each RPC.

use std::net::SocketAddr;
use std::time::Duration;

use cameo::proto::v1::admin_service_client::AdminServiceClient;
use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::*;
use tonic::Status;
use tonic::transport::Channel;

use super::*;

/// How long [`Client::until_oldest`] waits between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A connection to the three services. Its short methods work in [`WORKSPACE`] unless the request names another.
#[derive(Clone)]
pub struct Client {
    pub profiles: ProfileServiceClient<Channel>,
    pub events: EventServiceClient<Channel>,
    pub admin: AdminServiceClient<Channel>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        let channel = channel(addr).await;
        Self {
            profiles: ProfileServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel),
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
