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
        (0..6_usize, prop::option::of(0..5_u64)).prop_map(|(name, wait)| Step::Finish(name, wait)),
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
