//! `cameo.v1.AdminService`.

mod backup;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::codec::Encoded;
use super::server::admin_service_server::AdminService;
use crate::auth::Denied;
use crate::call::Call;
use crate::config::{AuthConfig, Config, FeedConfig, QuotaConfig, ServerConfig, StoreConfig};
use crate::model::workspace_page::WorkspacePage;
use crate::model::{Invalid, Limits, Micros, Workspace};
use crate::proto::v1::{
    BackupRequest, CompactRequest, CompactResponse, GetStatusRequest, GetStatusResponse, ListWorkspacesRequest,
    ListWorkspacesResponse, LogEnds, Scrub, ServerLimits, StoreStatus, WorkspaceStatus,
};
use crate::refusal::Refusal;
use crate::store::{Compacted, LogBounds, PageSize, ReadClass, Store, StoreError};
use backup::{Ends, Pieces};

/// The service.
#[derive(Debug, Clone)]
pub struct Admin {
    store: Arc<Store>,
    start: Micros,
    scrub_rate: u32,
    limits: ServerLimits,
    /// How long the caller of a backup may take nothing.
    stall_timeout: Duration,
    /// The limits of what callers may send.
    callers: Limits,
    /// Cancelled when the server shuts down.
    stop: CancellationToken,
}

impl Admin {
    /// The service of a server that started at `start` with this configuration. Compactions and backups end when `stop`
    /// is cancelled.
    #[must_use]
    pub fn new(store: Arc<Store>, config: &Config, start: Micros, stop: CancellationToken) -> Self {
        let (scrub_rate, stall_timeout, callers) = (config.store.scrub_rate, config.feed.stall_timeout, config.limits);
        Self { store, start, scrub_rate, limits: limits_in_force(config), stall_timeout, callers, stop }
    }

    /// The state of the store tells of all workspaces, so only who may use all of them sees it.
    fn status(&self, workspace: Option<&Workspace>, sees_all: bool) -> Result<GetStatusResponse, StoreError> {
        Ok(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            start_time: Some(self.start.to_timestamp()),
            store: sees_all.then(|| self.store_status()),
            scrub: sees_all.then(|| self.scrub()),
            limits: Some(self.limits),
            log: workspace.map(|workspace| self.log_ends(workspace)).transpose()?.flatten(),
        })
    }

    fn store_status(&self) -> StoreStatus {
        let usage = self.store.usage();
        StoreStatus { workspaces: wide(usage.workspaces), file_bytes: usage.file_bytes, free_bytes: usage.free_bytes }
    }

    fn scrub(&self) -> Scrub {
        let report = self.store.scrub_report();
        Scrub { rows_per_second: self.scrub_rate, passes: report.passes, rows: report.rows, damaged: report.damaged }
    }

    fn log_ends(&self, workspace: &Workspace) -> Result<Option<LogEnds>, StoreError> {
        let Some(id) = self.store.workspace_id(workspace) else { return Ok(None) };
        Ok(Some(self.store.snapshot()?.log_bounds(id)?.into()))
    }
}

/// A parsed `ListWorkspacesRequest`.
struct List {
    page: WorkspacePage,
    size: PageSize,
}

impl List {
    fn parse(request: ListWorkspacesRequest, limits: &Limits) -> Result<Self, Invalid> {
        Ok(Self {
            page: WorkspacePage::parse(request.prefix, &request.page_token)?,
            size: PageSize { items: limits.page_size(request.page_size)?, bytes: limits.response_bytes },
        })
    }

    fn run(&self, store: &Store) -> Result<ListWorkspacesResponse, StoreError> {
        let mut workspaces = Vec::new();
        let last = store.snapshot()?.workspaces(&self.page, self.size, |workspace, log| {
            let status = WorkspaceStatus { workspace: workspace.as_str().to_owned(), log: Some(log.into()) };
            let bytes = status.encoded_len();
            workspaces.push(status);
            bytes
        })?;
        let next_page_token = last.map(|last| self.page.next(&last)).unwrap_or_default();
        Ok(ListWorkspacesResponse { workspaces, next_page_token })
    }
}

impl From<LogBounds> for LogEnds {
    fn from(LogBounds { floor, head, bytes }: LogBounds) -> Self {
        Self { oldest_sequence: floor.get().saturating_add(1), head_sequence: head.get(), log_bytes: bytes }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let workspace = parse_workspace(&request.into_inner().workspace).map_err(|refusal| call.refuse(refusal))?;
        let sees_all = call.caller().is_some_and(|caller| caller.may_use_all());
        let allowed = match &workspace {
            Some(workspace) => call.within(workspace),
            None if sees_all => Ok(()),
            None => Err(Denied::Server.into()),
        };
        allowed.map_err(|refusal| call.refuse(refusal))?;
        let admin = self.clone();
        let read = move |_: &Store, _: &Call| admin.status(workspace.as_ref(), sees_all);
        let status = call.read(&self.store, ReadClass::Status, read).await?;
        Ok(Response::new(Encoded::new(&status)))
    }

    async fn list_workspaces(&self, request: Request<ListWorkspacesRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let list = List::parse(request.into_inner(), &self.callers).map_err(|error| call.refuse(error))?;
        let page = call.read(&self.store, ReadClass::Status, move |store, _| list.run(store)).await?;
        Ok(Response::new(Encoded::new(&page)))
    }

    async fn compact(&self, request: Request<CompactRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let compacted = self.store.compact(self.stop.clone()).await.map_err(|error| call.refuse(error))?;
        let Compacted { bytes_before, bytes_after, duration, pause } = compacted;
        let (duration, write_pause) = (duration.try_into().ok(), pause.try_into().ok());
        Ok(Response::new(Encoded::new(&CompactResponse { bytes_before, bytes_after, duration, write_pause })))
    }

    type BackupStream = Pieces;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Pieces>, Status> {
        let call = Call::of(request.extensions());
        let backup = self.store.backup().await.map_err(|error| call.refuse(error))?;
        let ends = Ends { stall_timeout: self.stall_timeout, stop: self.stop.clone() };
        Ok(Response::new(backup::stream(backup, ends, call)))
    }
}

fn parse_workspace(name: &str) -> Result<Option<Workspace>, Refusal> {
    if name.is_empty() { Ok(None) } else { Ok(Some(Workspace::parse(name)?)) }
}

/// The limits in force. Destructuring names every setting, so the compiler asks for a new one here.
fn limits_in_force(config: &Config) -> ServerLimits {
    let Config { server, auth, tls: _, store, feed, limits, quotas, telemetry: _, traces: _ } = config;
    let AuthConfig {
        callers: _,
        jwks: _,
        jwt_issuer: _,
        jwt_audience: _,
        jwt_leeway: _,
        jwt_claim: _,
        jwks_refresh: _,
        metrics_open: _,
        reflection: _,
    } = auth;
    let ServerConfig {
        addr: _,
        insecure: _,
        drain_timeout,
        import_idle_timeout,
        http_rate,
        max_connections,
        max_calls_per_connection,
        max_calls,
        receive_bytes,
        send_bytes,
        handshake_timeout,
        idle_timeout,
        receive_timeout,
        send_timeout,
        allowed_hosts: _,
        cors_origins: _,
    } = server;
    let StoreConfig {
        data_dir: _,
        cache_bytes,
        min_free_bytes,
        queue_commands,
        queue_bytes,
        read_concurrency: _,
        scrub_rate: _,
        retention_age,
        retention_bytes,
        subscription_hold_age,
        subscription_hold_bytes,
    } = *store;
    let FeedConfig { ring_bytes, stall_timeout, max_stream_age, max_streams_per_client } = *feed;
    let QuotaConfig { max_call_rate_per_client, max_writes_per_client, max_import_rate_per_client } = *quotas;
    ServerLimits {
        max_call_rate_per_client,
        max_writes_per_client: wide(max_writes_per_client),
        max_import_rate_per_client: max_import_rate_per_client.into(),
        queue_commands: wide(queue_commands),
        queue_bytes: wide(queue_bytes),
        ring_bytes: wide(ring_bytes),
        cache_bytes: wide(cache_bytes),
        min_free_bytes,
        read_concurrency: wide(store.reads()),
        import_idle_timeout: (*import_idle_timeout).try_into().ok(),
        stall_timeout: stall_timeout.try_into().ok(),
        http_rate: *http_rate,
        drain_timeout: (*drain_timeout).try_into().ok(),
        max_connections: wide(*max_connections),
        max_calls_per_connection: u64::from(*max_calls_per_connection),
        max_calls: wide(*max_calls),
        receive_bytes: wide(*receive_bytes),
        send_bytes: wide(*send_bytes),
        handshake_timeout: (*handshake_timeout).try_into().ok(),
        idle_timeout: (*idle_timeout).try_into().ok(),
        receive_timeout: (*receive_timeout).try_into().ok(),
        send_timeout: (*send_timeout).try_into().ok(),
        max_stream_age: max_stream_age.try_into().ok(),
        max_streams_per_client: wide(max_streams_per_client),
        retention_age: retention_age.try_into().ok(),
        retention_bytes,
        subscription_hold_age: subscription_hold_age.try_into().ok(),
        subscription_hold_bytes,
        ..limits_of_callers(limits)
    }
}

fn limits_of_callers(limits: &Limits) -> ServerLimits {
    let Limits {
        profile_bytes,
        attributes,
        attribute_key_bytes,
        attribute_value_bytes,
        identities,
        identity_value_bytes,
        audience_memberships,
        attributions,
        workspaces,
        subscriptions,
        request_bytes,
        batch_keys,
        page_items,
        response_bytes,
    } = *limits;
    ServerLimits {
        max_profile_bytes: wide(profile_bytes),
        max_attributes: wide(attributes),
        max_attribute_key_bytes: wide(attribute_key_bytes),
        max_attribute_value_bytes: wide(attribute_value_bytes),
        max_identities: wide(identities),
        max_identity_value_bytes: wide(identity_value_bytes),
        max_audience_memberships: wide(audience_memberships),
        max_attributions: wide(attributions),
        max_workspaces: wide(workspaces),
        max_subscriptions: wide(subscriptions),
        max_request_bytes: wide(request_bytes),
        max_batch_keys: wide(batch_keys),
        max_page_items: wide(page_items),
        max_response_bytes: wide(response_bytes),
        ..ServerLimits::default()
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
