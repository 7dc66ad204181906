//! `cameo.v1.ProfileService`.
//!
//! - `read`: the lookups of one profile, a batch and a page.
//! - `write`: creates, updates and deletes, and the fields that all writes share.
//! - `export`: all that is held on one person, as JSON.
//! - `import`: the stream of writes. `places`: how many may run.

mod export;
mod import;
mod places;
mod read;
pub(super) mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::codec::Encoded;
use super::server::profile_service_server::ProfileService;
use crate::call::Call;
use crate::model::Limits;
use crate::proto::v1::{
    BatchGetProfilesRequest, CreateProfileRequest, DeleteProfileRequest, DeleteProfileResponse, EraseProfileRequest,
    ExportSubjectRequest, GetProfileRequest, ImportProfilesRequest, ListProfilesRequest, UpdateProfileRequest,
};
use crate::store::{ReadClass, Store};
use export::{Export, Parts};
use import::Importer;
use read::{Batch, Get, List};
use write::Write;

/// The service.
#[derive(Debug, Clone)]
pub struct Profiles {
    store: Arc<Store>,
    limits: Limits,
    importer: Importer,
}

impl Profiles {
    /// The service on a store. Imports end when `stop` is cancelled, or when their sender is silent for
    /// `import_idle_timeout`.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits, import_idle_timeout: Duration, stop: CancellationToken) -> Self {
        Self { importer: Importer::new(Arc::clone(&store), limits, import_idle_timeout, stop), store, limits }
    }
}

#[tonic::async_trait]
impl ProfileService for Profiles {
    async fn get_profile(&self, request: Request<GetProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let get = Get::parse(request.into_inner(), &self.limits, call.grant()).map_err(|error| call.refuse(error))?;
        call.within(&get.workspace).map_err(|refusal| call.refuse(refusal))?;
        let found = get.run(&self.store).map_err(|error| call.refuse(error))?;
        Ok(Response::new(found))
    }

    async fn batch_get_profiles(&self, request: Request<BatchGetProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let batch =
            Batch::parse(request.into_inner(), &self.limits, call.grant()).map_err(|error| call.refuse(error))?;
        call.within(&batch.workspace).map_err(|refusal| call.refuse(refusal))?;
        Ok(Response::new(call.read(&self.store, ReadClass::Batch, move |store, call| batch.run(store, call)).await?))
    }

    async fn list_profiles(&self, request: Request<ListProfilesRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let list = List::parse(request.into_inner(), &self.limits, call.grant()).map_err(|error| call.refuse(error))?;
        call.within(&list.workspace).map_err(|refusal| call.refuse(refusal))?;
        Ok(Response::new(call.read(&self.store, ReadClass::Scan, move |store, _| list.run(store)).await?))
    }

    async fn create_profile(&self, request: Request<CreateProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let create = Write::create(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        let (written, cursor) = create.run(&call, &self.store, &self.limits).await?;
        Ok(Response::new(write::profile_response(&written, cursor.as_deref(), None)))
    }

    async fn update_profile(&self, request: Request<UpdateProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let update = Write::update(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        let redirected = update.redirects();
        let (written, cursor) = update.run(&call, &self.store, &self.limits).await?;
        Ok(Response::new(write::update_response(&written, cursor.as_deref(), redirected)))
    }

    async fn delete_profile(&self, request: Request<DeleteProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let delete = Write::delete(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        let (written, cursor) = delete.run(&call, &self.store, &self.limits).await?;
        let outcome = written.outcome.into();
        let response = DeleteProfileResponse { cursor: cursor.unwrap_or_default(), outcome };
        Ok(Response::new(Encoded::new(&response)))
    }

    async fn erase_profile(&self, request: Request<EraseProfileRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let erase = Write::erase(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        let (written, cursor) = erase.erase_with(&call, &self.store, &self.limits).await?;
        Ok(Response::new(write::erase_response(&written, cursor)))
    }

    type ExportSubjectStream = Parts;

    async fn export_subject(&self, request: Request<ExportSubjectRequest>) -> Result<Response<Parts>, Status> {
        let call = Call::of(request.extensions());
        let export = Export::parse(request.into_inner(), &self.limits).map_err(|error| call.refuse(error))?;
        call.within(&export.workspace).map_err(|refusal| call.refuse(refusal))?;
        Ok(Response::new(export.run(&call, &self.store).await?))
    }

    async fn import_profiles(
        &self,
        request: Request<Streaming<ImportProfilesRequest>>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::of(request.extensions());
        let response = self.importer.run(&call, request.into_inner()).await?;
        Ok(Response::new(Encoded::new(&response)))
    }
}
