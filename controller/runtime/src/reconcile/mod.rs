//! Reconciles one Rollout: observe, decide, write the state to the status, then execute the
//! effects.
//!
//! A reconcile never sleeps and never queries Prometheus. A error affects only its own Rollout.

mod adoption;
mod analysis;
mod api_writer;
mod degraded;
mod deletion;
mod finalizer;
mod pipeline;
mod spec_view;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;
use kube::runtime::controller::Action;
use rand::Rng;
use serin_core::InvariantViolation;
use serin_core::backoff::retry_after;
use serin_crds::api_status;
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::analyzer::Analyzer;
use crate::clock::Clock;
use crate::cluster_cache::{ClusterCache, Key, RolloutObject};
use crate::effects::EffectError;
use crate::election::Leadership;
use crate::events::Events;
use crate::local_state::{LocalState, LocalStates};
use crate::telemetry::{Metrics, ReconcileResult};

pub use deletion::{ResourceRestorer, release_finalizer};

/// Delay after a conflict, until the watch has delivered the change.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);

/// Dependencies shared by all reconciles.
pub struct Context {
    pub client: Client,
    /// The cached objects.
    pub cache: Arc<ClusterCache>,
    pub clock: Clock,
    /// Whether this process may act.
    pub leadership: Leadership,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Analyzes the metrics of releases.
    pub analyzer: Arc<dyn Analyzer>,
    /// The process-local state of the Rollouts.
    pub local_states: LocalStates,
}

impl Context {
    /// Drops everything about a deleted Rollout.
    pub fn forget(&self, rollout: &Key, uid: &str) {
        self.local_states.forget(uid);
        self.analyzer.stop(uid);
        self.cache.forget(rollout);
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

/// Reconciles one Rollout.
///
/// # Errors
/// Never fails: errors are logged, counted, reported in the status and retried.
pub async fn reconcile(
    cached: Arc<RolloutObject>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    // A standby keeps its caches current and does nothing else. Every Rollout is enqueued when it
    // becomes the leader.
    if !context.leadership.is_leader() || !context.cache.unsynced_kinds().is_empty() {
        return Ok(Action::await_change());
    }
    let key = cached.key();
    let span = tracing::info_span!("reconcile", namespace = %key.namespace, rollout = %key.name, revision = field::Empty);
    Ok(reconcile_catching_panics(&cached, &context)
        .instrument(span)
        .await)
}

async fn reconcile_catching_panics(cached: &Arc<RolloutObject>, context: &Context) -> Action {
    let local = context.local_states.get_or_create(cached.uid());
    let mut local = local.lock().await;
    if let Some(left) = local.quarantined_for(cached.generation()) {
        return Action::requeue(left);
    }
    let began = Instant::now();
    let rollout = local.newest(Arc::clone(cached));
    let attempt = AssertUnwindSafe(pipeline::run(context, rollout, &mut local))
        .catch_unwind()
        .await;
    let (result, action) = match attempt {
        Ok(Ok(action)) => {
            local.failures = 0;
            local.quarantine = None;
            (ReconcileResult::Done, action)
        }
        Ok(Err(ReconcileError::InvariantViolation(violation))) => (
            ReconcileResult::Failed,
            quarantine(context, cached, &mut local, violation.to_string()).await,
        ),
        Ok(Err(error)) => handle_error(&error, &mut local),
        Err(panic) => {
            let text = panic_message(panic.as_ref());
            drop(panic);
            (
                ReconcileResult::Panicked,
                quarantine(context, cached, &mut local, text).await,
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
            (ReconcileResult::Conflict, Action::requeue(AFTER_CONFLICT))
        }
        ReconcileError::NotLeader | ReconcileError::Gone => {
            (ReconcileResult::Done, Action::await_change())
        }
        ReconcileError::InvariantViolation(_) | ReconcileError::Failed(_) => {
            local.failures = local.failures.saturating_add(1);
            let wait = retry_after(local.failures, jitter());
            tracing::warn!(%error, failures = local.failures, retry_in = ?wait, "reconcile failed");
            (ReconcileResult::Failed, Action::requeue(wait))
        }
    }
}

/// Quarantines a Rollout whose reconcile panicked or would have broken a safety rule, and reports
/// it there. Its traffic stays as it is, and other Rollouts are not affected.
async fn quarantine(
    context: &Context,
    cached: &RolloutObject,
    local: &mut LocalState,
    text: String,
) -> Action {
    local.quarantine(cached.generation(), jitter());
    let wait = local
        .quarantined_for(cached.generation())
        .unwrap_or(AFTER_CONFLICT);
    tracing::error!(cause = %text, retry_in = ?wait, "internal error; rollout quarantined");
    let reported =
        degraded::report_quarantine(context, cached, &format!("internal error: {text}"), local)
            .await;
    if let Err(error) = reported {
        tracing::warn!(%error, "failed to report the quarantine in the status");
    }
    Action::requeue(wait)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

fn jitter() -> f64 {
    rand::rng().random()
}
