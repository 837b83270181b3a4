//! Metrics analysis of releases.
//!
//! Each release has a task that polls its counters, passes them to `serin_analysis` and stores the
//! latest snapshot for reconciles. A reconcile never queries Prometheus; it is triggered when the
//! snapshot has changed. Only the owner of a Rollout analyzes it.

mod check_subscriptions;
mod server_resolver;
mod service_followers;
mod task;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serin_core::units::Revision;
use serin_metrics_analysis::prometheus::Poller;
use serin_metrics_analysis::report::starting_report;
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot, ReleasePhase};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::cluster_cache::Key;
use crate::dispatcher::Dispatcher;
use crate::ownership::Ownership;
use crate::probes::Probes;
use crate::telemetry::Metrics;

pub use server_resolver::{DefaultServer, RefreshIntervals, ServerResolver};

/// Manages the analysis tasks of all releases. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnalysisManager {
    inner: Arc<Inner>,
}

/// Dependencies shared by all analysis tasks.
#[derive(Clone, Debug)]
pub struct AnalysisDeps {
    /// Queries Prometheus.
    pub poller: Poller,
    /// Resolves the Prometheus server of each Rollout.
    pub servers: ServerResolver,
    /// Sends the requests and runs the Jobs of checks.
    pub probes: Probes,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

#[derive(Debug)]
struct Inner {
    deps: AnalysisDeps,
    ownership: Arc<dyn Ownership>,
    dispatcher: Arc<Dispatcher>,
    tasks: Mutex<HashMap<String, TaskHandle>>,
}

/// The handle of an analysis task.
#[derive(Debug)]
struct TaskHandle {
    request: watch::Sender<AnalysisRequest>,
    latest: Arc<Mutex<AnalysisSnapshot>>,
    abort: AbortHandle,
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The guarded values are only replaced as a whole, so a poisoned lock does not mean
    // inconsistent data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AnalysisManager {
    /// Creates a manager without tasks. A Rollout whose analysis has changed is enqueued.
    pub fn new(
        deps: AnalysisDeps,
        ownership: Arc<dyn Ownership>,
        dispatcher: Arc<Dispatcher>,
    ) -> Self {
        let changes = ownership.changes();
        let inner = Arc::new(Inner {
            deps,
            ownership,
            dispatcher,
            tasks: Mutex::default(),
        });
        tokio::spawn(stop_all_on_leadership_lost(Arc::downgrade(&inner), changes));
        Self { inner }
    }

    /// Starts the analysis of this release, or updates the running one. Does nothing if this
    /// process does not own the Rollout.
    pub fn start_or_update(&self, request: AnalysisRequest) {
        let rollout = Key::new(&request.rollout.namespace, &request.rollout.name);
        if !self.inner.ownership.owns(&rollout) {
            return;
        }
        let mut tasks = lock(&self.inner.tasks);
        let reusable = tasks
            .get(&request.uid)
            .filter(|task| can_reuse_task(&task.request.borrow(), &request));
        if let Some(task) = reusable {
            task.request
                .send_if_modified(|current| update_request(current, request));
            return;
        }
        let request = with_task_checkpoint(&mut tasks, request);
        tasks.insert(request.uid.clone(), self.start(request));
        self.inner
            .deps
            .metrics
            .set_active_analyses(active_releases(&tasks));
    }

    fn start(&self, request: AnalysisRequest) -> TaskHandle {
        let now = self.inner.deps.clock.now();
        let initial = AnalysisSnapshot::from_report(starting_report(&request, now));
        let latest = Arc::new(Mutex::new(initial));
        let (sender, receiver) = watch::channel(request);
        let task = task::run_analysis(
            self.inner.deps.clone(),
            receiver,
            latest.clone(),
            Arc::clone(&self.inner.dispatcher),
        );
        TaskHandle {
            request: sender,
            latest,
            abort: tokio::spawn(task).abort_handle(),
        }
    }

    /// Stops the analysis of this Rollout.
    pub fn stop(&self, uid: &str) {
        let mut tasks = lock(&self.inner.tasks);
        tasks.remove(uid);
        self.inner
            .deps
            .metrics
            .set_active_analyses(active_releases(&tasks));
    }

    /// The latest analysis of this revision, without a query.
    pub fn snapshot(&self, uid: &str, revision: &Revision) -> AnalysisSnapshot {
        let tasks = lock(&self.inner.tasks);
        let of_revision = tasks
            .get(uid)
            .filter(|task| task.request.borrow().revision == *revision);
        match of_revision {
            Some(task) => lock(&task.latest).clone(),
            None => AnalysisSnapshot::undecided(
                "The analysis is starting.",
                self.inner.deps.clock.now(),
            ),
        }
    }

    /// Number of releases under analysis.
    pub fn len(&self) -> usize {
        active_releases(&lock(&self.inner.tasks))
    }

    /// Whether no release is under analysis.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Number of tasks that analyze a release. The other tasks only follow an error budget.
fn active_releases(tasks: &HashMap<String, TaskHandle>) -> usize {
    tasks
        .values()
        .filter(|task| task.request.borrow().phase != ReleasePhase::Idle)
        .count()
}

/// Stops the task of this Rollout. If it belongs to the same attempt, its checkpoint is passed on
/// to the new request.
fn with_task_checkpoint(
    tasks: &mut HashMap<String, TaskHandle>,
    mut request: AnalysisRequest,
) -> AnalysisRequest {
    if let Some(task) = tasks.remove(&request.uid) {
        let is_same_attempt = task.request.borrow().is_same_attempt(&request);
        let checkpoint = lock(&task.latest)
            .checkpoint
            .clone()
            .filter(|_| is_same_attempt);
        let checkpoint =
            checkpoint.filter(|checkpoint| checkpoint.revision == request.revision.as_str());
        request.resume_from = checkpoint.or(request.resume_from);
    }
    request
}

/// Whether a running task can continue with the new request.
fn can_reuse_task(current: &AnalysisRequest, request: &AnalysisRequest) -> bool {
    current.is_same_attempt(request)
        && current.analysis == request.analysis
        && current.stable_service == request.stable_service
        && current.canary_service == request.canary_service
        && current.rules == request.rules
        && current.stable_replica_set == request.stable_replica_set
        && current.canary_replica_set == request.canary_replica_set
        && current.pace == request.pace
        && (current.phase == ReleasePhase::Idle) == (request.phase == ReleasePhase::Idle)
}

/// Updates the request of a running task. The checkpoint and the placebo releases belong to the task
/// and are not updated. Returns whether anything has changed.
fn update_request(current: &mut AnalysisRequest, mut request: AnalysisRequest) -> bool {
    request.resume_from.clone_from(&current.resume_from);
    request.placebos.clone_from(&current.placebos);
    let changed = *current != request;
    *current = request;
    changed
}

/// Drops all evidence when leadership is lost. The new leader writes the status from which the
/// analysis would resume.
async fn stop_all_on_leadership_lost(inner: Weak<Inner>, mut changes: watch::Receiver<bool>) {
    while changes.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        if !*changes.borrow_and_update() {
            lock(&inner.tasks).clear();
            inner.deps.metrics.set_active_analyses(0);
        }
    }
}
