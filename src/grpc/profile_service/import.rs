//! `ImportProfiles`: a stream of records into the queue of writes.
//!
//! - The server reads a record when the queue has room for it. Until then HTTP/2 flow control holds the sender back.
//! - Records are applied in order, each as one command of its own, so a broken stream leaves whole records only.
//! - Results are collected between records. Waiting results, including refusals of malformed records, are bounded like
//!   the queue.
//! - An import needs a place while it takes records (`places`). It gives the place back whenever it waits for its sender
//!   and has nothing in the queue. A sender that stays silent ends the import.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesOrdered;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tonic_types::pb as rpc;

use super::super::status;
use super::places::{self, OPEN_IMPORTS, Places};
use super::write::{Write, has_event, parse_patch};
use crate::call::Call;
use crate::command::{Change, Update};
use crate::model::limits::{IMPORT_REFUSALS, IMPORTS};
use crate::model::{Invalid, Limits, Mpid, Place, ProfileKey, Workspace};
use crate::proto::v1::{ImportProfilesRequest, ImportProfilesResponse, ImportRefusal, WriteOutcome};
use crate::refusal::Refusal;
use crate::store::{IMPORT_COMMANDS, Store, StoreError, Written};

/// What the caller is told of a sender that was silent for too long.
const SILENT: &str = "the import sent no record for longer than --import-idle-timeout";

/// Runs imports.
#[derive(Debug, Clone)]
pub(super) struct Importer {
    store: Arc<Store>,
    limits: Limits,
    /// Cancelled when the server shuts down.
    stop: CancellationToken,
    /// How long an import waits for its sender.
    idle_timeout: Duration,
    places: Arc<Places>,
}

/// One import: what its first message says for all of its records.
struct Import<'a> {
    importer: &'a Importer,
    workspace: Workspace,
    silent: bool,
    validate_only: bool,
    call: Arc<Call>,
}

/// Whether an import may take records.
#[derive(Default)]
struct Turn<'a> {
    place: Option<places::Place<'a>>,
    /// Whether it ever had a place.
    has_begun: bool,
}

/// The results of the records so far.
#[derive(Default)]
struct Report {
    response: ImportProfilesResponse,
    /// The number of records, counted from the first, whose outcome is known.
    records: i64,
    /// The place after the latest event of the profiles.
    latest: Place,
    /// The place after the last event that the records made.
    wrote: Place,
}

impl Importer {
    /// Imports end when `stop` is cancelled, or when a sender is silent for `idle_timeout`.
    pub fn new(store: Arc<Store>, limits: Limits, idle_timeout: Duration, stop: CancellationToken) -> Self {
        Self { store, limits, stop, idle_timeout, places: Arc::new(Places::new()) }
    }

    /// Applies the records of a stream. A refusal says how many of them have an outcome.
    pub async fn run(
        &self,
        call: &Arc<Call>,
        records: Streaming<ImportProfilesRequest>,
    ) -> Result<ImportProfilesResponse, Refusal> {
        let mut report = Report::default();
        match self.import(call, records, &mut report).await {
            Ok(()) => Ok(report.response),
            Err(refusal) => Err(call.refuse(refusal).with("records", &report.records)),
        }
    }

    async fn import(
        &self,
        call: &Arc<Call>,
        mut records: Streaming<ImportProfilesRequest>,
        report: &mut Report,
    ) -> Result<(), Refusal> {
        let _open = self.places.open().ok_or_else(|| Refusal::too_many_imports(OPEN_IMPORTS))?;
        let Some(first) = self.wait(&mut records).await? else { return Ok(()) };
        Import::begin(self, Arc::clone(call), &first)?.run(first, records, report).await
    }

    /// Waits for the sender, which may be silent for long. The import that is silent for longest ends when too many are
    /// open.
    async fn wait(
        &self,
        records: &mut Streaming<ImportProfilesRequest>,
    ) -> Result<Option<ImportProfilesRequest>, Refusal> {
        let silence = self.places.fall_silent();
        tokio::select! {
            biased;
            record = tokio::time::timeout(self.idle_timeout, next(records)) => {
                record.unwrap_or_else(|_| Err(Refusal::deadline_exceeded(SILENT)))
            }
            () = silence.is_broken() => Err(Refusal::too_many_imports(OPEN_IMPORTS)),
            () = self.stop.cancelled() => Err(Refusal::draining()),
        }
    }
}

impl<'a> Import<'a> {
    fn begin(importer: &'a Importer, call: Arc<Call>, first: &ImportProfilesRequest) -> Result<Self, Refusal> {
        let workspace = Workspace::parse(&first.workspace)?;
        call.within(&workspace)?;
        Ok(Self { importer, workspace, silent: first.silent, validate_only: first.validate_only, call })
    }

    async fn run(
        &self,
        first: ImportProfilesRequest,
        mut records: Streaming<ImportProfilesRequest>,
        report: &mut Report,
    ) -> Result<(), Refusal> {
        let (mut writes, mut turn) = (FuturesOrdered::new(), Turn::default());
        self.pace(first.encoded_len()).await?;
        writes.push_back(self.queue(first, &mut turn).await?);
        let ended = loop {
            let record = if writes.is_empty() {
                turn.place = None;
                self.importer.wait(&mut records).await
            } else {
                let may_take = writes.len() < IMPORT_COMMANDS && !turn.is_over();
                tokio::select! {
                    biased;
                    Some(written) = writes.next() => {
                        self.count(written, report)?;
                        continue;
                    }
                    () = self.importer.stop.cancelled() => break Err(Refusal::draining()),
                    record = next(&mut records), if may_take => record,
                }
            };
            match record {
                Ok(Some(record)) => {
                    if let Err(refusal) = self.call.still_authenticated() {
                        break Err(refusal);
                    }
                    let bytes = record.encoded_len();
                    if !self.call.may_import(bytes) {
                        self.finish(&mut writes, report).await?; // Before it waits, others may have its place.
                        turn.place = None;
                        if let Err(refusal) = self.pace(bytes).await {
                            break Err(refusal);
                        }
                    }
                    match self.queue(record, &mut turn).await {
                        Ok(write) => writes.push_back(write),
                        Err(refusal) => break Err(refusal),
                    }
                }
                Ok(None) => break Ok(()),
                Err(refusal) => break Err(refusal),
            }
        };
        self.finish(&mut writes, report).await?;
        if report.latest > Place::START {
            let cursors = self.importer.store.cursors(&self.workspace);
            report.response.cursor = cursors.at(report.latest).to_string();
        }
        ended
    }

    /// Waits until the client may import this many bytes more.
    async fn pace(&self, bytes: usize) -> Result<(), Refusal> {
        tokio::select! {
            () = self.call.import(bytes) => Ok(()),
            () = self.importer.stop.cancelled() => Err(Refusal::draining()),
        }
    }

    /// Waits for the outcomes of the records in the queue.
    async fn finish<W>(&self, writes: &mut FuturesOrdered<W>, report: &mut Report) -> Result<(), Refusal>
    where
        W: Future<Output = Result<Written, StoreError>>,
    {
        while let Some(written) = writes.next().await {
            self.count(written, report)?;
        }
        Ok(())
    }

    /// Waits for a place and for room in the queue. The future that it returns is the record's outcome.
    async fn queue(
        &self,
        record: ImportProfilesRequest,
        turn: &mut Turn<'a>,
    ) -> Result<impl Future<Output = Result<Written, StoreError>> + use<'a>, Refusal> {
        let Importer { store, limits, places, .. } = self.importer;
        let write = match self.parse(record) {
            Ok(write) => write,
            Err(invalid) => return Ok(Either::Right(ready(Err(invalid.into())))),
        };
        let _held = places.hold(write.weight()).ok_or_else(|| self.call.refuse(StoreError::Overloaded))?;
        self.take_place(turn).await?;
        let queued = store.import(write.command(&self.call, store, limits)).await;
        queued.map(Either::Left).map_err(|error| self.call.refuse(error))
    }

    async fn take_place(&self, turn: &mut Turn<'a>) -> Result<(), Refusal> {
        if turn.place.is_some() {
            return Ok(());
        }
        let Importer { places, stop, .. } = self.importer;
        let place = async { if turn.has_begun { Some(places.take().await) } else { places.begin().await } };
        let place = tokio::select! {
            place = place => place.ok_or_else(|| Refusal::too_many_imports(IMPORTS))?,
            () = stop.cancelled() => return Err(Refusal::draining()),
        };
        *turn = Turn { place: Some(place), has_begun: true };
        Ok(())
    }

    fn parse(&self, mut record: ImportProfilesRequest) -> Result<Write, Invalid> {
        if !record.workspace.is_empty() && record.workspace != self.workspace.as_str() {
            return Err(Invalid::field("workspace", "must be empty or the same as in the first message"));
        }
        // Adds the settings of the first message, so that a record has the same fingerprint at any position.
        record.workspace.clear();
        record.silent |= self.silent;
        record.validate_only |= self.validate_only;
        let limits = &self.importer.limits;
        Write::within(self.workspace.clone(), record, |record| {
            let key = ProfileKey::parse("key", record.key, limits)?;
            let patch = parse_patch(record.patch, limits)?;
            Ok(Change::Update(Update { key, patch, etag: None, create_as: Some(Mpid::draw()) }))
        })
    }

    /// Counts a record.
    ///
    /// # Errors
    /// What concerns more than the record.
    fn count(&self, written: Result<Written, StoreError>, report: &mut Report) -> Result<(), Refusal> {
        match written {
            Ok(written) => {
                report.count(&written);
                self.call.wrote(Some(report.wrote)); // At once: the client may end the call at any record.
            }
            Err(error) if ends_import(&error) => return Err(self.call.refuse(error)),
            Err(error) => report.refuse(self.call.refuse(error)),
        }
        report.records += 1;
        Ok(())
    }
}

impl Turn<'_> {
    fn is_over(&self) -> bool {
        self.place.as_ref().is_some_and(places::Place::is_over)
    }
}

impl Report {
    fn count(&mut self, written: &Written) {
        let response = &mut self.response;
        let count = match written.outcome {
            WriteOutcome::Created => &mut response.created,
            WriteOutcome::Updated => &mut response.updated,
            WriteOutcome::Unchanged | WriteOutcome::Deleted | WriteOutcome::Erased | WriteOutcome::Unspecified => {
                &mut response.unchanged
            }
        };
        *count += 1;
        let place = written.place.unwrap_or_default();
        self.latest = self.latest.max(place);
        if has_event(written) {
            self.wrote = self.wrote.max(place);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.response.refused += 1;
        if self.response.refusals.len() < IMPORT_REFUSALS {
            let status = Status::from(refusal);
            let error = rpc::Status::decode(status.details()).ok(); // Its details are that message, encoded.
            self.response.refusals.push(ImportRefusal { position: self.records, error });
        }
    }
}

/// Whether an error ends the import rather than failing one record.
fn ends_import(error: &StoreError) -> bool {
    match error {
        StoreError::Expired { .. }
        | StoreError::Overloaded
        | StoreError::DiskFull { .. }
        | StoreError::Closed
        | StoreError::Failed
        | StoreError::TooManyWorkspaces { .. }
        | StoreError::Panicked
        | StoreError::Storage(_) => true,
        StoreError::ProfileNotFound { .. }
        | StoreError::ProfileExists { .. }
        | StoreError::IdentityTaken { .. }
        | StoreError::EtagMismatch
        | StoreError::RequestIdReused
        | StoreError::Invalid(_)
        | StoreError::SubscriptionNotFound { .. }
        | StoreError::SubscriptionExists { .. }
        | StoreError::TakenOver
        | StoreError::TooManySubscriptions { .. }
        | StoreError::EventNotFound { .. }
        | StoreError::AudienceNotFound { .. }
        | StoreError::AudienceExists { .. }
        | StoreError::AudienceDeleting { .. }
        | StoreError::IdentityConflict { .. }
        | StoreError::MergeSelf
        | StoreError::MergeCycle { .. }
        | StoreError::MergeNotFound { .. }
        | StoreError::MergeNotReversible { .. }
        | StoreError::TooManyEvents
        | StoreError::Corrupt { .. } => false,
    }
}

/// The next record. If the stream breaks, the caller or the connection ended it.
async fn next(records: &mut Streaming<ImportProfilesRequest>) -> Result<Option<ImportProfilesRequest>, Refusal> {
    let broken = |status: Status| {
        let refusal = status::carried(&status).or_else(|| status::explained(&status));
        refusal.unwrap_or_else(|| Refusal::deadline_exceeded("the stream of records broke off"))
    };
    records.message().await.map_err(broken)
}
