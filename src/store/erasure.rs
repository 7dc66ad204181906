//! What an erasure removes from the log: which events hold values of a person, and what is left of each.
//!
//! - A person is a profile and the profiles that it has absorbed. All events of their chains go.
//! - If the person was part of another profile for a time, because a merge was undone or the other profile was deleted,
//!   the events of that time are events of the other profile. They lose the profiles in them.
//! - If the person took an identity from another profile, the earlier events of that profile lose the identity, and so do
//!   those of the profiles that it had it from.
//!
//! What always holds: an event that tells where else to look is rewritten only by a plan that is complete, and after the
//! others. So an erasure that is interrupted can be repeated.
//!
//! The plan is made on the writer for a person with few events, and by a reader first for one with many.

mod link;
mod strip;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::error::StoreError;
use super::rows::{Kind, Other};
use crate::command::{Removal, Rewrite};
use crate::model::identity::keys_of;
use crate::model::{EventKind, IdentityKey, Mpid, Place, Sequence};
pub(super) use link::{Link, profiles};
use link::{gained, holds};
pub(super) use strip::strip;

/// What the plan looks at: the chains of the log.
pub(super) trait Chains {
    /// The place before the oldest event that the log holds.
    fn floor(&self) -> Place;

    /// Returns an event.
    fn link(&self, sequence: Sequence) -> Result<Link, StoreError>;

    /// Returns the latest event of an mpid, whether it has a profile or not.
    fn latest(&self, mpid: Mpid) -> Result<Option<Sequence>, StoreError>;
}

/// What an erasure does to the log.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub rewrites: BTreeMap<Sequence, Planned>,
    /// The mpids of the person.
    pub mpids: BTreeSet<Mpid>,
    /// The events among them that tell where else to look, as far as they were found.
    pub telling: usize,
    /// Whether there is more than the plan holds.
    pub is_partial: bool,
}

/// What an event loses.
#[derive(Debug)]
pub(super) struct Planned {
    pub what: Removal,
    /// The bytes of the event.
    pub bytes: usize,
    /// Whether the event tells where else to look.
    tells: bool,
}

/// Who is to be erased.
#[derive(Debug)]
pub(super) struct Person {
    pub mpid: Mpid,
    /// The latest event of the profile.
    pub latest: Sequence,
    /// The identities that the profile has.
    pub identities: Vec<IdentityKey>,
}

/// How to plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Events up to this place have been rewritten already.
    pub read_to: Place,
    /// The most events to rewrite that do not tell where else to look.
    pub most: usize,
    /// The most that do. They are rewritten last, so a plan holds all of them.
    pub telling: usize,
    /// The most events to read.
    pub links: usize,
    /// The most bytes of events to read.
    pub bytes: usize,
}

/// What the events of a chain lose.
#[derive(Debug, Clone)]
enum Aim {
    /// All values: they are events of the person.
    All,
    /// The profiles: the person was part of this profile.
    Profiles,
    /// These identities: the person took them.
    Identities(Rc<[IdentityKey]>),
}

/// A part of a chain to walk: from an event back to the one behind a place.
#[derive(Debug)]
struct Walk {
    mpid: Mpid,
    from: Option<Sequence>,
    after: Place,
    aim: Aim,
}

struct Planner<'c, C> {
    chains: &'c C,
    floor: Place,
    /// Whether there are events that have been rewritten already.
    has_read: bool,
    bounds: Bounds,
    plan: Plan,
    /// Whether a bound is reached.
    is_full: bool,
    /// The profiles that were absorbed, and the events by which. An mpid may have been that of several profiles.
    included: BTreeSet<(Mpid, Sequence)>,
    /// How far the chains of absorbed profiles have been looked at for what became of their merges.
    looked: BTreeMap<Mpid, Sequence>,
    /// What is still to be walked. A list, because chains may lead on to others without end: a recursion would not do.
    waiting: Vec<Walk>,
    /// The identities that whole chains are searched for, and from where on.
    searched: BTreeMap<(Mpid, IdentityKey), Sequence>,
    /// The identities of the person, as far as they are known yet.
    identities: BTreeSet<IdentityKey>,
}

/// Plans the erasure of a profile, and of those that it has absorbed.
pub(super) fn plan(chains: &impl Chains, person: Person, bounds: Bounds) -> Result<Plan, StoreError> {
    let Person { mpid, latest, identities } = person;
    let (floor, has_read) = (chains.floor().max(bounds.read_to), bounds.read_to > chains.floor());
    let plan = Plan { mpids: BTreeSet::from([mpid]), ..Plan::default() };
    let waiting = vec![Walk { mpid, from: Some(latest), after: floor, aim: Aim::All }];
    let (is_full, included, looked, searched) = (false, BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let identities = identities.into_iter().collect();
    let mut planner =
        Planner { chains, floor, has_read, bounds, plan, is_full, included, looked, waiting, searched, identities };
    while let Some(walk) = planner.waiting.pop().filter(|_| !planner.is_full) {
        planner.walk(walk)?;
    }
    Ok(planner.finish())
}

impl<C: Chains> Planner<'_, C> {
    fn finish(mut self) -> Plan {
        self.plan.is_partial |= self.is_full;
        if self.plan.is_partial {
            // What tells where else to look must still tell it to the next plan.
            self.plan.rewrites.retain(|_, planned| !planned.tells);
        }
        self.plan
    }

    /// Reads an event that is to be looked at, and counts it.
    fn link(&mut self, sequence: Sequence) -> Result<Link, StoreError> {
        let link = self.chains.link(sequence)?;
        let Bounds { most, telling, links, bytes, .. } = &mut self.bounds;
        (*links, *bytes) = (links.saturating_sub(1), bytes.saturating_sub(link.bytes));
        let others = self.plan.rewrites.len() - self.plan.telling;
        self.is_full |= *links == 0 || *bytes == 0 || others > *most || self.plan.telling > *telling;
        Ok(link)
    }

    /// Another chain is to be walked. If events have been rewritten before, by a plan that did not know of this, it must
    /// be made again.
    fn note_other(&mut self) {
        self.plan.is_partial |= self.has_read;
    }

    fn walk(&mut self, Walk { mpid, from, after, aim }: Walk) -> Result<(), StoreError> {
        let (mut next, mut later) = (from, None);
        let after = after.max(self.floor);
        while let Some(sequence) = next.filter(|next| Place::from(*next) > after && !self.is_full) {
            let link = self.link(sequence)?;
            next = link.before(mpid);
            if link.mpid == mpid {
                let is_merge_lost = next.is_some_and(|next| Place::from(next) <= self.floor);
                if let Some(parted) = self.parted(sequence, &link)?.filter(|_| is_merge_lost) {
                    self.walk_survivor(parted.mpid, self.floor, Some(sequence), &aim)?;
                }
                self.visit(sequence, &link, &aim)?;
            } else {
                self.walk_survivor(link.mpid, before(sequence), later, &aim)?;
            }
            later = Some(sequence);
        }
        Ok(())
    }

    /// Has the events of a profile walked from the time when another was part of it. `later` is the next event of the
    /// other after that time.
    fn walk_survivor(
        &mut self,
        survivor: Mpid,
        after: Place,
        later: Option<Sequence>,
        aim: &Aim,
    ) -> Result<(), StoreError> {
        self.note_other();
        let aim = if let Aim::All = aim { Aim::Profiles } else { aim.clone() };
        if let Some(later) = later {
            let restored = self.link(later)?;
            if let Some(parted) = self.parted(later, &restored)?.filter(|link| link.mpid == survivor) {
                let sequence = later.get().checked_sub(1).and_then(Sequence::new).ok_or(Kind::Event.corrupt())?;
                match aim {
                    Aim::Profiles if parted.event.previous.is_some() => {
                        self.lose(sequence, &parted, Removal::Previous);
                    }
                    Aim::Identities(_) => self.visit(sequence, &parted, &aim)?,
                    _ => {}
                }
                self.waiting.push(Walk { mpid: survivor, from: parted.previous, after, aim });
                return Ok(());
            }
        }
        let from = self.end_of(survivor, after)?;
        self.waiting.push(Walk { mpid: survivor, from, after, aim });
        Ok(())
    }

    /// Returns the survivor's event of a merge that was undone, if the given one is that of the restored profile. Either of
    /// the two may have been erased: each names the other, and an absorbed profile has no events of its own.
    fn parted(&mut self, sequence: Sequence, restored: &Link) -> Result<Option<Link>, StoreError> {
        let may_be = matches!(restored.kind, EventKind::Unmerged | EventKind::Erased);
        let before = sequence.get().checked_sub(1).and_then(Sequence::new);
        let Some(before) = before.filter(|before| may_be && Place::from(*before) > self.floor) else { return Ok(None) };
        let link = self.link(before)?;
        let is_pair = match restored.kind {
            EventKind::Unmerged => restored.event.merged_mpid == link.mpid.get(),
            _ => link.kind == EventKind::Unmerged && link.event.merged_mpid == restored.mpid.get(),
        };
        Ok(Some(link).filter(|_| is_pair))
    }

    /// Returns the latest event of the life that a profile had after a place: its next deletion or the merge that is not
    /// undone, or else its latest.
    fn end_of(&mut self, mpid: Mpid, after: Place) -> Result<Option<Sequence>, StoreError> {
        let latest = self.chains.latest(mpid)?;
        let (mut end, mut next) = (latest, latest);
        let after = after.max(self.floor);
        while let Some(sequence) = next.filter(|next| Place::from(*next) > after && !self.is_full) {
            let link = self.link(sequence)?;
            next = link.before(mpid);
            match link.kind {
                EventKind::Deleted | EventKind::Erased if link.mpid == mpid => end = Some(sequence),
                EventKind::Created if link.mpid == mpid => end = next,
                _ => {}
            }
        }
        Ok(end)
    }

    fn visit(&mut self, sequence: Sequence, link: &Link, aim: &Aim) -> Result<(), StoreError> {
        match aim {
            Aim::All => {
                link.other.map_or(Ok(()), |other| self.include(other, sequence))?;
                self.erase(sequence, link)
            }
            Aim::Profiles => {
                if profiles(&link.event).next().is_some() {
                    self.lose(sequence, link, Removal::Profiles);
                }
                Ok(())
            }
            Aim::Identities(keys) => self.search(sequence, link, keys),
        }
    }

    /// Includes a profile that was absorbed by an event, unless the merge was undone.
    fn include(&mut self, absorbed: Other, merged: Sequence) -> Result<(), StoreError> {
        if !self.was_undone(absorbed.mpid, merged)? && self.included.insert((absorbed.mpid, merged)) {
            self.plan.mpids.insert(absorbed.mpid);
            self.note_other();
            let (mpid, from, after) = (absorbed.mpid, absorbed.previous, self.floor);
            self.waiting.push(Walk { mpid, from, after, aim: Aim::All });
        }
        Ok(())
    }

    /// Whether the next event of an absorbed profile is the one that restored it. If it is another, the mpid has been
    /// used for another person since. A chain is asked about from its end to its beginning, so each look goes on where
    /// the one before has ended.
    fn was_undone(&mut self, absorbed: Mpid, merged: Sequence) -> Result<bool, StoreError> {
        let mut next = match self.looked.get(&absorbed) {
            Some(sequence) if *sequence > merged => Some(*sequence),
            _ => self.chains.latest(absorbed)?,
        };
        while let Some(sequence) = next.filter(|next| *next > merged && !self.is_full) {
            self.looked.insert(absorbed, sequence);
            let link = self.link(sequence)?;
            next = link.before(absorbed);
            if next == Some(merged) {
                return Ok(self.parted(sequence, &link)?.is_some());
            }
        }
        Ok(false)
    }

    fn erase(&mut self, sequence: Sequence, link: &Link) -> Result<(), StoreError> {
        if link.kind == EventKind::Erased {
            return Ok(());
        }
        self.identities.extend(profiles(&link.event).flat_map(keys_of));
        self.search_losers(sequence, link, None)?;
        self.lose(sequence, link, Removal::All);
        Ok(())
    }

    /// Has the profiles searched that lost identities by an event, for those that are sought. `None` means those of the
    /// person. If one of the two events was redacted, the other still tells which they were. If both were, it may have been
    /// any of those that are sought.
    fn search_losers(
        &mut self,
        sequence: Sequence,
        link: &Link,
        sought: Option<&[IdentityKey]>,
    ) -> Result<(), StoreError> {
        let losers = link.event.taken_from_mpids.len() as u64;
        for nth in 1..=losers {
            let lost = sequence.get().checked_sub(nth).and_then(Sequence::new);
            let Some(lost) = lost.filter(|lost| Place::from(*lost) > self.floor) else { break };
            self.note_other();
            let loser = self.link(lost)?;
            let mut keys = match (loser.is_stripped(), link.is_stripped()) {
                (false, _) => loser.lost(),
                (true, false) => gained(&link.event),
                (true, true) => sought.map_or_else(|| self.identities.iter().cloned().collect(), <[_]>::to_vec),
            };
            keys.retain(|key| sought.is_none_or(|sought| sought.contains(key)));
            self.search_chain(loser.mpid, lost, &keys);
        }
        Ok(())
    }

    /// Has a chain searched back to its beginning for those of these identities that it is not searched for already.
    fn search_chain(&mut self, mpid: Mpid, from: Sequence, keys: &[IdentityKey]) {
        let is_new = |key: &&IdentityKey| {
            self.searched.get(&(mpid, IdentityKey::clone(key))).is_none_or(|searched| *searched < from)
        };
        let keys: Rc<[_]> = keys.iter().filter(is_new).cloned().collect();
        if keys.is_empty() {
            return;
        }
        self.searched.extend(keys.iter().map(|key| ((mpid, key.clone()), from)));
        self.waiting.push(Walk { mpid, from: Some(from), after: self.floor, aim: Aim::Identities(keys) });
    }

    /// Looks at an event of a profile that lost identities, and for where it had them from.
    fn search(&mut self, sequence: Sequence, link: &Link, keys: &[IdentityKey]) -> Result<(), StoreError> {
        if link.kind == EventKind::Erased {
            return Ok(());
        }
        self.search_losers(sequence, link, Some(keys))?;
        if let Some(Other { mpid, previous: Some(previous) }) = link.other {
            let brought = self.brought(link, previous)?;
            let may_be = |key: &&IdentityKey| brought.as_ref().is_none_or(|brought| brought.contains(key));
            let keys: Vec<_> = keys.iter().filter(may_be).cloned().collect();
            self.search_chain(mpid, previous, &keys);
        }
        if holds(profiles(&link.event), keys) {
            self.lose(sequence, link, Removal::Identities(keys.to_vec()));
        }
        Ok(())
    }

    /// The identities that a profile brought into a merge. `previous` is its event before. `None` if neither that nor the
    /// event of the merge tells.
    fn brought(&mut self, merge: &Link, previous: Sequence) -> Result<Option<Vec<IdentityKey>>, StoreError> {
        if !merge.event.redacted {
            return Ok(Some(gained(&merge.event)));
        }
        if Place::from(previous) <= self.floor {
            return Ok(None);
        }
        Ok(self.link(previous)?.event.profile.as_ref().map(keys_of))
    }

    /// Notes what an event loses, besides what it loses anyway. The profile after the event stays if it may: no later
    /// event may have it.
    fn lose(&mut self, sequence: Sequence, link: &Link, more: Removal) {
        let has = self.plan.rewrites.remove(&sequence).map(|planned| planned.what);
        self.plan.telling += usize::from(has.is_none() && link.tells());
        let what = match (has, more) {
            (None, only) | (Some(only @ Removal::All), _) => only,
            (Some(_), Removal::All) => Removal::All,
            (Some(Removal::Identities(mut keys)), Removal::Identities(more)) => {
                keys.extend(more.into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>());
                Removal::Identities(keys)
            }
            (Some(Removal::Previous), Removal::Previous) => Removal::Previous,
            (Some(Removal::Previous), Removal::Identities(keys))
            | (Some(Removal::Identities(keys)), Removal::Previous)
                if !holds(link.event.profile.iter(), &keys) =>
            {
                Removal::Previous
            }
            _ => Removal::Profiles,
        };
        self.plan.rewrites.insert(sequence, Planned { what, bytes: link.bytes, tells: link.tells() });
    }
}

fn before(sequence: Sequence) -> Place {
    Place::after(sequence.get() - 1)
}

impl Planned {
    /// What it says, as a part of a command.
    pub fn into_rewrite(self, sequence: Sequence) -> Rewrite {
        Rewrite { sequence, what: self.what }
    }
}

impl Plan {
    /// The rewrites as parts of commands, each of at most so many events and, except for the last of each, so many bytes.
    /// Those that tell where else to look come last.
    pub fn into_commands(self, most: usize, bytes: usize) -> Vec<Vec<Rewrite>> {
        let (tell, others): (Vec<_>, Vec<_>) = self.rewrites.into_iter().partition(|(_, planned)| planned.tells);
        let (mut commands, mut held) = (vec![Vec::new()], 0);
        for (sequence, planned) in others.into_iter().chain(tell) {
            let last = commands.last_mut().expect("there is one");
            held += planned.bytes;
            last.push(planned.into_rewrite(sequence));
            if last.len() >= most || held >= bytes {
                commands.push(Vec::new());
                held = 0;
            }
        }
        commands.retain(|command| !command.is_empty());
        commands
    }
}
