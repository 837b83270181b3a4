//! The Rollouts of one lane that wait.

use std::collections::{HashMap, VecDeque};

use crate::cluster_cache::Key;

/// First in, first out within each namespace; the namespaces take turns.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    turns: VecDeque<String>,
    namespaces: HashMap<String, VecDeque<(Key, u64)>>,
    /// How often a more urgent lane was served while this one had somebody waiting.
    pub passed_over: u32,
}

impl FairQueue {
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub fn ticket_count(&self) -> usize {
        self.namespaces.values().map(VecDeque::len).sum()
    }

    pub fn push(&mut self, key: Key, ticket: u64) {
        if let Some(waiting) = self.namespaces.get_mut(&key.namespace) {
            return waiting.push_back((key, ticket));
        }
        self.turns.push_back(key.namespace.clone());
        self.namespaces
            .insert(key.namespace.clone(), VecDeque::from([(key, ticket)]));
    }

    /// The first of the first namespace that has a slot.
    pub fn pop(&mut self, has_slot: impl Fn(&str) -> bool) -> Option<(Key, u64)> {
        let turn = self.turns.iter().position(|name| has_slot(name))?;
        let namespace = self.turns.remove(turn)?;
        let waiting = self.namespaces.get_mut(&namespace)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.namespaces.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        first
    }
}
