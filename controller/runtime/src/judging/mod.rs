//! Judging releases by what Prometheus has counted.
//!
//! Each release under way has a task of its own that polls its counters, feeds them to
//! `serin_analysis` and keeps what came out where a reconcile can read it at once. A reconcile
//! never asks Prometheus; it is triggered when the judgement has changed. Only the leader judges.

mod servers;
mod task;
#[cfg(test)]
mod tests;
mod triggers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serin_core::units::Revision;
use serin_metrics_analysis::prometheus::Poller;
use serin_metrics_analysis::{JudgeRequest, Look, Phase};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::election::Leadership;
use crate::telemetry::Metrics;

pub use servers::{DefaultServer, Rereading, Servers};
pub use triggers::Triggers;

/// All releases that are being judged; cheap to clone.
#[derive(Clone, Debug)]
pub struct Judges {
    inner: Arc<Inner>,
}

/// What all judges of a process share.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Asks Prometheus.
    pub poller: Poller,
    /// Whom to ask for each Rollout.
    pub servers: Servers,
    /// Counts what was judged.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Clock,
}

#[derive(Debug)]
struct Inner {
    bench: Bench,
    leadership: Leadership,
    triggers: triggers::Sender,
    tasks: Mutex<HashMap<String, Task>>,
}

/// What a task is told, and where it tells.
#[derive(Debug)]
struct Task {
    request: watch::Sender<JudgeRequest>,
    told: Arc<Mutex<Look>>,
    abort: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What these locks guard is replaced as a whole, so a panic leaves nothing half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judges {
    /// Judges nobody yet. The triggers name the Rollouts whose judgement has changed.
    pub fn new(bench: Bench, leadership: Leadership) -> (Self, Triggers) {
        let (sender, triggers) = triggers::channel();
        let changes = leadership.changes();
        let inner = Arc::new(Inner {
            bench,
            leadership,
            triggers: sender,
            tasks: Mutex::default(),
        });
        tokio::spawn(stop_when_lost(Arc::downgrade(&inner), changes));
        (Self { inner }, triggers)
    }

    /// Judges this release from now on, or goes on as before. Does nothing in a process that does
    /// not lead.
    pub fn watch(&self, request: JudgeRequest) {
        if !self.inner.leadership.is_leader() {
            return;
        }
        let mut tasks = lock(&self.inner.tasks);
        let known = tasks
            .get(&request.uid)
            .filter(|task| asks_the_same(&task.request.borrow(), &request));
        if let Some(task) = known {
            task.request
                .send_if_modified(|known| take_in(known, request));
            return;
        }
        let request = with_own_checkpoint(&mut tasks, request);
        tasks.insert(request.uid.clone(), self.start(request));
        self.inner.bench.metrics.set_judging(under_way(&tasks));
    }

    fn start(&self, request: JudgeRequest) -> Task {
        let now = self.inner.bench.clock.now();
        let told = Arc::new(Mutex::new(Look::undecided("The analysis begins.", now)));
        let (sender, receiver) = watch::channel(request);
        let task = task::judge(
            self.inner.bench.clone(),
            receiver,
            told.clone(),
            self.inner.triggers.clone(),
        );
        Task {
            request: sender,
            told,
            abort: tokio::spawn(task).abort_handle(),
        }
    }

    /// Judges this Rollout no more.
    pub fn forget(&self, uid: &str) {
        let mut tasks = lock(&self.inner.tasks);
        tasks.remove(uid);
        self.inner.bench.metrics.set_judging(under_way(&tasks));
    }

    /// What the metrics say of this revision right now, without asking anybody.
    pub fn look(&self, uid: &str, revision: &Revision) -> Look {
        let tasks = lock(&self.inner.tasks);
        let of_revision = tasks
            .get(uid)
            .filter(|task| task.request.borrow().revision == *revision);
        match of_revision {
            Some(task) => lock(&task.told).clone(),
            None => Look::undecided("The analysis begins.", self.inner.bench.clock.now()),
        }
    }

    /// How many releases are being judged.
    pub fn len(&self) -> usize {
        under_way(&lock(&self.inner.tasks))
    }

    /// Whether no release is being judged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How many of the tasks judge a release; the others follow a budget.
fn under_way(tasks: &HashMap<String, Task>) -> usize {
    tasks
        .values()
        .filter(|task| task.request.borrow().phase != Phase::Idle)
        .count()
}

/// A task whose question has changed hands its evidence on, if both are about the same attempt.
fn with_own_checkpoint(
    tasks: &mut HashMap<String, Task>,
    mut request: JudgeRequest,
) -> JudgeRequest {
    if let Some(task) = tasks.remove(&request.uid) {
        let is_same_attempt = task.request.borrow().is_same_attempt(&request);
        let own = lock(&task.told)
            .checkpoint
            .clone()
            .filter(|_| is_same_attempt);
        let own = own.filter(|own| own.revision == request.revision.as_str());
        request.resume_from = own.or(request.resume_from);
    }
    request
}

/// Whether a task that answers the one request answers the other too.
fn asks_the_same(known: &JudgeRequest, request: &JudgeRequest) -> bool {
    known.is_same_attempt(request)
        && known.analysis == request.analysis
        && known.stable_service == request.stable_service
        && known.canary_service == request.canary_service
        && known.rules == request.rules
        && known.stable_replica_set == request.stable_replica_set
        && known.canary_replica_set == request.canary_replica_set
        && known.pace == request.pace
        && (known.phase == Phase::Idle) == (request.phase == Phase::Idle)
}

/// Takes in what changes while a release is judged; the checkpoint is the task's own from its start
/// on.
fn take_in(known: &mut JudgeRequest, mut request: JudgeRequest) -> bool {
    request.resume_from.clone_from(&known.resume_from);
    let changed = *known != request;
    *known = request;
    changed
}

/// A process that has lost the lead forgets its evidence: whoever leads now writes the status from
/// which it would go on.
async fn stop_when_lost(inner: Weak<Inner>, mut changes: watch::Receiver<bool>) {
    while changes.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        if !*changes.borrow_and_update() {
            lock(&inner.tasks).clear();
            inner.bench.metrics.set_judging(0);
        }
    }
}
