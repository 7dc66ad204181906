//! A store and the model of it, which take the same commands.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::checks::assert_checked;
use super::super::disk::Disk;
use super::super::harness::*;
use super::commands::{Draw, Op, erase};
use super::fold::Copy;
use super::model::{Answer, Expected, Model};
use super::person::{Id, Person};
use super::tables::Dump;
use super::values::Values;
use crate::command::{Change, Command};
use crate::model::Micros;
use crate::model::limits::ERASED_EVENTS;
use crate::proto::v1::{
    EraseProfileResponse, Event, IdentifyProfileResponse, MergeProfilesResponse, Profile, UnmergeProfilesResponse,
    UpdateProfileResponse, WriteOutcome,
};
use crate::store::{Store, StoreError, Written};

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the steps: {:#?}", self.ops);
        }
    }
}

/// The events of each commit, in order.
type Commits = Arc<Mutex<Vec<Vec<Event>>>>;

pub struct World {
    disk: Disk,
    pub store: Arc<Store>,
    commits: Commits,
    pub model: Model,
    copy: Copy,
    /// The commits that the copy has.
    taken: usize,
    /// The time, in seconds.
    pub now: i64,
    is_trimmed: bool,
    values: Values,
    /// The identities of persons that this step has erased.
    left: BTreeSet<Id>,
    steps: usize,
    /// What was run, for messages.
    ops: Vec<String>,
}

fn open(disk: &Disk, commits: &Commits) -> Arc<Store> {
    let commits = Arc::clone(commits);
    let store = store_on(disk, move |_, commit| {
        let events = commit.events.iter().map(|event| Event::decode(&*event.event).unwrap()).collect();
        commits.lock().unwrap().push(events);
    });
    Arc::new(store)
}

impl World {
    pub fn new() -> Self {
        let (disk, commits) = (Disk::default(), Commits::default());
        let store = open(&disk, &commits);
        Self {
            disk,
            store,
            commits,
            model: Model::default(),
            copy: Copy::default(),
            taken: 0,
            now: 100,
            is_trimmed: false,
            values: Values::default(),
            left: BTreeSet::new(),
            steps: 0,
            ops: Vec::new(),
        }
    }

    pub async fn restart(&mut self) {
        self.store.close().await;
        self.store = open(&self.disk, &self.commits);
    }

    /// Takes a step: a few random commands in one batch or one alone, perhaps after a jump of the clock or a restart.
    pub async fn step(&mut self, seed: u64) {
        let mut random = StdRng::seed_from_u64(!seed);
        self.now += match random.random_range(0..10) {
            0 => -random.random_range(1..20),
            1 => random.random_range(5..20),
            _ => random.random_range(0..3),
        };
        if random.random_bool(0.15) {
            self.restart().await;
        }
        let count = if random.random_bool(0.3) { random.random_range(2..=4) } else { 1 };
        let draw = |nth: usize| {
            let step = self.steps + nth;
            Draw::new(seed.wrapping_add(nth as u64), step, self.now).op(count == 1)
        };
        let ops: Vec<_> = (0..count).map(draw).collect();
        self.run(ops).await;
    }

    /// Runs commands: one alone as a call, several in one batch.
    pub async fn run(&mut self, ops: Vec<Op>) {
        self.steps += ops.len();
        self.ops.push(format!("{} at {}: {ops:?}", self.steps, self.now));
        let log = if ops.len() == 1 { self.log() } else { Vec::new() }; // No command of several asks for it.
        let results = if let [op] = &ops[..] {
            self.check_read_of(op);
            vec![self.call(op).await]
        } else {
            let imports = ops.iter().map(|op| self.store.import(self.command(op)));
            let queued = futures_util::future::join_all(imports).await;
            futures_util::future::join_all(queued.into_iter().map(|result| async { result.unwrap().await })).await
        };
        let mut erased = BTreeSet::new();
        for (op, result) in ops.iter().zip(results) {
            erased.extend(self.compare(op, result, &log));
        }
        erased.retain(|value| !self.values.is_owned(value)); // A later command of the same step may have given it again.
        self.check(&erased);
    }

    fn command(&self, op: &Op) -> Command {
        command(self.now * SECOND, op.to_change())
    }

    async fn call(&self, op: &Op) -> Result<Written, StoreError> {
        match op {
            Op::Erase { key, allow_missing, most: Some(most) } => {
                let time = self.now * SECOND;
                let erase = erase(key, *allow_missing, Some(*most));
                self.store.erase(&erase, |change| command(time, change)).await
            }
            _ => self.store.write(self.command(op)).await,
        }
    }

    /// The writer and the readers find the same profile.
    fn check_read_of(&self, op: &Op) {
        let (Op::Identify { .. }, Change::Identify(identify)) = (op, op.to_change()) else { return };
        let Some(id) = self.store.workspace_id(&workspace()) else { return };
        let (snapshot, now) = (self.store.snapshot().unwrap(), Micros::new(self.now * SECOND));
        let limits = crate::model::Limits::default();
        let read = snapshot.identify(id, &identify, now, &limits).unwrap();
        let mut model = self.model.clone();
        let expected = model.apply(op, self.now, &[]);
        let unchanged = match &expected {
            Expected::Done(answer) if answer.outcome == WriteOutcome::Unchanged => Some(answer),
            _ => None,
        };
        let answer = read.map(|found| (Some(found.mpid.get()), format!("{:?}", found.explanation)));
        assert_eq!(answer, unchanged.map(|answer| (answer.mpid, answer.response.clone())), "a read of {op:?}");
    }

    /// The model and the store agree on a command. Returns the values of the persons that it erased.
    fn compare(&mut self, op: &Op, result: Result<Written, StoreError>, log: &[Event]) -> Vec<String> {
        if let Op::Trim { .. } = op {
            self.is_trimmed |= result.unwrap().outcome == WriteOutcome::Updated;
            self.values.trim();
            return Vec::new();
        }
        let before = self.model.clone();
        match (self.model.apply(op, self.now, log), result) {
            (Expected::Done(answer), Ok(written)) => {
                self.compare_done(op, &answer, &written);
                self.values.follow(op, answer.mpid, &before, &self.model, self.is_trimmed);
                self.left.extend(
                    answer.erased.iter().filter_map(|mpid| before.people.get(mpid)).flat_map(Person::ids).cloned(),
                );
                self.values.erase(&answer.erased, &self.model, self.is_trimmed)
            }
            (Expected::Refused(reasons), Err(error)) => {
                let found = reason(&error);
                assert!(reasons.contains(&found), "{op:?}: {found}, not {reasons:?}");
                Vec::new()
            }
            (Expected::EraseGone(mpid), result) => self.compare_gone(op, mpid, result, log, &before),
            (expected, result) => panic!("{op:?}: {result:?}, not {expected:?}"),
        }
    }

    fn compare_done(&self, op: &Op, answer: &Answer, written: &Written) {
        if matches!(op, Op::Rules(_)) {
            return;
        }
        let found = (written.outcome, written.mpid.map(crate::model::Mpid::get), shown(op, written));
        assert_eq!(found, (answer.outcome, answer.mpid, answer.response.clone()), "{op:?}");
        let Some(profile) = &written.profile else { return };
        let profile = Profile::decode(&**profile).unwrap();
        let expected = self.model.people[&answer.mpid.unwrap()].clone().at(self.now);
        assert_eq!(Person::of(&profile), expected, "the response to {op:?}");
    }

    /// A profile that is gone is erased if the log still holds any of it.
    fn compare_gone(
        &mut self,
        op: &Op,
        mpid: i64,
        result: Result<Written, StoreError>,
        log: &[Event],
        before: &Model,
    ) -> Vec<String> {
        let is_erased = match result {
            Ok(written) => written.outcome == WriteOutcome::Erased,
            Err(StoreError::ProfileNotFound { .. }) => false,
            Err(error) => panic!("{op:?}: {error:?}"),
        };
        let holds = log.iter().any(|event| event.mpid == mpid && event.r#type != "profile.erased");
        assert!(is_erased || !holds, "{op:?} finds nothing, and the log has some of it");
        let with_it =
            before.gone.iter().filter(|(_, survivor)| **survivor == Some(mpid)).map(|(absorbed, _)| *absorbed);
        self.values.erase(&[vec![mpid], with_it.collect()].concat(), &self.model, self.is_trimmed)
    }

    /// What a client can read of the log.
    pub fn log(&self) -> Vec<Event> {
        let Some(id) = self.store.workspace_id(&workspace()) else { return Vec::new() };
        let snapshot = self.store.snapshot().unwrap();
        let bounds = snapshot.log_bounds(id).unwrap();
        let event = |number| snapshot.event(id, sequence(number), |event| Ok(Event::decode(event.event).unwrap()));
        (bounds.floor.get() + 1..=bounds.head.get()).map(|number| event(number).unwrap()).collect()
    }

    fn check(&mut self, erased: &BTreeSet<String>) {
        let disk = self.disk.after_power_loss();
        assert_checked(&disk);
        let dump = Dump::of(&disk);
        let had = &self.values.had;
        self.model.forget_taken(&dump.absorbed(), |id| had.contains(id));
        if self.store.workspace_id(&workspace()).is_some() {
            dump.check(&self.model);
        }
        self.check_copies();
        self.check_erased(erased, &dump);
        self.check_records(&dump);
    }

    /// What unmerges would give back is what the log has of the merges. Where it has nothing any more, it is no identity
    /// of a person who was just erased.
    fn check_records(&mut self, dump: &Dump) {
        let (log, left) = (self.log(), std::mem::take(&mut self.left));
        for (mpid, absorbed) in dump.absorbed() {
            let is_merge = |event: &&Event| event.merged_mpid == mpid && event.r#type != "profile.unmerged";
            if let Some(told) = log.iter().rfind(is_merge).and_then(|event| event.merged_profile.as_ref()) {
                assert!(Person::of(told).ids().eq(absorbed.ids()), "{mpid}: {:#?}", brief(&log));
                continue;
            }
            let held = absorbed.ids().find(|id| left.contains(id) && self.model.owner(id).is_none());
            assert!(held.is_none(), "{mpid} would have {held:?} back: {:#?}", brief(&log));
        }
    }

    /// Where a value is: see [`Dump::holds`].
    pub fn holds(&self, value: &str) -> Option<String> {
        Dump::of(&self.disk.after_power_loss()).holds(value)
    }

    /// A subscriber that was there from the start has every profile, and so has one that reads the whole log now.
    fn check_copies(&mut self) {
        let commits = self.commits.lock().unwrap();
        commits[self.taken..].iter().flatten().for_each(|event| self.copy.take(event));
        self.taken = commits.len();
        assert_eq!(self.copy.people, self.model.people, "the copy of a subscriber");
        drop(commits);
        if !self.is_trimmed {
            let log = self.log();
            assert_eq!(Copy::of(&log).people, self.model.people, "a copy from {:#?}", brief(&log));
        }
    }

    /// No value of a person that was ever erased is in any row, and no commit had both the value and the erasure.
    fn check_erased(&self, erased: &BTreeSet<String>, dump: &Dump) {
        for value in self.values.gone().chain(erased) {
            if let Some(place) = dump.holds(value) {
                panic!("{value} is in {place}: {:#?}", brief(&self.log()));
            }
        }
        let commits = self.commits.lock().unwrap();
        for events in commits.iter().rev().take(1) {
            let is_erasure = |event: &&Event| event.r#type == "profile.erased" && event.merged_mpid == 0;
            let Some(last) = events.iter().rfind(is_erasure) else { continue };
            for value in self.values.gone() {
                let earlier = events.iter().filter(|event| event.sequence <= last.sequence);
                let holder = earlier.into_iter().find(|event| format!("{event:?}").contains(value));
                assert!(holder.is_none(), "{value} was published in {holder:?}");
            }
        }
    }
}

/// A log, for messages.
fn brief(log: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        let Event { sequence, r#type: kind, mpid, merged_mpid, taken_from_mpids, taken_by_mpid, redacted, .. } = event;
        let profile = |profile: &Option<Profile>| profile.as_ref().map(Person::of);
        let profiles = [&event.profile, &event.previous, &event.merged_profile].map(profile);
        format!(
            "{sequence} {kind} {mpid}, merged {merged_mpid}, from {taken_from_mpids:?}, by {taken_by_mpid}, \
             redacted {redacted}: {profiles:?}"
        )
    };
    log.iter().map(line).collect()
}

/// The rest of a response.
fn shown(op: &Op, written: &Written) -> String {
    fn decoded<M: Message + Default + std::fmt::Debug>(written: &Written, mend: impl FnOnce(&mut M)) -> String {
        let mut response = M::decode(written.detail.clone()).unwrap();
        mend(&mut response);
        format!("{response:?}")
    }
    match op {
        Op::Update { .. } => decoded::<UpdateProfileResponse>(written, |_| ()),
        Op::Erase { .. } => decoded::<EraseProfileResponse>(written, |response| response.events = 0),
        Op::Identify { .. } => decoded::<IdentifyProfileResponse>(written, |_| ()),
        Op::Merge { .. } => decoded::<MergeProfilesResponse>(written, |_| ()),
        Op::Unmerge { .. } => decoded::<UnmergeProfilesResponse>(written, |response| response.kept_fields.sort()),
        Op::Create { .. } | Op::Delete { .. } | Op::Rules(_) | Op::Trim { .. } => format!("{:?}", ""),
    }
}

/// A refusal, by its name and what it is about.
fn reason(error: &StoreError) -> String {
    use crate::model::Invalid;
    let about = |name: &str, problems: &[crate::store::Problem]| {
        let subjects: Vec<_> = problems.iter().map(|problem| problem.subject.as_str()).collect();
        format!("{name} {}", subjects.join(" "))
    };
    match error {
        StoreError::Invalid(Invalid::Field { .. }) => "Field".into(),
        StoreError::Invalid(Invalid::Limit { .. }) => "Limit".into(),
        StoreError::IdentityConflict { problems } => about("IdentityConflict", problems),
        StoreError::MergeNotReversible { problems } => about("MergeNotReversible", problems),
        other => {
            let shown = format!("{other:?}");
            shown.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
        }
    }
}

/// The bound of an erasure's last command is what makes it take several.
const _: () = assert!(ERASED_EVENTS > 4);
