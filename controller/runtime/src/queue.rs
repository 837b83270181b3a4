//! The reconcile queue: which Rollout is reconciled next.
//!
//! Each Rollout is in the queue at most once and is never reconciled twice at the same time. What is
//! urgent goes first: an abort or a command must not wait behind an update of all Rollouts. Within a
//! lane the namespaces take turns, and a namespace is served first in, first out, so that nobody
//! waits because others are many.

mod fair_queue;

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use self::fair_queue::FairQueue;
use crate::cluster_cache::Key;

/// How urgent a reconcile is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A command, a changed analysis, or an aborted release whose canary still has traffic.
    Urgent,
    /// A release under way.
    Ongoing,
    /// Everything else: new releases, drift, resyncs.
    Background,
    /// A check of a Rollout to which nothing has happened: this process has become the leader, or a
    /// policy was edited.
    Idle,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Urgent, Self::Ongoing, Self::Background, Self::Idle];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Ongoing => "ongoing",
            Self::Background => "background",
            Self::Idle => "idle",
        }
    }
}

/// A lane that has been passed over this many times is served next, so that no lane starves.
const MAX_PASSED_OVER: u32 = 8;

/// A queue with lanes. Times are passed in.
#[derive(Debug, Default)]
pub struct ReconcileQueue {
    lanes: [FairQueue; 4],
    entries: HashMap<Key, Entry>,
    timers: BTreeMap<(Instant, u64), Key>,
    /// Number of Rollouts that wait, by lane.
    waiting: [usize; 4],
    last_ticket: u64,
}

#[derive(Debug)]
struct Entry {
    state: EntryState,
    /// Key of the timer in [`ReconcileQueue::timers`], and the lane that it enters.
    timer: Option<((Instant, u64), Lane)>,
    /// Until when requests that are not urgent are collected. `None` if they are not.
    settles_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum EntryState {
    Idle,
    Waiting {
        lane: Lane,
        ticket: u64,
    },
    Running {
        /// The lane of a request that arrived since the reconcile began.
        again: Option<Lane>,
    },
}

impl ReconcileQueue {
    /// Requests a reconcile. A Rollout that is already waiting keeps its place, or moves to the more
    /// urgent lane. One that is being reconciled waits again afterward.
    pub fn add(&mut self, key: &Key, lane: Lane) {
        let state = self
            .entries
            .get(key)
            .map_or(EntryState::Idle, |entry| entry.state);
        let next = match state {
            EntryState::Waiting { lane: current, .. } if current <= lane => return,
            EntryState::Idle | EntryState::Waiting { .. } => {
                let ticket = self.next_ticket();
                self.lanes[lane as usize].push(key.clone(), ticket);
                if let EntryState::Waiting { lane: left, .. } = state {
                    self.waiting[left as usize] -= 1;
                }
                self.waiting[lane as usize] += 1;
                EntryState::Waiting { lane, ticket }
            }
            EntryState::Running { again } => EntryState::Running {
                again: Some(again.map_or(lane, |other| other.min(lane))),
            },
        };
        match self.entries.get_mut(key) {
            Some(entry) => entry.state = next,
            None => drop(self.entries.insert(
                key.clone(),
                Entry {
                    state: next,
                    timer: None,
                    settles_at: None,
                },
            )),
        }
    }

    /// Requests a reconcile, as [`ReconcileQueue::add`]. If the Rollout was reconciled just now, a
    /// request that is not urgent waits until the Rollout has settled, together with those that
    /// follow: one write causes several watch events.
    pub fn request(&mut self, key: &Key, lane: Lane, now: Instant) {
        let entry = self.entries.get(key);
        let settling = entry.filter(|entry| matches!(entry.state, EntryState::Idle));
        let settles_at = settling.and_then(|entry| entry.settles_at);
        match settles_at.filter(|at| *at > now && lane != Lane::Urgent) {
            Some(at) => self.add_by(key, at, lane),
            None => self.add(key, lane),
        }
    }

    /// Takes the next Rollout to reconcile and marks it as running. With `only_urgent`, other lanes
    /// are left alone. Namespaces for which `has_slot` is false in a lane keep their turn in it.
    pub fn take(
        &mut self,
        now: Instant,
        only_urgent: bool,
        has_slot: impl Fn(Lane, &str) -> bool,
    ) -> Option<(Key, Lane)> {
        self.add_due(now);
        let candidates = if only_urgent {
            &Lane::ALL[..1]
        } else {
            &Lane::ALL[..]
        };
        let starving = candidates.iter().rev().copied().find(|lane| {
            let lane = &self.lanes[*lane as usize];
            lane.passed_over >= MAX_PASSED_OVER && !lane.is_empty()
        });
        let order = starving.into_iter().chain(candidates.iter().copied());
        for lane in order.collect::<Vec<_>>() {
            let has_slot = |namespace: &str| has_slot(lane, namespace);
            while let Some((key, ticket)) = self.lanes[lane as usize].pop(has_slot) {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                // Whoever moved to another lane has left an outdated ticket here.
                if !matches!(entry.state, EntryState::Waiting { ticket: current, .. } if current == ticket)
                {
                    continue;
                }
                entry.state = EntryState::Running { again: None };
                self.waiting[lane as usize] -= 1;
                if let Some((timer, _)) = entry.timer.take() {
                    self.timers.remove(&timer);
                }
                self.record_taken(lane);
                return Some((key, lane));
            }
        }
        None
    }

    /// Ends a reconcile. The Rollout waits again if that was requested in the meantime, otherwise
    /// until `again_at`, which then enters `lane`.
    ///
    /// Until `settles_at`, requests that are not urgent are collected ([`ReconcileQueue::request`]).
    pub fn finish(
        &mut self,
        key: &Key,
        again_at: Option<Instant>,
        lane: Lane,
        settles_at: Option<Instant>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        // Only what runs is finished.
        let EntryState::Running { again: requested } = entry.state else {
            return;
        };
        entry.state = EntryState::Idle;
        entry.settles_at = settles_at;
        match again_at {
            Some(at) => self.add_at(key, at, lane),
            None if requested.is_none() => drop(self.entries.remove(key)),
            None => {}
        }
        match (requested, settles_at) {
            (Some(lane), Some(at)) if lane != Lane::Urgent => self.add_by(key, at, lane),
            (Some(lane), _) => self.add(key, lane),
            (None, _) => {}
        }
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Number of Rollouts that wait in a lane, without timers that are not due yet.
    pub const fn waiting(&self, lane: Lane) -> usize {
        self.waiting[lane as usize]
    }

    /// Number of Rollouts, timers and tickets, including outdated tickets.
    pub fn entry_count(&self) -> usize {
        let tickets: usize = self.lanes.iter().map(FairQueue::ticket_count).sum();
        self.entries.len() + self.timers.len() + tickets
    }

    /// As [`ReconcileQueue::add_at`], together with the timer that is already set: at the earlier
    /// time, in the more urgent lane. An abort that waits for its timer must not enter a slower one.
    fn add_by(&mut self, key: &Key, at: Instant, lane: Lane) {
        let timer = self.entries.get(key).and_then(|entry| entry.timer);
        match timer {
            Some(((earlier, _), current)) if earlier <= at => {
                self.add_at(key, earlier, lane.min(current));
            }
            Some((_, current)) => self.add_at(key, at, lane.min(current)),
            None => self.add_at(key, at, lane),
        }
    }

    fn add_at(&mut self, key: &Key, at: Instant, lane: Lane) {
        let timer = (at, self.next_ticket());
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some((before, _)) = entry.timer.replace((timer, lane)) {
            self.timers.remove(&before);
        }
        self.timers.insert(timer, key.clone());
    }

    /// Moves the timers that are due into their lanes, in the order of their times.
    fn add_due(&mut self, now: Instant) {
        while let Some(first) = self
            .timers
            .first_entry()
            .filter(|first| first.key().0 <= now)
        {
            let key = first.remove();
            let timer = self
                .entries
                .get_mut(&key)
                .and_then(|entry| entry.timer.take());
            if let Some((_, lane)) = timer {
                self.add(&key, lane);
            }
        }
    }

    fn record_taken(&mut self, taken: Lane) {
        for lane in Lane::ALL {
            let queue = &mut self.lanes[lane as usize];
            queue.passed_over = if lane > taken && !queue.is_empty() {
                queue.passed_over.saturating_add(1)
            } else {
                0
            };
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }
}

#[cfg(test)]
mod tests;
