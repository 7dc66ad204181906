//! `EraseProfile`: the profile goes as by a delete, and so does what the log, merges and requests hold of it.
//!
//! A profile with more events than one command may rewrite is erased in several commands: first [`rewrite`] for most of
//! its events, then [`decide`] for the rest and the profile itself.

use std::collections::BTreeSet;

use prost::Message;

use super::super::effects::RowTable;
use super::super::erasure::{Bounds, Chains, Link, Person, plan, profiles, strip};
use super::super::error::StoreError;
use super::super::rows::{Kind, request_key};
use super::draft::Draft;
use super::merge::bury_absorbed;
use super::state::{Context, Found, Stored};
use super::{Verdict, records};
use crate::command::{Erase, EraseEvents, Removal, Rewrite};
use crate::model::identity::keys_of;
use crate::model::{IdentityKey, Mpid, Place, ProfileKey, Sequence};
use crate::proto::v1::{EraseProfileResponse, Event, WriteOutcome};

/// The most events that the plan of one command reads, and the most bytes of them. A person with more is planned by a
/// reader.
const LINKS: usize = 8_192;
const BYTES: usize = 16 << 20;

/// Who is to be erased.
enum Subject {
    Profile(Mpid, Box<Stored>),
    /// The profile was deleted, and this is its latest event.
    Gone(Mpid, Sequence),
}

pub(super) fn decide(context: &Context<'_, '_>, erase: &Erase) -> Result<Verdict, StoreError> {
    let Erase { key, etag, allow_missing, most, begun } = erase;
    let missing = || match allow_missing {
        true if etag.is_some() => Err(StoreError::EtagMismatch),
        true => Ok(Verdict::unchanged(None, context.head.place, None)),
        false => Err(StoreError::not_found(key)),
    };
    let Some(subject) = subject(context, key)? else { return missing() };
    let (mpid, latest) = match &subject {
        Subject::Profile(mpid, stored) => {
            stored.check(etag.as_ref())?;
            (*mpid, stored.last_event)
        }
        Subject::Gone(..) if etag.is_some() => return Err(StoreError::EtagMismatch),
        Subject::Gone(mpid, latest) => (*mpid, *latest),
    };
    // The key may lead to another profile than the one whose events were rewritten.
    let begun = begun.filter(|begun| begun.mpid == mpid);
    let read_to = begun.map_or(Place::START, |begun| begun.read_to);
    let bounds = Bounds { read_to, most: *most, telling: *most, links: LINKS, bytes: BYTES };
    let identities = match &subject {
        Subject::Profile(_, stored) => keys_of(&stored.profile),
        Subject::Gone(..) => Vec::new(),
    };
    let plan = plan(context, Person { mpid, latest, identities: identities.clone() }, bounds)?;
    let is_too_much = plan.is_partial || plan.rewrites.len() > *most;
    if is_too_much && !context.command.validate_only {
        return Err(StoreError::TooManyEvents);
    }
    let was_erased = matches!(subject, Subject::Gone(..)) && plan.rewrites.is_empty();
    if was_erased && begun.is_none() {
        return missing();
    }

    let mut draft = Draft::new(context);
    let mut mpids = vec![mpid];
    let events = plan.rewrites.len();
    let rewrites = plan.rewrites.into_iter().map(|(sequence, planned)| planned.into_rewrite(sequence));
    let mut theirs = rewrite_events(context, &mut draft, rewrites)?;
    theirs.extend(identities);
    if let Subject::Profile(mpid, stored) = &subject {
        draft.erase(*mpid, stored)?;
        let (buried, remembered) = bury_absorbed(context, &mut draft, *mpid)?;
        mpids.extend(buried);
        theirs.extend(remembered);
    }
    records::forget(&mut draft, &theirs, &mpids)?;
    let (effects, place) = draft.finish();
    let response = EraseProfileResponse {
        mpids: mpids.iter().map(|mpid| mpid.get()).collect(),
        events: i64::try_from(events).unwrap_or(i64::MAX),
        ..EraseProfileResponse::default()
    };
    let detail = response.encode_to_vec().into();
    Ok(Verdict { detail, ..Verdict::wrote(WriteOutcome::Erased, mpid, place, effects) })
}

/// Removes values from events: see [`EraseEvents`].
pub(super) fn rewrite(context: &Context<'_, '_>, erase: &EraseEvents) -> Result<Verdict, StoreError> {
    let mut draft = Draft::new(context);
    let held = |rewrite: &&Rewrite| context.exists && Place::from(rewrite.sequence) > context.head.floor;
    let theirs = rewrite_events(context, &mut draft, erase.rewrites.iter().filter(held).cloned())?;
    records::forget(&mut draft, &theirs, &[])?;
    let (effects, place) = draft.finish();
    Ok(Verdict { effects, outcome: WriteOutcome::Updated, ..Verdict::unchanged(None, place, None) })
}

fn subject(context: &Context<'_, '_>, key: &ProfileKey) -> Result<Option<Subject>, StoreError> {
    if let Some((mpid, stored)) = context.find(key)? {
        return Ok(Some(Subject::Profile(mpid, Box::new(stored))));
    }
    let ProfileKey::Mpid(mpid) = key else { return Ok(None) };
    Ok(match context.found(*mpid)? {
        Found::Gone(latest) => Some(Subject::Gone(*mpid, latest)),
        _ => None,
    })
}

/// Removes values from events, and from what requests keep of what these events told. Returns the identities of the
/// person that they told.
fn rewrite_events(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    rewrites: impl IntoIterator<Item = Rewrite>,
) -> Result<BTreeSet<IdentityKey>, StoreError> {
    let (mut identities, mut requests) = (BTreeSet::new(), BTreeSet::new());
    for Rewrite { sequence, what } in rewrites {
        let event = rewrite_event(context, draft, sequence, &what)?;
        if matches!(what, Removal::All | Removal::Profiles) && !event.request_id.is_empty() {
            requests.insert((event.actor.clone(), event.request_id.clone()));
        }
        match what {
            Removal::All => identities.extend(profiles(&event).flat_map(keys_of)),
            Removal::Identities(keys) => identities.extend(keys),
            Removal::Profiles | Removal::Previous => {}
        }
    }
    for (caller, id) in requests {
        forget_request(context, draft, Some(&*caller).filter(|caller| !caller.is_empty()), &id)?;
    }
    Ok(identities)
}

/// Removes values from an event. Returns the event as it was.
fn rewrite_event(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    sequence: Sequence,
    what: &Removal,
) -> Result<Event, StoreError> {
    let rewritten = context.state.tables.event(context.workspace, sequence, |row| {
        let event = Event::decode(row.event).map_err(|_| Kind::Event.corrupt())?;
        let was = row.encode(context.workspace, sequence).len();
        Ok((event, was, strip(context.workspace, sequence, &row, what)?))
    })?;
    let Some((event, was, row)) = rewritten else { return Err(Kind::Event.corrupt()) };
    draft.rewritten[0] += was as u64;
    draft.rewritten[1] += row.len() as u64;
    draft.effects.rewritten.push((sequence, row));
    Ok(event)
}

/// Keeps the id of a request, so that a repeat is refused, and nothing that tells of its content.
fn forget_request(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    caller: Option<&str>,
    id: &str,
) -> Result<(), StoreError> {
    let key = request_key(context.workspace, caller, id);
    if let Some(mut row) = context.state.tables.request(&key)? {
        row.fingerprint = 0;
        row.detail.clear();
        let row = row.encode(&key);
        draft.put(RowTable::Request, key, Some(row));
    }
    Ok(())
}

impl Chains for Context<'_, '_> {
    fn floor(&self) -> Place {
        self.head.floor
    }

    fn link(&self, sequence: Sequence) -> Result<Link, StoreError> {
        let link = self.state.tables.event(self.workspace, sequence, |row| Link::read(&row))?;
        link.ok_or(Kind::Event.corrupt())
    }

    fn latest(&self, mpid: Mpid) -> Result<Option<Sequence>, StoreError> {
        self.state.tables.profile(self.workspace, mpid, |row| Ok(row.last_event))
    }
}
