//! Reconciles one Rollout: observe, decide, write the state to the status, then execute the
//! effects.
//!
//! A reconcile never sleeps and never queries Prometheus. A error affects only its own Rollout.

mod adoption;
mod analysis;
mod api_writer;
mod degraded;
mod deletion;
mod effect_failures;
mod finalizer;
mod give_back;
mod pipeline;
mod policies;
mod position;
mod quarantine;
mod snapshot;
mod spec_view;
mod workload;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;
use rand::Rng;
use serin_core::InvariantViolation;
use serin_core::backoff::retry_after;
use serin_crds::api_status;
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::analyzer::Analyzer;
use crate::clock::Clock;
use crate::cluster_cache::{ClusterCache, RolloutObject};
use crate::dispatcher::{Action, Dispatcher};
use crate::effects::EffectError;
use crate::events::Events;
use crate::guardrails::{GuardrailObjects, RegistryLookups};
use crate::journal::{Journal, Subject};
use crate::local_state::{LocalState, LocalStates};
use crate::ownership::Ownership;
use crate::planner::{Planner, panic_message};
use crate::telemetry::{Metrics, ReconcileResult};
use crate::watchdog::InProgress;

pub use deletion::{ResourceRestorer, release_finalizer};
pub use policies::PolicyResolver;

/// Delay after a conflict, until the watch has delivered the change.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
/// Delay while a kind cannot be listed in the namespace of the Rollout.
const AFTER_UNLISTED: Duration = Duration::from_secs(5);
/// Delay while the labels of the namespaces, which a policy selects, are being listed.
const AFTER_PENDING_NAMESPACES: Duration = Duration::from_millis(250);

/// What prevents one Rollout from stopping the others.
#[derive(Clone, Debug, Default)]
pub struct Safeguards {
    /// Makes plans outside of the worker threads.
    pub planner: Planner,
    /// The first attempts, which a restarted process finds again.
    pub journal: Journal,
    /// The running reconciles.
    pub in_progress: InProgress,
}

/// Dependencies shared by all reconciles.
pub struct Context {
    pub client: Client,
    /// Whether all namespaces are watched.
    pub watches_all_namespaces: bool,
    /// The cached objects.
    pub cache: Arc<ClusterCache>,
    pub clock: Clock,
    /// Which Rollouts this process may act on.
    pub ownership: Arc<dyn Ownership>,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Analyzes the metrics of releases.
    pub analyzer: Arc<dyn Analyzer>,
    /// The process-local state of the Rollouts.
    pub local_states: LocalStates,
    /// Objects that the guardrails of several Rollouts depend on.
    pub guardrail_objects: GuardrailObjects,
    /// Questions of guardrails to image registries.
    pub registries: RegistryLookups,
    pub safeguards: Safeguards,
    /// The queue of reconciles.
    pub dispatcher: Arc<Dispatcher>,
}

impl Context {
    /// Drops the process-local state of a deleted Rollout.
    pub fn forget(&self, uid: &str) {
        self.local_states.forget(uid);
        self.safeguards.journal.forget(uid);
        self.analyzer.stop(uid);
    }

    /// Drops the process-local state of a Rollout that this process may no longer act on.
    pub fn stop(&self, uid: &str) {
        self.local_states.forget(uid);
        self.analyzer.stop(uid);
    }

    /// Drops all process-local state except the cache, because another process now acts.
    pub fn on_leadership_lost(&self) {
        for uid in self.local_states.forget_all() {
            self.analyzer.stop(&uid);
        }
    }
}

/// Why a reconcile was not completed.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    /// The Rollout was changed since it was read.
    #[error("the Rollout was changed concurrently")]
    Conflict,
    /// Another controller may already be acting.
    #[error("this controller no longer holds the Lease")]
    NotLeader,
    /// The Rollout was deleted.
    #[error("the Rollout was deleted")]
    Gone,
    /// The decision would break a safety rule.
    #[error(transparent)]
    InvariantViolation(#[from] InvariantViolation),
    /// The object is too large for the API server.
    #[error("{0}")]
    TooLarge(String),
    /// A error that may be temporary.
    #[error("{0}")]
    Failed(String),
}

impl ReconcileError {
    fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| match error {
            kube::Error::Api(status) if api_status::is_conflict(&status) => Self::Conflict,
            // A 404 without the object name is about the kind or comes from a proxy. It is retried.
            kube::Error::Api(status) if api_status::is_missing_object(&status) => Self::Gone,
            kube::Error::Api(status) if api_status::is_too_large(&status) => {
                Self::TooLarge(format!("{what}: {}", api_status::message(&status)))
            }
            kube::Error::Api(status) => {
                Self::Failed(format!("{what}: {}", api_status::message(&status)))
            }
            other => Self::Failed(format!("{what}: {other}")),
        }
    }
}

impl From<EffectError> for ReconcileError {
    fn from(error: EffectError) -> Self {
        match error {
            EffectError::Conflict(_) => Self::Conflict,
            EffectError::NotLeader => Self::NotLeader,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Reconciles one Rollout. Errors are logged, counted, reported in the status and retried.
pub async fn reconcile(cached: Arc<RolloutObject>, context: Arc<Context>) -> Action {
    // A standby keeps its caches current and does nothing else. Every Rollout is enqueued when it
    // becomes the leader.
    if !context.ownership.owns(&cached.key()) || !context.cache.unsynced_kinds().is_empty() {
        return Action::AwaitChange;
    }
    if !context.cache.is_listed(&cached.key().namespace) {
        return Action::Requeue(AFTER_UNLISTED);
    }
    if context.cache.policies.awaits_namespaces() {
        return Action::Requeue(AFTER_PENDING_NAMESPACES);
    }
    let subject = subject(&cached);
    let in_progress = &context.safeguards.in_progress;
    let span = tracing::info_span!("reconcile", namespace = %subject.namespace, rollout = %subject.name, revision = field::Empty);
    let reconcile = reconcile_catching_panics(&cached, &context).instrument(span);
    in_progress.track(subject, Box::pin(reconcile)).await
}

fn subject(rollout: &RolloutObject) -> Subject {
    let key = rollout.key();
    Subject {
        namespace: key.namespace,
        name: key.name,
        uid: rollout.uid().to_owned(),
        generation: rollout.generation(),
    }
}

async fn reconcile_catching_panics(cached: &Arc<RolloutObject>, context: &Context) -> Action {
    let local = context.local_states.get_or_create(cached.uid());
    let mut local = local.lock().await;
    if let Some(left) = local.quarantined_for(cached.generation()) {
        return quarantine::reconcile_quarantined(context, cached, &mut local, left).await;
    }
    let began = Instant::now();
    let rollout = local.newest(Arc::clone(cached));
    let attempt = match quarantine::begin_attempt(context, &rollout, &mut local).await {
        Ok(attempt) => attempt,
        Err(action) => return action,
    };
    let run = Box::pin(pipeline::run(
        context,
        rollout,
        attempt.as_ref(),
        &mut local,
    ));
    let outcome = AssertUnwindSafe(run).catch_unwind().await;
    drop(attempt);
    let (result, action) = match outcome {
        Ok(Ok(action)) => {
            local.failures = 0;
            local.quarantine = None;
            local.abort_backoff = None;
            local.tried_generation = Some(cached.generation());
            (ReconcileResult::Done, action)
        }
        Ok(Err(ReconcileError::InvariantViolation(violation))) => (
            ReconcileResult::Failed,
            quarantine::begin(context, cached, &mut local, violation.to_string()).await,
        ),
        Ok(Err(error)) => handle_error(&error, &mut local),
        Err(panic) => {
            let text = panic_message(panic.as_ref());
            drop(panic);
            (
                ReconcileResult::Panicked,
                quarantine::begin(context, cached, &mut local, text).await,
            )
        }
    };
    context.metrics.record_reconcile(result, began.elapsed());
    action
}

fn handle_error(error: &ReconcileError, local: &mut LocalState) -> (ReconcileResult, Action) {
    match error {
        ReconcileError::Conflict => {
            tracing::debug!("conflict; retrying");
            (ReconcileResult::Conflict, Action::Retry(AFTER_CONFLICT))
        }
        ReconcileError::NotLeader | ReconcileError::Gone => {
            (ReconcileResult::Done, Action::AwaitChange)
        }
        ReconcileError::InvariantViolation(_)
        | ReconcileError::TooLarge(_)
        | ReconcileError::Failed(_) => {
            local.failures = local.failures.saturating_add(1);
            let wait = retry_after(local.failures, jitter());
            tracing::warn!(%error, failures = local.failures, retry_in = ?wait, "reconcile failed");
            (ReconcileResult::Failed, Action::Retry(wait))
        }
    }
}

fn jitter() -> f64 {
    rand::rng().random()
}
