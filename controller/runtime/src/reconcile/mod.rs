//! One look at one Rollout: observe, decide, write the position, then make it true.
//!
//! A reconcile never sleeps and never asks Prometheus. Whatever happens in it stays with its
//! Rollout.

mod adoption;
mod attempt;
mod deletion;
mod finalizer;
mod judged;
mod reading;
mod unusable;
mod writing;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;
use kube::runtime::controller::Action;
use rand::Rng;
use serin_core::backoff::retry_after;
use serin_crds::api_status;
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::clock::Clock;
use crate::effects::EffectError;
use crate::election::Leadership;
use crate::events::Events;
use crate::judge::Judge;
use crate::memory::{Memories, Memory};
use crate::telemetry::{Metrics, ReconcileResult};
use crate::world::{Key, RolloutObject, World};

pub use deletion::{GiveBack, release_finalizer};

/// After a conflict the watch needs a moment to bring what has changed.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is known.
    pub world: Arc<World>,
    /// The time.
    pub clock: Clock,
    /// Whether this process may act.
    pub leadership: Leadership,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told.
    pub events: Events,
    /// What judges releases by their metrics.
    pub judge: Arc<dyn Judge>,
    /// What is remembered.
    pub memories: Memories,
}

impl Context {
    /// Forgets a Rollout that is gone.
    pub fn forget(&self, rollout: &Key, uid: &str) {
        self.memories.forget(uid);
        self.judge.forget(uid);
        self.world.forget(rollout);
    }

    /// Forgets everything but the world: another process acts now.
    pub fn stand_by(&self) {
        for uid in self.memories.forget_all() {
            self.judge.forget(&uid);
        }
    }
}

/// Why a reconcile did not get to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Something was written over meanwhile.
    #[error("the Rollout has changed meanwhile")]
    Conflict,
    /// Another controller may be acting by now.
    #[error("this controller does not hold the lease any more")]
    NotLeader,
    /// The Rollout is gone.
    #[error("the Rollout is gone")]
    Gone,
    /// Something failed that may succeed later.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| match error {
            kube::Error::Api(status) if api_status::is_conflict(&status) => Self::Conflict,
            // Without the object's name a 404 is about the kind or comes from a proxy, and is tried
            // again.
            kube::Error::Api(status) if api_status::is_missing_object(&status) => Self::Gone,
            kube::Error::Api(status) => {
                Self::Failed(format!("{what}: {}", api_status::message(&status)))
            }
            other => Self::Failed(format!("{what}: {other}")),
        }
    }
}

impl From<EffectError> for Failure {
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
/// Never: what goes wrong is logged, counted, told in the status and tried again.
pub async fn reconcile(
    seen: Arc<RolloutObject>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    // A standby keeps its caches warm and does nothing; once it leads, everything is looked at.
    if !context.leadership.is_leader() || !context.world.awaited().is_empty() {
        return Ok(Action::await_change());
    }
    let key = seen.key();
    let span = tracing::info_span!("reconcile", namespace = %key.namespace, rollout = %key.name, revision = field::Empty);
    Ok(guarded(&seen, &context).instrument(span).await)
}

async fn guarded(seen: &Arc<RolloutObject>, context: &Context) -> Action {
    let memory = context.memories.of(seen.uid());
    let mut memory = memory.lock().await;
    if let Some(left) = memory.set_aside_for(seen.generation()) {
        return Action::requeue(left);
    }
    let began = Instant::now();
    let rollout = memory.newest(Arc::clone(seen));
    let attempt = AssertUnwindSafe(attempt::attempt(context, rollout, &mut memory))
        .catch_unwind()
        .await;
    let (result, action) = match attempt {
        Ok(Ok(action)) => {
            memory.failures = 0;
            memory.quarantine = None;
            (ReconcileResult::Done, action)
        }
        Ok(Err(failure)) => after_failure(&failure, &mut memory),
        Err(panic) => {
            let text = text_of(panic.as_ref());
            drop(panic);
            (
                ReconcileResult::Panicked,
                quarantine(context, seen, &mut memory, text).await,
            )
        }
    };
    context.metrics.reconciled(result, began.elapsed());
    action
}

fn after_failure(failure: &Failure, memory: &mut Memory) -> (ReconcileResult, Action) {
    match failure {
        Failure::Conflict => {
            tracing::debug!("something changed meanwhile: looking again");
            (ReconcileResult::Conflict, Action::requeue(AFTER_CONFLICT))
        }
        Failure::NotLeader | Failure::Gone => (ReconcileResult::Done, Action::await_change()),
        Failure::Failed(_) => {
            memory.failures = memory.failures.saturating_add(1);
            let wait = retry_after(memory.failures, jitter());
            tracing::warn!(error = %failure, failures = memory.failures, retry_in = ?wait, "a reconcile failed");
            (ReconcileResult::Failed, Action::requeue(wait))
        }
    }
}

/// A defect of ours stays with the one Rollout that it was met at, and is told there.
async fn quarantine(
    context: &Context,
    seen: &RolloutObject,
    memory: &mut Memory,
    text: String,
) -> Action {
    memory.set_aside(seen.generation(), jitter());
    let wait = memory
        .set_aside_for(seen.generation())
        .unwrap_or(AFTER_CONFLICT);
    tracing::error!(panic = %text, retry_in = ?wait, "deciding on this Rollout failed: it is set aside, the others go on");
    let told =
        unusable::tell_quarantine(context, seen, &format!("internal error: {text}"), memory).await;
    if let Err(failure) = told {
        tracing::warn!(error = %failure, "the quarantine could not be told in the status");
    }
    Action::requeue(wait)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn jitter() -> f64 {
    rand::rng().random()
}
