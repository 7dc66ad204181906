//! `ExportSubject`: everything that the store holds on one person, as one JSON document in parts.
//!
//! The parts are made one after another, as fast as the caller reads them: the profile and its merges, then a page of
//! the history at a time.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use serde_json::{Value, json};
use tonic::Status;

use super::super::codec::Encoded;
use crate::call::Call;
use crate::model::cursor::Start;
use crate::model::{Filter, Invalid, Limits, Micros, Mpid, Place, ProfileKey, Workspace};
use crate::proto::json as protobuf;
use crate::proto::v1::{Event, EventFilter, ExportSubjectRequest, ExportSubjectResponse};
use crate::refusal::Refusal;
use crate::store::{PageSize, ReadClass, Store, StoreError, Subject};

/// The bytes of events after which a part ends. The last event may exceed it.
const PART_BYTES: usize = 256 << 10;
/// The most events of a part.
const PART_EVENTS: usize = 256;

/// The stream of the parts.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

/// A parsed `ExportSubjectRequest`.
pub(super) struct Export {
    pub workspace: Workspace,
    key: ProfileKey,
}

/// What comes next.
enum Next {
    Head(ProfileKey),
    /// The last of these merges: the profile that was absorbed, and the one that it was merged into.
    Merges {
        merges: Vec<(Mpid, Mpid)>,
        mpids: Vec<Mpid>,
        is_first: bool,
    },
    /// The history of the last of these profiles, after a place.
    History {
        mpids: Vec<Mpid>,
        after: Place,
        is_first: bool,
    },
    Done,
}

struct Exporter {
    store: Arc<Store>,
    call: Arc<Call>,
    workspace: Workspace,
    next: Next,
}

impl Export {
    pub fn parse(request: ExportSubjectRequest, limits: &Limits) -> Result<Self, Invalid> {
        Ok(Self {
            workspace: Workspace::parse(&request.workspace)?,
            key: ProfileKey::parse("key", request.key, limits)?,
        })
    }

    /// Reads the first part, so that a profile that does not exist fails the call, and returns all parts.
    pub async fn run(self, call: &Arc<Call>, store: &Arc<Store>) -> Result<Parts, Refusal> {
        let Self { workspace, key } = self;
        let mut exporter =
            Exporter { store: Arc::clone(store), call: Arc::clone(call), workspace, next: Next::Head(key) };
        let head = exporter.part().await?.map(encoded);
        let rest = stream::unfold(exporter, |mut exporter| async move {
            let part = exporter.part().await.transpose()?; // After an error, nothing comes next.
            Some((part.map(encoded).map_err(Status::from), exporter))
        });
        Ok(Box::pin(stream::iter(head.map(Ok)).chain(rest)))
    }
}

impl Exporter {
    /// The next part. `None` after the last.
    async fn part(&mut self) -> Result<Option<String>, Refusal> {
        self.call.still_authenticated().map_err(|refusal| self.call.refuse(refusal))?;
        match std::mem::replace(&mut self.next, Next::Done) {
            Next::Head(key) => self.head(key).await.map(Some),
            Next::Merges { merges, mpids, is_first } => self.merge(merges, mpids, is_first).await.map(Some),
            Next::History { mpids, after, is_first } => self.history(mpids, after, is_first).await.map(Some),
            Next::Done => Ok(None),
        }
    }

    /// The document up to the merges.
    async fn head(&mut self, key: ProfileKey) -> Result<String, Refusal> {
        let workspace = self.workspace.clone();
        let read = move |store: &Store, _: &Call| {
            let found = store.subject(&workspace, &key)?.ok_or_else(|| StoreError::not_found(&key))?;
            let document = head_of(&workspace, &found, store.now())?;
            Ok::<_, StoreError>((document, found))
        };
        let (document, found) = self.call.read(&self.store, ReadClass::Scan, read).await?;
        let (mut mpids, mut merges) = (found.mpids, found.merges);
        mpids.reverse();
        merges.reverse();
        self.next = Next::Merges { merges, mpids, is_first: true };
        Ok(document)
    }

    /// A merge, or the beginning of the history after the last.
    async fn merge(
        &mut self,
        mut merges: Vec<(Mpid, Mpid)>,
        mpids: Vec<Mpid>,
        is_first: bool,
    ) -> Result<String, Refusal> {
        let Some((mpid, into)) = merges.pop() else {
            self.next = Next::History { mpids, after: Place::START, is_first: true };
            return Ok(r#"],"history":["#.into());
        };
        let workspace = self.workspace.clone();
        let read = move |store: &Store, _: &Call| merge_of(store, &workspace, mpid, into);
        let part = self.call.read(&self.store, ReadClass::Scan, read).await?;
        self.next = Next::Merges { merges, mpids, is_first: false };
        Ok(if is_first { part } else { format!(",{part}") })
    }

    /// A page of the history of a profile, and the end of the document after the last.
    async fn history(&mut self, mut mpids: Vec<Mpid>, after: Place, mut is_first: bool) -> Result<String, Refusal> {
        let Some(mpid) = mpids.last().copied() else { return Ok("]}".into()) };
        let workspace = self.workspace.clone();
        let read = move |store: &Store, _: &Call| history_of(store, &workspace, mpid, after);
        let (events, through, is_complete) = self.call.read(&self.store, ReadClass::Scan, read).await?;
        let mut part = String::new();
        for event in events {
            if !std::mem::take(&mut is_first) {
                part.push(',');
            }
            part.push_str(&event.to_string());
        }
        if is_complete {
            mpids.pop();
        }
        self.next = Next::History { mpids, after: if is_complete { Place::START } else { through }, is_first };
        Ok(part)
    }
}

fn encoded(document: String) -> Encoded {
    Encoded::new(&ExportSubjectResponse { document })
}

/// The document up to the first merge.
fn head_of(workspace: &Workspace, subject: &Subject, now: Micros) -> Result<String, StoreError> {
    let corrupt = |_| StoreError::corrupt("profile");
    let profile = subject.profile.as_ref().map(protobuf::profile).transpose().map_err(corrupt)?;
    let memberships = profile.as_ref().and_then(|profile| profile.get("audienceMemberships")).cloned();
    let head = json!({
        "workspace": workspace.as_str(),
        "mpid": subject.mpid.to_string(),
        "exportTime": now.to_timestamp().to_string(),
        "profile": profile,
        "memberships": memberships.unwrap_or(Value::Array(Vec::new())),
    });
    let mut document = head.to_string();
    document.pop(); // The closing brace comes after the history.
    document.push_str(r#","merges":["#);
    Ok(document)
}

/// A merge, as JSON. Empty if it was undone meanwhile.
fn merge_of(store: &Store, workspace: &Workspace, mpid: Mpid, into: Mpid) -> Result<String, StoreError> {
    let merged = store.merged(workspace, mpid)?;
    let absorbed = merged.as_ref().map(|(_, absorbed)| protobuf::profile(absorbed)).transpose();
    let merge = json!({
        "mergedMpid": mpid.to_string(),
        "intoMpid": into.to_string(),
        "sequence": merged.as_ref().map(|(sequence, _)| sequence.to_string()),
        "absorbedProfile": absorbed.map_err(|_| StoreError::corrupt("merge"))?,
    });
    Ok(merge.to_string())
}

/// A page of a profile's events: those that are its own. The event of a merge is that of the survivor.
fn history_of(
    store: &Store,
    workspace: &Workspace,
    mpid: Mpid,
    after: Place,
) -> Result<(Vec<Value>, Place, bool), StoreError> {
    let filter = Filter::parse(Some(EventFilter { mpids: vec![mpid.get()], ..EventFilter::default() }), None)?;
    let listing = store.listing(workspace)?;
    let (bounds, _) = listing.begin(&Start::Earliest)?;
    let size = PageSize { items: PART_EVENTS, bytes: PART_BYTES };
    let mut events = Vec::new();
    let begin = if after == Place::START { store.life_of(workspace, mpid)? } else { after };
    let page = listing.events(begin.max(bounds.floor), &filter, size, |event| {
        if event.mpid != mpid {
            return Ok(None);
        }
        let corrupt = StoreError::corrupt("event");
        let Ok(decoded) = Event::decode(event.event) else { return Err(corrupt) };
        events.push(protobuf::event(&decoded).map_err(|_| corrupt)?);
        Ok(Some(event.event.len()))
    })?;
    Ok((events, page.page.through, page.page.complete))
}
