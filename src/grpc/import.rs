//! `ImportProfiles`: a stream of records into the queue of writes.
//!
//! - A record is read when the queue has room for it: what is not read is held back by the flow control of HTTP/2.
//! - Records are applied in order, each as one command of its own, so a broken stream leaves whole records only.
//! - Answers are taken as they come, between records. What waits here, with those that were refused at the door and are
//!   told in their turn, is bounded as the queue is.

use std::future::{Future, ready};

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesOrdered;
use prost::Message;
use tonic::{Status, Streaming};
use tonic_types::pb as rpc;

use super::profile_service::{Profiles, WriteRequest};
use super::status;
use crate::command::{Change, Command, RequestId, Update};
use crate::model::limits::{IMPORT_REFUSALS, IMPORTS};
use crate::model::{Invalid, Mpid, Patch, Place, ProfileKey, Workspace};
use crate::proto::v1::{ImportProfilesRequest, ImportProfilesResponse, ImportRefusal, WriteOutcome};
use crate::store::{IMPORT_COMMANDS, StoreError, Written};

/// What the first message says for all.
struct Import<'a> {
    profiles: &'a Profiles,
    workspace: Workspace,
    silent: bool,
    validate_only: bool,
}

/// What came of the records so far.
#[derive(Default)]
struct Report {
    answer: ImportProfilesResponse,
    /// Records that have an outcome: all from the first on.
    records: i64,
    latest: Place,
}

/// Applies the records of a stream.
pub(super) async fn run(
    profiles: &Profiles,
    mut records: Streaming<ImportProfilesRequest>,
) -> Result<ImportProfilesResponse, Status> {
    let _place =
        profiles.imports.try_acquire().map_err(|_| status::after_records(status::too_many_imports(IMPORTS), 0))?;
    let mut report = Report::default();
    let first = tokio::select! {
        first = records.message() => first,
        () = profiles.stop.cancelled() => Err(status::draining(None)),
    };
    let ended = match first {
        Ok(Some(first)) => match Import::begin(profiles, &first) {
            Ok(import) => import.run(first, records, &mut report).await,
            Err(invalid) => Err(invalid.into()),
        },
        Ok(None) => Ok(()),
        Err(refusal) => Err(refusal),
    };
    match ended {
        Ok(()) => Ok(report.answer),
        Err(refusal) => Err(status::after_records(refusal, report.records)),
    }
}

impl<'a> Import<'a> {
    fn begin(profiles: &'a Profiles, first: &ImportProfilesRequest) -> Result<Self, Invalid> {
        let workspace = Workspace::parse(&first.workspace)?;
        Ok(Self { profiles, workspace, silent: first.silent, validate_only: first.validate_only })
    }

    async fn run(
        &self,
        first: ImportProfilesRequest,
        mut records: Streaming<ImportProfilesRequest>,
        report: &mut Report,
    ) -> Result<(), Status> {
        let mut answers = FuturesOrdered::new();
        answers.push_back(self.queue(first).await?);
        let ended = loop {
            tokio::select! {
                biased;
                Some(answer) = answers.next() => report.add(answer)?,
                () = self.profiles.stop.cancelled() => break Err(status::draining(None)),
                record = records.message(), if answers.len() < IMPORT_COMMANDS => match record {
                    Ok(Some(record)) => answers.push_back(self.queue(record).await?),
                    Ok(None) => break Ok(()),
                    Err(refusal) => break Err(refusal),
                },
            }
        };
        while let Some(answer) = answers.next().await {
            report.add(answer)?;
        }
        if report.latest > Place::START {
            let cursors = self.profiles.store.cursors(&self.workspace);
            report.answer.cursor = cursors.at(report.latest).to_string();
        }
        ended
    }

    /// Waits for room in the queue, and answers what the record's outcome will be.
    async fn queue(
        &self,
        record: ImportProfilesRequest,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        match self.parse(record) {
            Ok(command) => self.profiles.store.import(command).await.map(Either::Left),
            Err(invalid) => Ok(Either::Right(ready(Err(invalid.into())))),
        }
    }

    fn parse(&self, mut record: ImportProfilesRequest) -> Result<Command, Invalid> {
        if !record.workspace.is_empty() && record.workspace != self.workspace.as_str() {
            return Err(Invalid::field("workspace", "must be that of the first message"));
        }
        // What it comes to, so that a record has one fingerprint wherever it stands.
        record.workspace.clear();
        record.silent |= self.silent;
        record.validate_only |= self.validate_only;
        let id = RequestId::parse(std::mem::take(&mut record.request_id))?;
        let request = id.map(|id| RequestId::new(id, "ImportProfiles", &record));
        let limits = &self.profiles.limits;
        let key = ProfileKey::parse("key", record.key, limits)?;
        let patch = record.patch.ok_or_else(|| Invalid::field("patch", "must be set"))?;
        let patch = Box::new(Patch::parse(patch, limits)?);
        let write = WriteRequest {
            workspace: self.workspace.clone(),
            request,
            silent: record.silent,
            validate_only: record.validate_only,
        };
        let create_as = Some(Mpid::draw());
        Ok(write.command(self.profiles, Change::Update(Update { key, patch, etag: None, create_as })))
    }
}

impl Report {
    /// Counts a record.
    ///
    /// # Errors
    /// What does not concern the record alone.
    fn add(&mut self, answer: Result<Written, StoreError>) -> Result<(), StoreError> {
        match answer {
            Ok(written) => self.count(&written),
            Err(
                error @ (StoreError::Expired { .. }
                | StoreError::Overloaded
                | StoreError::DiskFull { .. }
                | StoreError::Closed
                | StoreError::Failed
                | StoreError::TooManyWorkspaces { .. }
                | StoreError::Panicked
                | StoreError::Storage(_)),
            ) => return Err(error),
            Err(
                error @ (StoreError::ProfileNotFound { .. }
                | StoreError::ProfileExists { .. }
                | StoreError::IdentityTaken { .. }
                | StoreError::EtagMismatch
                | StoreError::RequestIdReused
                | StoreError::Invalid(_)
                | StoreError::Corrupt { .. }),
            ) => self.refuse(error),
        }
        self.records += 1;
        Ok(())
    }

    fn count(&mut self, written: &Written) {
        let count = match written.outcome {
            WriteOutcome::Created => &mut self.answer.created,
            WriteOutcome::Updated => &mut self.answer.updated,
            WriteOutcome::Unchanged | WriteOutcome::Deleted | WriteOutcome::Unspecified => &mut self.answer.unchanged,
        };
        *count += 1;
        self.latest = self.latest.max(written.place.unwrap_or_default());
    }

    fn refuse(&mut self, error: StoreError) {
        self.answer.refused += 1;
        if self.answer.refusals.len() < IMPORT_REFUSALS {
            let error = Status::from(error);
            let error = rpc::Status::decode(error.details()).ok(); // Its details are that message, encoded.
            self.answer.refusals.push(ImportRefusal { position: self.records, error });
        }
    }
}
