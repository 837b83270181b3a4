//! Runs reconciles from the queue, each in a task of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cluster_cache::Key;
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
}

/// The queue, shared between those who request reconciles and the loop that runs them.
#[derive(Debug, Default)]
pub struct Dispatcher {
    queue: Mutex<ReconcileQueue>,
    changed: Notify,
    limit: Arc<SharedSlotLimit>,
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
        let mut running = JoinSet::new();
        let mut keys = HashMap::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            while let Some((key, _)) = self.take(running.len(), slots.max(2)) {
                let task = running.spawn(reconcile(key.clone()));
                keys.insert(task.id(), key);
            }
            let next_due = self.queue().next_due();
            tokio::select! {
                Some(ended) = running.join_next_with_id() => {
                    let (id, next) = match ended {
                        Ok((id, next)) => (id, Some(next)),
                        // The reconcile catches its panics, and nothing aborts the task.
                        Err(error) => (error.id(), None),
                    };
                    if let Some(key) = keys.remove(&id) {
                        self.finish(&key, next);
                    }
                }
                () = self.changed.notified() => {}
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
                () = &mut stop => break,
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn take(&self, running: usize, slots: usize) -> Option<(Key, Lane)> {
        if running >= slots {
            return None;
        }
        let reserved = (slots / 8).max(1);
        let limit = self.slot_limit().min(slots - reserved);
        self.queue().take(Instant::now(), running >= limit)
    }

    fn finish(&self, key: &Key, next: Option<(Action, Lane)>) {
        let (action, lane) = next.unwrap_or((Action::AwaitChange, Lane::Background));
        let again_at = match action {
            Action::AwaitChange => None,
            Action::Requeue(after) => Some(Instant::now() + after),
        };
        let settles_at = Some(Instant::now() + SETTLE_TIME);
        self.queue().finish(key, again_at, lane, settles_at);
    }

    /// Waits for the next request and removes it, for tests without a running loop.
    #[cfg(test)]
    pub async fn next(&self) -> (Key, Lane) {
        loop {
            if let Some((key, lane)) = self.take(0, 2) {
                self.finish(&key, None);
                return (key, lane);
            }
            self.changed.notified().await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, ReconcileQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
