//! A server in this process or in its own, on port 0 and a temporary store, and short names for what tests say.
//!
//! Every wait here has an end: calls by the deadline of the [`channel`] they go through, everything else by [`within`].
#![allow(clippy::unnecessary_wraps)] // The fields of messages are optional.

use std::net::SocketAddr;
use std::panic::Location;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cameo::config::Config;
use cameo::proto::v1::admin_service_client::AdminServiceClient;
use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use cameo::server::{Server, ServerError};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{FieldMask, ListValue, Struct, Value};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

pub const WORKSPACE: &str = "acme/main/web";
/// Far beyond what anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`, and panics with the place of the caller if it takes longer than [`PATIENCE`].
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let outcome = tokio::time::timeout(PATIENCE, future).await;
        outcome.unwrap_or_else(|_| panic!("{caller}: not done after {PATIENCE:?}"))
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
}

/// A connection on which a call that is not answered fails.
pub async fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap().timeout(PATIENCE);
    within(endpoint.connect()).await.unwrap()
}

/// A server in this process.
pub struct TestServer {
    pub addr: SocketAddr,
    pub dir: Arc<TempDir>,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(Arc::new(TempDir::new().unwrap()), change).await
    }

    pub async fn start_on(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        Self::try_start_on(dir, change).await.unwrap()
    }

    pub async fn try_start_on(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Result<Self, ServerError> {
        let mut config = Config::default();
        config.server.addr = SocketAddr::from(([127, 0, 0, 1], 0));
        config.store.data_dir = dir.path().join("data");
        change(&mut config);
        let server = within(Server::bind(config)).await?;
        let addr = server.local_addr();
        let (shutdown, signal) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _ = signal.await;
        }));
        Ok(Self { addr, dir, shutdown, task })
    }

    /// A server, and a stream on a connection of its own that has 40 large events to take and took none for longer than the
    /// timeout.
    pub async fn with_stalled_subscriber() -> (Self, Stream) {
        let stall = Duration::from_millis(300);
        let server = Self::start_with(|config| config.feed.stall_timeout = stall).await;
        let client = server.client().await;
        let mut stream = server.client().await.subscribe_from(None).await;
        stream.opened().await;
        for mpid in 1..=40 {
            let attributes = Some(map([("pad", text(&"p".repeat(60_000)))]));
            client.create(Profile { user_attributes: attributes, ..with_mpid(mpid) }).await.unwrap();
        }
        tokio::time::sleep(2 * stall).await; // What it is about.
        (server, stream)
    }

    /// A server whose log lost its end, for an older copy of the store was put back; and a cursor into what is lost. No
    /// other way leads past the head. The log holds profile 1.
    pub async fn with_lost_future() -> (Self, String) {
        let server = Self::start().await;
        server.client().await.create(with_mpid(1)).await.unwrap();
        let dir = server.stop().await;
        let file = dir.path().join("data/cameo.redb");
        let copy = std::fs::read(&file).unwrap();
        let server = Self::start_on(dir, |_| {}).await;
        let cursor = server.client().await.create(with_mpid(2)).await.unwrap().cursor;
        let dir = server.stop().await;
        std::fs::write(&file, copy).unwrap();
        (Self::start_on(dir, |_| {}).await, cursor)
    }

    /// Stops it in order, and answers where its store lies.
    pub async fn stop(self) -> Arc<TempDir> {
        self.try_stop().await.unwrap()
    }

    /// The same; an error if it has ended by itself.
    pub async fn try_stop(self) -> Result<Arc<TempDir>, ServerError> {
        let _ = self.shutdown.send(()); // Nobody takes it where the server has ended.
        within(self.task).await.unwrap()?;
        Ok(self.dir)
    }

    pub async fn restart(self) -> Self {
        Self::start_on(self.stop().await, |_| {}).await
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }
}

/// A server in its own process: the real binary.
pub struct TestProcess {
    pub addr: SocketAddr,
    pub child: Child,
}

impl TestProcess {
    pub async fn start(dir: &Path, flags: &[&str]) -> Self {
        Self::start_as(&mut binary(), dir, flags).await
    }

    pub async fn start_as(binary: &mut Command, dir: &Path, flags: &[&str]) -> Self {
        let mut child = binary
            .args(["--addr", "127.0.0.1:0", "--log", "warn"])
            .arg("--data-dir")
            .arg(dir)
            .args(flags)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within(lines.next_line()).await.unwrap().expect("the server prints where it listens");
        let addr = first.strip_prefix("cameo is listening on ").expect(&first).parse().unwrap();
        // Whoever prints must not find the pipe closed.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { addr, child }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) {
        within(self.child.kill()).await.unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        within(self.child.wait()).await.unwrap()
    }

    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}

pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cameo"))
}

/// Runs a command to its end.
pub async fn output(command: &mut Command) -> Output {
    within(command.kill_on_drop(true).output()).await.unwrap()
}

/// One connection, in one workspace.
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

    pub async fn get(&self, mpid: i64) -> Result<Profile, Status> {
        let key = Some(by_mpid(mpid));
        self.get_with(GetProfileRequest { key, ..get_request() }).await
    }

    pub async fn get_by(&self, identity: Identity) -> Result<Profile, Status> {
        let key = Some(by_identity(identity));
        self.get_with(GetProfileRequest { key, ..get_request() }).await
    }

    pub async fn get_with(&self, request: GetProfileRequest) -> Result<Profile, Status> {
        Ok(self.profiles.clone().get_profile(request).await?.into_inner().profile.unwrap_or_default())
    }

    pub async fn create(&self, profile: Profile) -> Result<CreateProfileResponse, Status> {
        let request = CreateProfileRequest { profile: Some(profile), ..create_request() };
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

    pub async fn batch(
        &self,
        request: BatchGetProfilesRequest,
    ) -> Result<Vec<batch_get_profiles_result::Result>, Status> {
        let response = self.profiles.clone().batch_get_profiles(request).await?.into_inner();
        Ok(response.results.into_iter().map(|result| result.result.expect("found or error")).collect())
    }

    pub async fn page(&self, request: ListProfilesRequest) -> Result<ListProfilesResponse, Status> {
        Ok(self.profiles.clone().list_profiles(request).await?.into_inner())
    }

    /// Every profile, in pages of this size.
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

    pub async fn list(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        Ok(self.events.clone().list_events(request).await?.into_inner())
    }

    /// The whole log.
    pub async fn log(&self) -> Vec<Event> {
        self.pages(ListEventsRequest { page_size: 1_000, ..list_request() }).await.concat()
    }

    /// The events of each page, up to the one that has caught up.
    pub async fn pages(&self, mut request: ListEventsRequest) -> Vec<Vec<Event>> {
        let mut pages = Vec::new();
        within(async {
            loop {
                let page = self.list(request.clone()).await.unwrap();
                pages.push(page.events);
                if page.caught_up {
                    return pages;
                }
                request.start = Some(list_events_request::Start::Cursor(page.cursor));
            }
        })
        .await
    }

    /// The status of the server, and of this workspace's log; of none if it is empty.
    pub async fn status(&self, workspace: &str) -> Result<GetStatusResponse, Status> {
        let request = GetStatusRequest { workspace: workspace.into() };
        Ok(self.admin.clone().get_status(request).await?.into_inner())
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Stream, Status> {
        Ok(Stream(self.events.clone().subscribe(request).await?.into_inner()))
    }

    pub async fn subscribe_from(&self, start: Option<subscribe_request::Start>) -> Stream {
        self.subscribe(SubscribeRequest { start, ..subscribe_request() }).await.unwrap()
    }
}

/// What a subscriber reads.
pub struct Stream(pub Streaming<SubscribeResponse>);

impl Stream {
    /// The next message; `None` when the stream ended with OK.
    pub async fn next(&mut self) -> Result<Option<SubscribeResponse>, Status> {
        within(self.0.message()).await
    }

    pub async fn message(&mut self) -> (String, Message) {
        let response = self.next().await.unwrap().expect("the stream goes on");
        (response.cursor, response.message.unwrap())
    }

    /// The next event, and the cursor that came with it. Passes over everything else.
    pub async fn event(&mut self) -> (String, Event) {
        within(async {
            loop {
                if let (cursor, Message::Event(event)) = self.message().await {
                    return (cursor, event);
                }
            }
        })
        .await
    }

    pub async fn sequences(&mut self, count: usize) -> Vec<u64> {
        let mut sequences = Vec::with_capacity(count);
        while sequences.len() < count {
            sequences.push(self.event().await.1.sequence);
        }
        sequences
    }

    pub async fn opened(&mut self) -> (String, Opened) {
        match self.message().await {
            (cursor, Message::Opened(opened)) => (cursor, opened),
            (_, other) => panic!("the first message is {other:?}"),
        }
    }

    /// Reads until `caught_up`.
    pub async fn catch_up(&mut self) -> (String, Vec<Event>) {
        let mut events = Vec::new();
        within(async {
            loop {
                match self.message().await {
                    (_, Message::Event(event)) => events.push(event),
                    (cursor, Message::CaughtUp(_)) => return (cursor, events),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Reads until the stream fails.
    pub async fn failure(&mut self) -> Status {
        within(async {
            loop {
                match self.next().await {
                    Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
                    Err(status) => return status,
                }
            }
        })
        .await
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl HttpAnswer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A request by HTTP/1.1, on a connection of its own. `target` begins after `/userprofile/v1/`.
pub async fn http(addr: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
    let mut request = hyper::Request::builder().method(method).uri(format!("/userprofile/v1/{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http_request(addr, request.body(body.to_owned()).unwrap()).await
}

/// A request by HTTP/1.1, on a connection of its own.
pub async fn http_request<B>(addr: SocketAddr, mut request: hyper::Request<B>) -> HttpAnswer
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    request.headers_mut().insert("host", hyper::header::HeaderValue::from_static("localhost"));
    within(async {
        let connection = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(connection).await.unwrap();
        tokio::spawn(connection);
        let (parts, body) = client.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        HttpAnswer { status: parts.status.as_u16(), headers: parts.headers, body }
    })
    .await
}

pub fn get_request() -> GetProfileRequest {
    GetProfileRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

pub fn create_request() -> CreateProfileRequest {
    CreateProfileRequest { workspace: WORKSPACE.into(), profile: Some(Profile::default()), ..Default::default() }
}

pub fn update_request(mpid: i64) -> UpdateProfileRequest {
    UpdateProfileRequest {
        workspace: WORKSPACE.into(),
        key: Some(by_mpid(mpid)),
        patch: Some(ProfilePatch::default()),
        ..Default::default()
    }
}

pub fn delete_request(mpid: i64) -> DeleteProfileRequest {
    let key = Some(by_mpid(mpid));
    DeleteProfileRequest { workspace: WORKSPACE.into(), key, ..Default::default() }
}

pub fn batch_request(keys: impl IntoIterator<Item = ProfileKey>) -> BatchGetProfilesRequest {
    let keys = keys.into_iter().collect();
    BatchGetProfilesRequest { workspace: WORKSPACE.into(), keys, ..Default::default() }
}

pub fn page_request() -> ListProfilesRequest {
    ListProfilesRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

/// A record of an import.
pub fn record(key: ProfileKey, patch: ProfilePatch) -> ImportProfilesRequest {
    ImportProfilesRequest { workspace: WORKSPACE.into(), key: Some(key), patch: Some(patch), ..Default::default() }
}

pub fn by_mpid(mpid: i64) -> ProfileKey {
    ProfileKey { key: Some(profile_key::Key::Mpid(mpid)) }
}

pub fn by_identity(identity: Identity) -> ProfileKey {
    ProfileKey { key: Some(profile_key::Key::Identity(identity)) }
}

pub fn list_request() -> ListEventsRequest {
    ListEventsRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

pub fn subscribe_request() -> SubscribeRequest {
    SubscribeRequest { workspace: WORKSPACE.into(), ..Default::default() }
}

pub fn earliest() -> Option<subscribe_request::Start> {
    Some(subscribe_request::Start::Earliest(true))
}

pub fn after(cursor: &str) -> Option<subscribe_request::Start> {
    Some(subscribe_request::Start::Cursor(cursor.into()))
}

pub fn with_mpid(mpid: i64) -> Profile {
    Profile { mpid, ..Profile::default() }
}

pub fn identity(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
}

pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

pub fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

pub fn number(value: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(value)) }
}

pub fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
    ListValue { values: values.into_iter().collect() }
}

pub fn map<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

pub fn set<const N: usize>(fields: [(&str, Value); N]) -> ProfilePatch {
    ProfilePatch { set_user_attributes: Some(map(fields)), ..ProfilePatch::default() }
}

pub fn increment(key: &str) -> ProfilePatch {
    ProfilePatch { increment_user_attributes: [(key.to_owned(), 1.0)].into(), ..ProfilePatch::default() }
}

pub fn attribute<'a>(profile: &'a Profile, key: &str) -> Option<&'a Kind> {
    profile.user_attributes.as_ref()?.fields.get(key)?.kind.as_ref()
}

pub fn number_of(profile: &Profile, key: &str) -> f64 {
    match attribute(profile, key) {
        Some(Kind::NumberValue(number)) => *number,
        None => 0.0,
        other => panic!("{key} is {other:?}"),
    }
}

/// The reason that an error gives, of our domain.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "cameo");
    info.reason
}

/// What the error's metadata says under a key.
pub fn metadata(status: &Status, key: &str) -> String {
    status.get_details_error_info().unwrap().metadata.get(key).cloned().unwrap_or_default()
}
