//! Whose command is next: deficit round robin over flows.
//!
//! - A workspace has two flows, one for its small commands and one for its large ones, each in order. So a small write
//!   is never held up by the large ones of its own workspace.
//! - Each flow in turn may take commands that cost up to [`QUANTUM`] together. What it could not use of that is added to
//!   its next turn, until its first command fits. So all flows get equal shares of what the writer does, by weight.
//! - A flow exists while it has commands, and there are no more of those than tickets.

use std::collections::{HashMap, VecDeque};

use super::job::{COMMAND_COST, SMALL, Waiting};
use crate::model::Workspace;

/// The cost that a flow may take in one turn: that of the largest small command, or of a few that are usual.
const QUANTUM: usize = SMALL + COMMAND_COST;

/// The waiting commands, by flow.
#[derive(Default)]
pub(super) struct Turns {
    flows: HashMap<Key, Flow>,
    /// The flows. It is the turn of the first.
    order: VecDeque<Key>,
    /// Flows in a row whose first command cost more than they may take.
    passed: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    workspace: Workspace,
    is_large: bool,
}

struct Flow {
    /// Never empty.
    waiting: VecDeque<Waiting>,
    /// The cost that it may still take.
    credit: usize,
}

impl Turns {
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a command behind the others of its flow.
    pub fn push(&mut self, waiting: Waiting) {
        let key = Key::of(&waiting);
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.waiting.push_back(waiting);
        } else {
            self.order.push_back(key.clone());
            self.flows.insert(key, Flow { waiting: [waiting].into(), credit: QUANTUM });
        }
    }

    /// Puts a command that was taken before the others of its flow, and before all other flows.
    pub fn put_back(&mut self, waiting: Waiting) {
        let key = Key::of(&waiting);
        self.order.retain(|other| *other != key);
        self.order.push_front(key.clone());
        let flow = self.flows.entry(key).or_insert_with(|| Flow { waiting: VecDeque::new(), credit: 0 });
        flow.credit += waiting.cost();
        flow.waiting.push_front(waiting);
    }

    /// Takes the command whose turn it is.
    pub fn pop(&mut self) -> Option<Waiting> {
        loop {
            let key = self.order.front()?;
            let flow = self.flows.get_mut(key).expect("every flow in the order exists");
            if flow.cost() <= flow.credit {
                flow.credit -= flow.cost();
                self.passed = 0;
                return self.take_first();
            }
            flow.credit += QUANTUM; // For its next turn.
            self.order.rotate_left(1);
            self.passed += 1;
            if self.passed == self.order.len() {
                self.skip_rounds();
            }
        }
    }

    /// Removes all commands. Those of one flow are in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.order.clear();
        std::mem::take(&mut self.flows).into_values().flat_map(|flow| flow.waiting)
    }

    /// Removes the first command of the first flow, and the flow if it was the last.
    fn take_first(&mut self) -> Option<Waiting> {
        let flow = self.flows.get_mut(self.order.front()?)?;
        let waiting = flow.waiting.pop_front();
        if flow.waiting.is_empty() {
            let key = self.order.pop_front()?;
            self.flows.remove(&key);
        }
        waiting
    }

    /// Grants each flow the turns in which none of them could take a command. A command may cost thousands of turns.
    fn skip_rounds(&mut self) {
        let missing = self.flows.values().map(|flow| flow.cost().saturating_sub(flow.credit).div_ceil(QUANTUM));
        let rounds = missing.min().unwrap_or_default();
        for flow in self.flows.values_mut() {
            flow.credit += rounds * QUANTUM;
        }
        self.passed = 0;
    }
}

impl Key {
    fn of(waiting: &Waiting) -> Self {
        Self { workspace: waiting.command.workspace.clone(), is_large: waiting.is_large() }
    }
}

impl Flow {
    /// What its first command costs.
    fn cost(&self) -> usize {
        self.waiting.front().map_or(0, Waiting::cost)
    }
}
