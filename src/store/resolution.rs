//! Which profile some identities name: the rules of `IdentifyProfile`.
//!
//! The writer and the readers share them. So a call that changes nothing is answered without the writer, exactly as the
//! writer would.

use std::collections::BTreeMap;

use super::error::{Problem, StoreError};
use crate::model::identity::ParsedIdentity;
use crate::model::{IdentityKey, IdentitySettings, Invalid, Mpid};
use crate::proto::v1::{
    IdentifyProfileResponse, IdentityMatch, InvolvedOutcome, InvolvedProfile, MatchReason, UnlinkedIdentity,
    UnlinkedReason,
};

/// Who owns what.
pub(super) trait Owners {
    /// Returns the owner of an identity.
    fn owner_of(&self, key: &IdentityKey) -> Result<Option<Mpid>, StoreError>;

    /// Returns the identities of a profile that owns some.
    fn identities_of(&self, mpid: Mpid) -> Result<Vec<IdentityKey>, StoreError>;
}

/// What a workspace knows of some identities.
#[derive(Debug)]
pub(super) struct Resolution {
    /// The profile that matches. `None` if one must be created.
    pub found: Option<Mpid>,
    matched: Option<IdentityMatch>,
    /// The other owners.
    pub others: BTreeMap<Mpid, Involved>,
    /// Indexes of the identities in the request that no profile has.
    pub free: Vec<usize>,
    unlinked: Vec<UnlinkedIdentity>,
    linked: Vec<i32>,
}

/// Another owner of some of the identities.
#[derive(Debug)]
pub(super) struct Involved {
    indexes: Vec<i32>,
    pub outcome: InvolvedOutcome,
}

impl Resolution {
    /// Finds the profile that matches.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if no identity may link, or two have different values of a unique type.
    pub fn of(
        owners: &impl Owners,
        settings: &IdentitySettings,
        identities: &[ParsedIdentity],
    ) -> Result<Self, StoreError> {
        let links = |index: &usize| settings.links(&identities[*index].key);
        let (mut linking, never): (Vec<_>, Vec<_>) = (0..identities.len()).partition(links);
        if linking.is_empty() {
            return Err(Invalid::field("identities", "at least one must be of a type that links").into());
        }
        check_unique(settings, identities, &linking)?;
        let asked: Vec<_> = linking.iter().map(|index| identities[*index].key.clone()).collect();
        linking.sort_by_key(|index| (settings.rank(&identities[*index].key), *index));

        let (mut owned, mut free) = (Vec::new(), Vec::new());
        for index in linking {
            match owners.owner_of(&identities[index].key)? {
                Some(owner) => owned.push((index, owner)),
                None => free.push(index),
            }
        }
        free.sort_unstable();
        let mut others = BTreeMap::<Mpid, Involved>::new();
        for (index, owner) in &owned {
            let involved = others.entry(*owner);
            let involved = match involved {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let contradicts = settings.has_unique_types()
                        && settings.contradiction(&owners.identities_of(*owner)?, &asked).is_some();
                    let outcome = if contradicts { InvolvedOutcome::Contradicts } else { InvolvedOutcome::Kept };
                    new.insert(Involved { indexes: Vec::new(), outcome })
                }
            };
            involved.indexes.push(place(*index));
        }
        let matching = owned.iter().position(|(_, owner)| others[owner].outcome == InvolvedOutcome::Kept);
        let matched = matching.map(|at| {
            let reason = match at {
                _ if others.len() == 1 => MatchReason::OnlyOwner,
                0 => MatchReason::HighestPriority,
                _ => MatchReason::OthersContradict,
            };
            let index = owned[at].0;
            let kind = identities[index].key.kind().to_owned();
            IdentityMatch { index: place(index), r#type: kind, reason: reason.into() }
        });
        let found = matching.map(|at| owned[at].1);
        if let Some(found) = found {
            others.remove(&found);
        }
        for involved in others.values_mut() {
            involved.indexes.sort_unstable();
        }
        let unlinked = never.into_iter().map(|index| unlinked(index, UnlinkedReason::NeverLinks)).collect();
        Ok(Self { found, matched, others, free, unlinked, linked: Vec::new() })
    }

    /// The conflict that a caller does not accept. `None` if no other profile owns any of the identities.
    pub fn conflict(&self) -> Option<StoreError> {
        let problems = self.others.iter().map(|(mpid, involved)| {
            let owned: Vec<_> = involved.indexes.iter().map(|index| format!("identities[{index}]")).collect();
            Problem { subject: format!("profiles/{mpid}"), why: format!("owns {}", owned.join(", ")) }
        });
        let problems: Vec<_> = problems.collect();
        (!problems.is_empty()).then_some(StoreError::IdentityConflict { problems })
    }

    /// The identities to link to a profile that has these already: those without an owner, up to the limits of their
    /// types.
    pub fn link(
        &mut self,
        settings: &IdentitySettings,
        identities: &[ParsedIdentity],
        has: &[IdentityKey],
    ) -> Vec<usize> {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for key in has {
            *kinds.entry(key.kind()).or_default() += 1;
        }
        let mut links = Vec::new();
        for index in std::mem::take(&mut self.free) {
            let kind = identities[index].key.kind();
            let count = kinds.entry(kind).or_default();
            if settings.limit(kind).is_some_and(|limit| *count >= limit) {
                self.unlinked.push(unlinked(index, UnlinkedReason::TypeFull));
            } else {
                *count += 1;
                links.push(index);
            }
        }
        self.unlinked.sort_by_key(|unlinked| unlinked.index);
        self.linked = links.iter().map(|index| place(*index)).collect();
        links
    }

    /// The part of the response that explains.
    pub fn explain(self) -> IdentifyProfileResponse {
        let involved = |(mpid, involved): (Mpid, Involved)| InvolvedProfile {
            mpid: mpid.get(),
            indexes: involved.indexes,
            outcome: involved.outcome.into(),
        };
        IdentifyProfileResponse {
            created: self.found.is_none(),
            r#match: self.matched,
            others: self.others.into_iter().map(involved).collect(),
            linked: self.linked,
            unlinked: self.unlinked,
            ..IdentifyProfileResponse::default()
        }
    }
}

fn check_unique(settings: &IdentitySettings, identities: &[ParsedIdentity], linking: &[usize]) -> Result<(), Invalid> {
    if !settings.has_unique_types() {
        return Ok(());
    }
    let mut seen = BTreeMap::new();
    for &index in linking {
        let kind = identities[index].key.kind();
        if settings.is_unique(kind) && seen.insert(kind, index).is_some() {
            let problem = format!("is another identity of the unique type {kind}");
            return Err(Invalid::field(format_args!("identities[{index}]"), problem));
        }
    }
    Ok(())
}

fn unlinked(index: usize, reason: UnlinkedReason) -> UnlinkedIdentity {
    UnlinkedIdentity { index: place(index), reason: reason.into() }
}

fn place(index: usize) -> i32 {
    i32::try_from(index).expect("a request has few identities")
}
