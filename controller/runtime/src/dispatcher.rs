//! Runs reconciles from the queue, each in a task of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cluster_cache::Key;
use crate::namespace_slots::NamespaceSlots;
use crate::queue::{Lane, ReconcileQueue};
use crate::slot_limit::SharedSlotLimit;

/// Time after a reconcile for which requests that are not urgent are collected. A write is followed
/// by several watch events: its own, and those of the controllers that it concerns.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// The result of a reconcile: when the Rollout is reconciled again if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only after a change.
    AwaitChange,
    /// After this time.
    Requeue(Duration),
    /// After this time, because it was not completed. It is then as urgent as it was: whoever waits
    /// for an abort still waits.
    Retry(Duration),
}

/// The queue, shared between those who request reconciles and the loop that runs them.
#[derive(Debug, Default)]
pub struct Dispatcher {
    queue: Mutex<ReconcileQueue>,
    namespaces: Mutex<NamespaceSlots>,
    changed: Notify,
    limit: Arc<SharedSlotLimit>,
}

/// A reconcile that is running.
struct Running {
    key: Key,
    lane: Lane,
    since: Instant,
}

impl Dispatcher {
    /// A queue with a limit of the reconciles that are not urgent.
    pub fn with_limit(limit: Arc<SharedSlotLimit>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The current limit of the reconciles that are not urgent.
    pub fn slot_limit(&self) -> usize {
        self.limit.current()
    }

    /// Requests a reconcile.
    pub fn enqueue(&self, key: &Key, lane: Lane) {
        self.queue().request(key, lane, Instant::now());
        self.changed.notify_one();
    }

    /// Whether so many Rollouts wait for the API server that writes of no urgency should wait too.
    pub fn is_backed_up(&self) -> bool {
        let queue = self.queue();
        let waiting = queue.waiting(Lane::Ongoing) + queue.waiting(Lane::Background);
        waiting >= self.limit.current()
    }

    /// Number of Rollouts that wait in a lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.queue().waiting(lane)
    }

    /// Number of entries of the queue, including timers.
    pub fn entry_count(&self) -> usize {
        self.queue().entry_count()
    }

    /// Runs reconciles until `stop` completes, and then waits for those that run. A reconcile
    /// returns when it must be repeated, and in which lane. `slots` is the maximum number of
    /// concurrent reconciles, of which an eighth, at least one, is kept free for urgent ones.
    pub async fn run<R, F>(&self, slots: usize, reconcile: R, stop: impl Future<Output = ()>)
    where
        R: Fn(Key) -> F,
        F: Future<Output = (Action, Lane)> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let mut running = HashMap::new();
        let mut stop = std::pin::pin!(stop);
        let slots = slots.max(2);
        loop {
            while let Some((key, lane)) = self.take(tasks.len(), slots) {
                let task = tasks.spawn(reconcile(key.clone()));
                let since = Instant::now();
                running.insert(task.id(), Running { key, lane, since });
            }
            let next_due = self.next_due(tasks.len(), slots);
            tokio::select! {
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, next) = match ended {
                        Ok((id, next)) => (id, Some(next)),
                        // The reconcile catches its panics, and nothing aborts the task.
                        Err(error) => (error.id(), None),
                    };
                    if let Some(ended) = running.remove(&id) {
                        self.finish(&ended, next);
                    }
                }
                () = self.changed.notified() => {}
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
                () = &mut stop => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn take(&self, running: usize, slots: usize) -> Option<(Key, Lane)> {
        if running >= slots {
            return None;
        }
        let reserved = (slots / 8).max(1);
        let limit = self.slot_limit().min(slots - reserved);
        let now = Instant::now();
        let mut namespaces = self.namespaces();
        let has_slot = |lane: Lane, namespace: &str| {
            namespaces.has_slot(namespace, slow_share(lane, slots, limit), now)
        };
        let (key, lane) = self.queue().take(now, running >= limit, has_slot)?;
        namespaces.begin(&key.namespace);
        Some((key, lane))
    }

    /// When the next timer is due. `None` without a free slot: a timer that is due could not be
    /// taken, so waiting for it would not wait at all.
    fn next_due(&self, running: usize, slots: usize) -> Option<Instant> {
        (running < slots).then(|| self.queue().next_due()).flatten()
    }

    fn finish(&self, ended: &Running, next: Option<(Action, Lane)>) {
        let now = Instant::now();
        let (action, lane) = next.unwrap_or((Action::AwaitChange, Lane::Background));
        let (again_at, lane) = match action {
            Action::AwaitChange => (None, lane),
            Action::Requeue(after) => (Some(now + after), lane),
            Action::Retry(after) => (Some(now + after), lane.min(ended.lane)),
        };
        let took = now.duration_since(ended.since);
        self.namespaces().end(&ended.key.namespace, took, now);
        let settles_at = Some(now + SETTLE_TIME);
        self.queue().finish(&ended.key, again_at, lane, settles_at);
    }

    /// Waits for the next request and removes it, for tests without a running loop.
    #[cfg(test)]
    pub async fn next(&self) -> (Key, Lane) {
        loop {
            if let Some((key, lane)) = self.take(0, 2) {
                let since = Instant::now();
                let taken = Running { key, lane, since };
                self.finish(&taken, None);
                return (taken.key, lane);
            }
            self.changed.notified().await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, ReconcileQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked before the queue.
    fn namespaces(&self) -> MutexGuard<'_, NamespaceSlots> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of reconciles of a namespace whose reconciles are slow, of `slots` in total and of
/// `limit` that are not urgent.
///
/// That is half of the limit. If the API server itself is slow, the limit is low and every namespace
/// is slow, and half of it would be less than the API server can bear. Urgent reconciles may use
/// three quarters of all slots.
fn slow_share(lane: Lane, slots: usize, limit: usize) -> usize {
    let share = match lane {
        Lane::Urgent => slots - slots.div_ceil(4),
        Lane::Ongoing | Lane::Background | Lane::Idle => {
            (limit / 2).max((slots / 4).saturating_sub(1))
        }
    };
    share.max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    fn key(name: usize) -> Key {
        Key::new("shop", format!("r{name}"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_during_a_flood_starts_at_once() {
        const FLOOD: usize = 3_000;
        let dispatcher = Arc::new(Dispatcher::default());
        for name in 0..FLOOD {
            dispatcher.enqueue(&key(name), Lane::Background);
        }
        let (started, mut starts) = mpsc::unbounded_channel();
        let loop_of = Arc::clone(&dispatcher);
        let task = tokio::spawn(async move {
            let reconcile = move |key: Key| {
                let started = started.clone();
                async move {
                    let _ = started.send((key, Instant::now()));
                    // Each of the flood keeps its slot for a while.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    (Action::AwaitChange, Lane::Background)
                }
            };
            loop_of.run(32, reconcile, std::future::pending()).await;
        });
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let asked = Instant::now();
        dispatcher.enqueue(&key(FLOOD), Lane::Urgent);
        let mut seen = 0;
        while let Some((started_key, at)) = starts.recv().await {
            seen += 1;
            if started_key == key(FLOOD) {
                assert!(
                    at.duration_since(asked) < Duration::from_millis(2),
                    "{:?}",
                    at.duration_since(asked)
                );
                break;
            }
        }
        assert!(seen < FLOOD, "the flood was not over");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_as_many_run_as_there_are_slots() {
        let dispatcher = Arc::new(Dispatcher::default());
        for name in 0..100 {
            let lane = if name % 2 == 0 {
                Lane::Urgent
            } else {
                Lane::Background
            };
            dispatcher.enqueue(&key(name), lane);
        }
        let (running, most, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let counts = Arc::new((running, most, done));
        let seen = Arc::clone(&counts);
        let reconcile = move |_| {
            let counts = Arc::clone(&counts);
            async move {
                let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                counts.0.fetch_sub(1, Ordering::SeqCst);
                counts.2.fetch_add(1, Ordering::SeqCst);
                (Action::AwaitChange, Lane::Background)
            }
        };
        let stop = tokio::time::sleep(Duration::from_secs(1));
        dispatcher.run(8, reconcile, stop).await;
        assert_eq!(
            (seen.1.load(Ordering::SeqCst), seen.2.load(Ordering::SeqCst)),
            (8, 100)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_due_is_not_waited_for_without_a_free_slot() {
        let dispatcher = Dispatcher::default();
        dispatcher.enqueue(&key(0), Lane::Urgent);
        let (key, lane) = dispatcher.take(0, 2).unwrap();
        let since = Instant::now();
        let ended = Running { key, lane, since };
        let again = Action::Requeue(Duration::from_secs(1));
        dispatcher.finish(&ended, Some((again, Lane::Ongoing)));
        assert_eq!(
            dispatcher.next_due(1, 2),
            Some(since + Duration::from_secs(1))
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(dispatcher.take(2, 2), None);
        assert_eq!(dispatcher.next_due(2, 2), None, "the loop would not pause");
        assert_eq!(dispatcher.take(0, 2), Some((ended.key, Lane::Ongoing)));
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_reconciles_are_not_limited_when_the_api_server_is_slow() {
        let limit = Arc::new(SharedSlotLimit::new(16));
        let slow = Duration::from_secs(1);
        for _ in 0..16 {
            for _ in 0..32 {
                limit.record("shop", slow);
            }
            tokio::time::advance(slow).await;
        }
        let dispatcher = Dispatcher::with_limit(Arc::clone(&limit));
        assert_eq!(dispatcher.slot_limit(), 4);
        dispatcher.enqueue(&key(0), Lane::Ongoing);
        assert_eq!(dispatcher.take(4, 16), None);
        dispatcher.enqueue(&key(1), Lane::Urgent);
        assert_eq!(dispatcher.take(15, 16), Some((key(1), Lane::Urgent)));
        assert_eq!(dispatcher.take(3, 16), Some((key(0), Lane::Ongoing)));
    }

    #[test]
    fn a_slow_namespace_leaves_slots_to_the_others() {
        let others = [Lane::Ongoing, Lane::Background].map(|lane| slow_share(lane, 32, 28));
        assert_eq!(others, [14, 14], "the API server is fast");
        assert_eq!(slow_share(Lane::Background, 32, 8), 7, "it is slow");
        assert_eq!(slow_share(Lane::Urgent, 32, 8), 24);
        assert_eq!(slow_share(Lane::Background, 2, 1), 1);
        assert_eq!(slow_share(Lane::Urgent, 2, 1), 1);
    }

    /// Records a slow reconcile in a namespace.
    fn slow_namespace(dispatcher: &Dispatcher, namespace: &str) {
        let mut namespaces = dispatcher.namespaces();
        namespaces.begin(namespace);
        namespaces.end(namespace, Duration::from_secs(5), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_in_a_slow_namespace_does_not_wait_for_its_flood() {
        let dispatcher = Dispatcher::default();
        slow_namespace(&dispatcher, "shop");
        for name in 0..100 {
            dispatcher.enqueue(&key(name), Lane::Background);
        }
        let order: Vec<_> = (0..)
            .map_while(|running| dispatcher.take(running, 32))
            .map(|(key, _)| key)
            .collect();
        let expected: Vec<_> = (0..14).map(key).collect();
        assert_eq!(order, expected, "in order, and half of the slots remain");
        let other = Key::new("other", "r0");
        dispatcher.enqueue(&other, Lane::Background);
        dispatcher.enqueue(&key(50), Lane::Urgent);
        assert_eq!(dispatcher.take(14, 32), Some((key(50), Lane::Urgent)));
        assert_eq!(dispatcher.take(15, 32), Some((other, Lane::Background)));
        assert_eq!(dispatcher.take(16, 32), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_backed_up_if_more_wait_than_may_run() {
        let dispatcher = Dispatcher::with_limit(Arc::new(SharedSlotLimit::new(16)));
        for name in 0..17 {
            assert_eq!(dispatcher.is_backed_up(), name >= 16, "{name}");
            dispatcher.enqueue(&key(name), Lane::Background);
            dispatcher.enqueue(&key(100 + name), Lane::Idle);
        }
        assert!(!Dispatcher::default().is_backed_up(), "there is no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_after_a_takeover_does_not_wait_for_the_check_of_all_others() {
        let dispatcher = Dispatcher::default();
        for name in 0..3_000 {
            dispatcher.enqueue(&key(name), Lane::Idle);
        }
        dispatcher.enqueue(&key(2_999), Lane::Background);
        assert_eq!(dispatcher.take(0, 32), Some((key(2_999), Lane::Background)));
        assert_eq!(dispatcher.take(1, 32), Some((key(0), Lane::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_is_as_urgent_as_before() {
        for (action, lane) in [
            (Action::Retry(Duration::from_millis(50)), Lane::Urgent),
            (Action::Requeue(Duration::from_millis(50)), Lane::Ongoing),
        ] {
            let dispatcher = Dispatcher::default();
            dispatcher.enqueue(&key(0), Lane::Urgent);
            let (key, taken) = dispatcher.take(0, 2).unwrap();
            let since = Instant::now();
            let ended = Running {
                key,
                lane: taken,
                since,
            };
            dispatcher.finish(&ended, Some((action, Lane::Ongoing)));
            tokio::time::advance(Duration::from_millis(50)).await;
            assert_eq!(dispatcher.take(0, 2), Some((ended.key, lane)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_requeued_rollout_runs_again_at_its_time() {
        let dispatcher = Arc::new(Dispatcher::default());
        dispatcher.enqueue(&key(0), Lane::Background);
        let times = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&times);
        let began = Instant::now();
        let reconcile = move |_| {
            let times = Arc::clone(&times);
            async move {
                times
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(began.elapsed().as_secs());
                (Action::Requeue(Duration::from_secs(7)), Lane::Ongoing)
            }
        };
        let stop = tokio::time::sleep(Duration::from_secs(20));
        dispatcher.run(4, reconcile, stop).await;
        assert_eq!(
            *seen.lock().unwrap_or_else(PoisonError::into_inner),
            [0, 7, 14]
        );
    }
}
