//! The reconcile queue: which Rollout is reconciled next.
//!
//! Each Rollout is in the queue at most once and is never reconciled twice at the same time. What is
//! urgent goes first: an abort or a command must not wait behind an update of all Rollouts. Within a
//! lane the namespaces take turns, and a namespace is served first in, first out, so that nobody
//! waits because others are many.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

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

/// First in, first out within each namespace; the namespaces take turns.
#[derive(Debug, Default)]
struct FairQueue {
    turns: VecDeque<String>,
    namespaces: HashMap<String, VecDeque<(Key, u64)>>,
    /// How often a more urgent lane was served while this one had somebody waiting.
    passed_over: u32,
}

impl FairQueue {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn ticket_count(&self) -> usize {
        self.namespaces.values().map(VecDeque::len).sum()
    }

    fn push(&mut self, key: Key, ticket: u64) {
        if let Some(waiting) = self.namespaces.get_mut(&key.namespace) {
            return waiting.push_back((key, ticket));
        }
        self.turns.push_back(key.namespace.clone());
        self.namespaces
            .insert(key.namespace.clone(), VecDeque::from([(key, ticket)]));
    }

    /// The first of the first namespace that has a slot.
    fn pop(&mut self, has_slot: impl Fn(&str) -> bool) -> Option<(Key, u64)> {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, name: usize) -> Key {
        Key::new(namespace, format!("r{name}"))
    }

    /// Takes the next one, whatever its namespace.
    fn take(queue: &mut ReconcileQueue, now: Instant, only_urgent: bool) -> Option<(Key, Lane)> {
        queue.take(now, only_urgent, |_, _| true)
    }

    /// Takes and finishes everything, in order.
    fn drain(queue: &mut ReconcileQueue, now: Instant) -> Vec<(Key, Lane)> {
        let mut order = Vec::new();
        while let Some((key, lane)) = take(queue, now, false) {
            queue.finish(&key, None, lane, None);
            order.push((key, lane));
        }
        order
    }

    #[tokio::test]
    async fn within_a_lane_and_namespace_the_first_in_is_the_first_out() {
        let mut queue = ReconcileQueue::default();
        for name in 0..3_000 {
            queue.add(&key("shop", name), Lane::Background);
            // A repeated request keeps its place.
            queue.add(&key("shop", name / 2), Lane::Background);
        }
        let order = drain(&mut queue, Instant::now());
        let expected: Vec<_> = (0..3_000)
            .map(|name| (key("shop", name), Lane::Background))
            .collect();
        assert_eq!(order, expected);
        assert!(queue.entries.is_empty() && queue.lanes.iter().all(FairQueue::is_empty));
    }

    #[tokio::test]
    async fn an_urgent_rollout_passes_everybody_who_waits() {
        let mut queue = ReconcileQueue::default();
        for name in 0..1_000 {
            queue.add(&key("shop", name), Lane::Background);
        }
        queue.add(&key("shop", 5_000), Lane::Ongoing);
        queue.add(&key("shop", 900), Lane::Urgent);
        let order = drain(&mut queue, Instant::now());
        assert_eq!(
            order[0],
            (key("shop", 900), Lane::Urgent),
            "it waited already, in a slower lane"
        );
        assert_eq!(order[1], (key("shop", 5_000), Lane::Ongoing));
        assert_eq!(order.len(), 1_001, "nobody runs twice");
    }

    #[tokio::test]
    async fn a_namespace_with_few_rollouts_does_not_wait_for_one_with_many() {
        let mut queue = ReconcileQueue::default();
        for name in 0..1_000 {
            queue.add(&key("many", name), Lane::Background);
        }
        for name in 0..3 {
            queue.add(&key("few", name), Lane::Background);
        }
        let order = drain(&mut queue, Instant::now());
        let last = order.iter().rposition(|(key, _)| key.namespace == "few");
        assert_eq!(last, Some(5));
    }

    #[tokio::test]
    async fn no_lane_starves() {
        let mut queue = ReconcileQueue::default();
        queue.add(&key("slow", 0), Lane::Background);
        let now = Instant::now();
        let mut taken = Vec::new();
        for name in 0..100 {
            queue.add(&key("urgent", name), Lane::Urgent);
            let (key, lane) = take(&mut queue, now, false).unwrap();
            queue.finish(&key, None, lane, None);
            taken.push(lane);
        }
        let at = taken.iter().position(|lane| *lane == Lane::Background);
        assert_eq!(at, Some(MAX_PASSED_OVER as usize));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_due_at_its_time_and_a_request_replaces_it() {
        let mut queue = ReconcileQueue::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        for name in 0..2 {
            queue.add(&key("shop", name), Lane::Background);
            let (taken, _) = take(&mut queue, now, false).unwrap();
            queue.finish(&taken, Some(later), Lane::Ongoing, None);
        }
        assert_eq!(
            (take(&mut queue, now, false), queue.next_due()),
            (None, Some(later))
        );
        queue.add(&key("shop", 0), Lane::Urgent);
        assert_eq!(drain(&mut queue, now), [(key("shop", 0), Lane::Urgent)]);
        assert_eq!(drain(&mut queue, later), [(key("shop", 1), Lane::Ongoing)]);
        assert_eq!(queue.next_due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_follow_a_reconcile_are_collected_and_urgent_ones_are_not_delayed() {
        let mut queue = ReconcileQueue::default();
        let now = Instant::now();
        let settled = now + Duration::from_millis(50);
        let pause_ends = now + Duration::from_secs(5);
        let shop = key("shop", 0);
        queue.request(&shop, Lane::Ongoing, now);
        assert_eq!(
            take(&mut queue, now, false),
            Some((shop.clone(), Lane::Ongoing))
        );
        // One request arrives during the reconcile, and two after it.
        queue.request(&shop, Lane::Background, now);
        queue.finish(&shop, Some(pause_ends), Lane::Ongoing, Some(settled));
        for lane in [Lane::Ongoing, Lane::Background] {
            queue.request(&shop, lane, now);
        }
        assert_eq!(
            (take(&mut queue, now, false), queue.next_due()),
            (None, Some(settled))
        );
        assert_eq!(
            take(&mut queue, settled, false),
            Some((shop.clone(), Lane::Ongoing))
        );
        let later = settled + Duration::from_millis(50);
        queue.finish(&shop, Some(pause_ends), Lane::Ongoing, Some(later));
        assert_eq!(take(&mut queue, settled, false), None, "they ran together");
        queue.request(&shop, Lane::Background, settled);
        queue.request(&shop, Lane::Urgent, settled);
        assert_eq!(
            take(&mut queue, settled, false),
            Some((shop.clone(), Lane::Urgent))
        );
        queue.request(&shop, Lane::Urgent, settled);
        queue.finish(&shop, Some(pause_ends), Lane::Ongoing, Some(later));
        assert_eq!(
            take(&mut queue, settled, false),
            Some((shop.clone(), Lane::Urgent))
        );
        queue.finish(&shop, Some(pause_ends), Lane::Ongoing, Some(later));
        queue.request(&shop, Lane::Background, later);
        assert_eq!(
            take(&mut queue, later, false),
            Some((shop, Lane::Background)),
            "it has settled"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_collected_do_not_make_a_timer_less_urgent() {
        let now = Instant::now();
        let settled = now + Duration::from_millis(50);
        for timer in [Duration::from_millis(20), Duration::from_secs(1)] {
            let mut queue = ReconcileQueue::default();
            let shop = key("shop", 0);
            queue.add(&shop, Lane::Urgent);
            take(&mut queue, now, false).unwrap();
            queue.finish(&shop, Some(now + timer), Lane::Urgent, Some(settled));
            queue.request(&shop, Lane::Background, now);
            let due = settled.min(now + timer);
            assert_eq!(queue.next_due(), Some(due));
            assert_eq!(take(&mut queue, due, true), Some((shop, Lane::Urgent)));
        }
    }

    #[tokio::test]
    async fn slots_for_urgent_work_take_nothing_else() {
        let mut queue = ReconcileQueue::default();
        queue.add(&key("shop", 0), Lane::Ongoing);
        assert_eq!(take(&mut queue, Instant::now(), true), None);
        assert_eq!(queue.waiting(Lane::Ongoing), 1);
        queue.add(&key("shop", 0), Lane::Urgent);
        assert_eq!(
            take(&mut queue, Instant::now(), true),
            Some((key("shop", 0), Lane::Urgent))
        );
    }

    #[tokio::test]
    async fn a_namespace_without_a_slot_keeps_its_place() {
        let mut queue = ReconcileQueue::default();
        for name in 0..2 {
            queue.add(&key("slow", name), Lane::Background);
            queue.add(&key("fast", name), Lane::Background);
        }
        let now = Instant::now();
        let slow_is_full = |_: Lane, namespace: &str| namespace != "slow";
        for name in 0..2 {
            let taken = queue.take(now, false, slow_is_full);
            assert_eq!(taken, Some((key("fast", name), Lane::Background)));
        }
        assert_eq!(queue.take(now, false, slow_is_full), None);
        assert_eq!(queue.waiting(Lane::Background), 2);
        queue.add(&key("slow", 1), Lane::Urgent);
        let urgent_only = |lane: Lane, _: &str| lane == Lane::Urgent;
        let taken = queue.take(now, false, urgent_only);
        assert_eq!(taken, Some((key("slow", 1), Lane::Urgent)));
        assert_eq!(
            drain(&mut queue, now),
            [(key("slow", 0), Lane::Background)],
            "it is first in, first out as before"
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize, Lane),
        Take(bool),
        Finish(usize, Option<u64>),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lane = prop_oneof![
            Just(Lane::Urgent),
            Just(Lane::Ongoing),
            Just(Lane::Background),
            Just(Lane::Idle)
        ];
        prop_oneof![
            (0..6_usize, lane).prop_map(|(name, lane)| Step::Add(name, lane)),
            any::<bool>().prop_map(Step::Take),
            (0..6_usize, prop::option::of(0..5_u64))
                .prop_map(|(name, wait)| Step::Finish(name, wait)),
            (1..5_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_never_lost_and_nobody_runs_twice_at_once(steps in prop::collection::vec(step(), 1..200), settles in any::<bool>()) {
            let mut queue = ReconcileQueue::default();
            let mut now = Instant::now();
            let mut running: HashSet<Key> = HashSet::new();
            // What must still run: requests, and timers by their time.
            let mut requested: HashSet<Key> = HashSet::new();
            let mut timers: BTreeMap<String, Instant> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Add(name, lane) => {
                        queue.request(&key("shop", name), lane, now);
                        requested.insert(key("shop", name));
                    }
                    Step::Take(only_urgent) => {
                        if let Some((key, _)) = take(&mut queue, now, only_urgent) {
                            prop_assert!(running.insert(key.clone()), "runs twice");
                            let was_due = timers.remove(&key.name).is_some_and(|at| at <= now);
                            prop_assert!(requested.remove(&key) || was_due, "nobody asked");
                        }
                    }
                    Step::Finish(name, wait) => {
                        let key = key("shop", name);
                        if running.remove(&key) {
                            let at = wait.map(|seconds| now + Duration::from_secs(seconds));
                            let settles_at = settles.then(|| now + Duration::from_secs(2));
                            queue.finish(&key, at, Lane::Ongoing, settles_at);
                            if let Some(at) = at {
                                timers.insert(key.name, at);
                            }
                        }
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                for lane in Lane::ALL {
                    let is_waiting = |entry: &&Entry| matches!(entry.state, EntryState::Waiting { lane: current, .. } if current == lane);
                    let counted = queue.entries.values().filter(is_waiting).count();
                    prop_assert_eq!(queue.waiting(lane), counted);
                }
            }
            for key in running {
                queue.finish(&key, None, Lane::Ongoing, None);
            }
            let all: HashSet<Key> = drain(&mut queue, now + Duration::from_secs(60)).into_iter().map(|(key, _)| key).collect();
            for key in requested {
                prop_assert!(all.contains(&key), "{} was lost", key.name);
            }
            for name in timers.into_keys() {
                prop_assert!(all.iter().any(|key| key.name == name), "the timer of {} was lost", name);
            }
            prop_assert!(queue.entries.is_empty() && queue.timers.is_empty());
        }
    }
}
