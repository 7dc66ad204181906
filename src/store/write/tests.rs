//! Which commands go into the next batch. The commands do nothing, and weigh what the test says.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::job::SMALL;
use super::queue::Queue;
use super::turns::Turns;
use super::*;
use crate::command::{Change, Command, Delete, Stamp};
use crate::model::{Limits, Micros, Mpid, ProfileKey, Workspace};
use crate::store::apply::Reply;

/// What a small command weighs here. With its own cost, five of them fit into a turn, and a turn is used up.
const USUAL: usize = 0;
const PER_TURN: usize = 5;
const MIB: usize = 1 << 20;

thread_local! {
    /// The time, since an arbitrary start.
    static TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A clock that stands still unless the test turns it.
fn now() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + TIME.get()
}

/// A command of a workspace, with a number by which the test knows it.
fn waiting(workspace: &str, number: usize, weight: usize) -> Waiting {
    let mpid = Mpid::new(i64::try_from(number).unwrap() + 1).unwrap();
    let stamp = Stamp { time: Micros::new(1), uptime: Micros::new(1), event_id: Uuid::nil() };
    let command = Command {
        workspace: Workspace::parse(&format!("a/b/{workspace}")).unwrap(),
        stamp,
        actor: None,
        request: None,
        silent: false,
        validate_only: false,
        limits: Limits::default(),
        change: Change::Delete(Delete { key: ProfileKey::Mpid(mpid), etag: None, allow_missing: false }),
    };
    let ticket = Lane::new(1, 1).try_enter(&command.workspace, 1).unwrap();
    Waiting { command: Box::new(command), weight, answer: oneshot::channel().0, ticket, kept: None, span: None }
}

fn number(command: &Command) -> usize {
    match command.change {
        Change::Delete(Delete { key: ProfileKey::Mpid(mpid), .. }) => usize::try_from(mpid.get() - 1).unwrap(),
        _ => unreachable!("no other is made here"),
    }
}

fn pop(turns: &mut Turns) -> Option<usize> {
    turns.pop().map(|waiting| number(&waiting.command))
}

/// The commands of the next batch: their numbers, and whether each is a call.
fn batch(queue: &mut Queue) -> Vec<(usize, bool)> {
    let mut taken = Vec::new();
    let mut commands = queue.batch(&mut taken);
    std::iter::from_fn(|| commands.next(0).map(|(command, reply)| (number(command), reply == Reply::WithProfile)))
        .collect()
}

/// The numbers of the commands of the next batch. `dirty` says how many bytes of pages so many commands make dirty.
fn batch_with(queue: &mut Queue, dirty: impl Fn(usize) -> usize) -> Vec<usize> {
    let (mut taken, mut numbers) = (Vec::new(), Vec::new());
    let mut commands = queue.batch(&mut taken);
    while let Some((command, _)) = commands.next(dirty(numbers.len())) {
        numbers.push(number(command));
    }
    numbers
}

#[test]
fn a_flood_of_one_workspace_holds_another_up_for_one_turn() {
    let mut turns = Turns::default();
    (0..1_000).for_each(|nth| turns.push(waiting("flood", nth, USUAL)));
    turns.push(waiting("other", 1_000, USUAL));
    let order: Vec<_> = std::iter::from_fn(|| pop(&mut turns)).collect();
    assert_eq!(order[PER_TURN], 1_000);
    assert_eq!(order.len(), 1_001);
}

#[test]
fn a_small_command_is_not_held_up_by_the_large_ones_of_its_workspace() {
    let mut turns = Turns::default();
    (0..10).for_each(|nth| turns.push(waiting("a", nth, MIB)));
    turns.push(waiting("a", 10, SMALL));
    assert_eq!(pop(&mut turns), Some(10));
    assert_eq!(pop(&mut turns), Some(0));
}

/// A workspace with large commands gets as much as one with small ones, and not as many.
#[test]
fn workspaces_get_equal_shares_by_weight() {
    let mut turns = Turns::default();
    let (large, small) = (100 * SMALL, SMALL);
    (0..10).for_each(|nth| turns.push(waiting("large", nth, large)));
    (10..1_010).for_each(|nth| turns.push(waiting("small", nth, small)));
    let order: Vec<_> = std::iter::from_fn(|| pop(&mut turns)).take(500).collect();
    let larges = order.iter().filter(|number| **number < 10).count();
    assert!((4..=6).contains(&larges), "one for about 80 small ones, which have a cost of their own too: {larges}");
}

#[test]
fn the_largest_command_gets_its_turn_though_others_keep_coming() {
    let mut turns = Turns::default();
    turns.push(waiting("large", 0, 50 * MIB));
    let mut before = 0;
    loop {
        turns.push(waiting("small", 1, SMALL));
        match pop(&mut turns) {
            Some(0) => break,
            _ => before += 1,
        }
    }
    assert!(before <= 50 * MIB / SMALL, "no more than its own weight went before it: {before}");
}

proptest! {
    /// Whatever is taken and put back, every command comes once, and those of one flow in order.
    #[test]
    fn each_flow_is_in_order(
        weights in proptest::collection::vec((0..4usize, prop_oneof![0..2 * SMALL, 0..3 * MIB]), 1..100),
        undone in 0..20usize,
    ) {
        let mut turns = Turns::default();
        for (number, (workspace, weight)) in weights.iter().enumerate() {
            turns.push(waiting(&workspace.to_string(), number, *weight));
        }
        let taken: Vec<_> = (0..undone).filter_map(|_| turns.pop()).collect();
        let first: Vec<_> = taken.iter().map(|waiting| number(&waiting.command)).collect();
        taken.into_iter().rev().for_each(|waiting| turns.put_back(waiting));
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut turns)).collect();
        prop_assert_eq!(&order[..first.len().min(1)], &first[..first.len().min(1)]);
        let flow = |number: &usize| (weights[*number].0, weights[*number].1 > SMALL);
        for key in order.iter().map(flow) {
            let of_flow: Vec<_> = order.iter().filter(|number| flow(number) == key).collect();
            prop_assert!(of_flow.is_sorted(), "{:?}", of_flow);
        }
        let mut all = order;
        all.sort_unstable();
        prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
        prop_assert!(turns.is_empty());
    }
}

#[test]
fn a_batch_ends_after_2_mib_of_large_calls() {
    let mut queue = Queue::new(now);
    (0..5).for_each(|nth| queue.push_call(waiting("a", nth, MIB)));
    queue.push_call(waiting("b", 5, USUAL));
    let calls = |numbers: &[usize]| numbers.iter().map(|number| (*number, true)).collect::<Vec<_>>();
    assert_eq!(batch(&mut queue), calls(&[5, 0, 1]));
    assert_eq!(batch(&mut queue), calls(&[2, 3]));
    assert_eq!(batch(&mut queue), calls(&[4]));
}

/// However little they weigh. Then imports have some time too, and a batch of imports alone has more.
#[test]
fn a_batch_ends_after_a_time() {
    let mut queue = Queue::new(now);
    (0..10).for_each(|nth| queue.push_call(waiting("a", nth, USUAL)));
    (10..100).for_each(|nth| queue.push_import(waiting("a", nth, USUAL)));
    let costly_batch = |queue: &mut Queue| {
        batch_with(queue, |commands| {
            let taken = if commands == 0 { Duration::ZERO } else { Duration::from_millis(5) }; // By each command.
            TIME.set(TIME.get() + taken);
            0
        })
    };
    assert_eq!(costly_batch(&mut queue), [0, 1, 2, 3, 10, 11, 12, 13]);
    assert_eq!(costly_batch(&mut queue), [4, 5, 6, 7, 14, 15, 16, 17]);
    assert_eq!(costly_batch(&mut queue), [8, 9, 18, 19, 20, 21]);
    assert_eq!(costly_batch(&mut queue), [22, 23, 24, 25], "the next call may come soon");
    TIME.set(TIME.get() + Duration::from_secs(1));
    assert_eq!(costly_batch(&mut queue).len(), 100 - 26, "half a second is enough for the rest");
}

/// Calls come first, and a batch that is full of calls still takes 64 imports.
#[test]
fn imports_fill_a_batch() {
    let mut queue = Queue::new(now);
    (0..600).for_each(|nth| queue.push_call(waiting("a", nth, USUAL)));
    (600..10_000).for_each(|nth| queue.push_import(waiting("a", nth, USUAL)));
    let calls_and_imports = |queue: &mut Queue| {
        let batch = batch(queue);
        assert!(batch.is_sorted(), "in order, and calls first");
        (batch.iter().filter(|(_, is_call)| *is_call).count(), batch.iter().filter(|(_, is_call)| !is_call).count())
    };
    assert_eq!(calls_and_imports(&mut queue), (512, 64));
    assert_eq!(calls_and_imports(&mut queue), (600 - 512, 512 - (600 - 512)));
    assert_eq!(calls_and_imports(&mut queue), (0, 512), "the next call may come soon");
    TIME.set(TIME.get() + Duration::from_millis(999));
    assert_eq!(calls_and_imports(&mut queue), (0, 512));
    TIME.set(TIME.get() + Duration::from_millis(1));
    assert_eq!(calls_and_imports(&mut queue), (0, 4_096));
}

/// A small record may change a large profile. While somebody calls, what it changes bounds a batch of imports.
#[test]
fn a_batch_of_imports_ends_after_4_mib_of_pages_while_somebody_calls() {
    let mut queue = Queue::new(now);
    (0..2).for_each(|nth| queue.push_call(waiting("a", nth, USUAL)));
    (2..20).for_each(|nth| queue.push_import(waiting("a", nth, USUAL)));
    let batch_of_mibs = |queue: &mut Queue| batch_with(queue, |commands| commands * MIB).len();
    assert_eq!(batch_of_mibs(&mut queue), 4, "two calls and two imports");
    queue.push_call(waiting("a", 20, USUAL));
    assert_eq!(batch_of_mibs(&mut queue), 4, "a call and three imports");
    assert_eq!(batch_of_mibs(&mut queue), 4, "the next call may come soon");
    (21..26).for_each(|nth| queue.push_call(waiting("a", nth, USUAL)));
    assert_eq!(batch_of_mibs(&mut queue), 6, "however large the calls are, imports make progress");
    TIME.set(TIME.get() + Duration::from_secs(1));
    assert_eq!(batch_of_mibs(&mut queue), 18 - 2 - 3 - 4 - 1);
}

/// A batch that met damage is tried again in halves, until the command that needs the damage is alone.
#[test]
fn a_batch_that_was_not_kept_is_taken_again_in_halves() {
    let mut queue = Queue::new(now);
    (0..6).for_each(|nth| queue.push_call(waiting(["a", "b"][nth % 2], nth, USUAL)));
    (6..8).for_each(|nth| queue.push_import(waiting("a", nth, USUAL)));
    let mut sizes = Vec::new();
    let alone = loop {
        let mut taken = Vec::new();
        let mut commands = queue.batch(&mut taken);
        let mut numbers = Vec::new();
        while let Some((command, _)) = commands.next(0) {
            numbers.push(number(command));
        }
        assert_eq!(numbers, [0, 2, 4, 1, 3, 5, 6, 7][..numbers.len()]);
        sizes.push(numbers.len());
        if let Some(alone) = commands.undo() {
            break alone;
        }
    };
    assert_eq!((sizes, number(&alone.command)), (vec![8, 4, 2, 1], 0));
    let mut rest = Vec::new();
    while !queue.is_empty() {
        rest.extend(batch(&mut queue));
        queue.widen();
    }
    assert_eq!(rest.into_iter().map(|(number, _)| number).collect::<Vec<_>>(), [2, 4, 1, 3, 5, 6, 7]);
}
