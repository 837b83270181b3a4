//! Quarantines Rollouts whose reconcile panicked, would have broken a safety rule, or ended the
//! process. Their traffic stays as it is, and other Rollouts are not affected. An abort is carried
//! out nevertheless, see [`pipeline::run_quarantined`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::{
    AFTER_CONFLICT, Context, ReconcileError, degraded, handle_error, jitter, pipeline, subject,
};
use crate::cluster_cache::RolloutObject;
use crate::dispatcher::Action;
use crate::journal::{Admission, Attempt};
use crate::local_state::LocalState;
use crate::planner::panic_message;
use crate::telemetry::ReconcileResult;

/// Delay while another Rollout is retried after it may have ended the process.
const AFTER_OTHERS: Duration = Duration::from_millis(250);
/// Delay until a quarantine that could not be reported is reported again.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// What a person can do about a quarantine.
const MEANWHILE: &str = "until then, `abort` works, and all other commands wait";

/// Records the first attempt of a generation. `None` if this is not the first one. If the Rollout
/// is not tried now, the error is when to come back.
pub(super) async fn begin_attempt(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    local: &mut LocalState,
) -> Result<Option<Attempt>, Action> {
    if local.tried_generation == Some(rollout.generation()) {
        return Ok(None);
    }
    let journal = &context.safeguards.journal;
    let (deaths, left) = match journal.begin(&subject(rollout), context.clock.now()) {
        Admission::Start(attempt) => return Ok(Some(attempt)),
        Admission::Wait => {
            return Err(reconcile_quarantined(context, rollout, local, AFTER_OTHERS).await);
        }
        Admission::Quarantined { deaths, left } => (deaths, left),
    };
    // The traffic comes before the report.
    let action = reconcile_quarantined(context, rollout, local, left).await;
    let times = if deaths == 1 { "time" } else { "times" };
    let problem = format!(
        "the controller process died {deaths} {times} while it reconciled this generation for the \
         first time, perhaps because of another Rollout; it is retried after a delay that grows \
         each time, or when the spec changes; {MEANWHILE}"
    );
    if !report(context, rollout, &problem, local).await {
        return Err(Action::Requeue(REPORT_AGAIN));
    }
    tracing::warn!(deaths, retry_in = ?left, "rollout quarantined: the process died during its first attempt");
    local.quarantine_after_death(rollout.generation(), deaths, left);
    Err(action)
}

/// Quarantines a Rollout whose reconcile panicked or would have broken a safety rule, and reports
/// it there.
pub(super) async fn begin(
    context: &Context,
    cached: &Arc<RolloutObject>,
    local: &mut LocalState,
    text: String,
) -> Action {
    local.quarantine(cached.generation(), jitter());
    let wait = local
        .quarantined_for(cached.generation())
        .unwrap_or(AFTER_CONFLICT);
    tracing::error!(cause = %text, retry_in = ?wait, "internal error; rollout quarantined");
    let action = reconcile_quarantined(context, cached, local, wait).await;
    let problem = format!("internal error: {text}; it is retried with a delay; {MEANWHILE}");
    report(context, cached, &problem, local).await;
    action
}

/// Reports the quarantine in the status. Returns whether it is reported.
async fn report(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    problem: &str,
    local: &mut LocalState,
) -> bool {
    let newest = local.newest(Arc::clone(rollout));
    let reported = degraded::report_quarantine(context, &newest, problem, local).await;
    if let Err(error) = &reported {
        tracing::warn!(%error, "failed to report the quarantine in the status");
    }
    reported.is_ok()
}

/// Carries out the abort of a quarantined Rollout, and otherwise waits for `left`, the remaining
/// time of the quarantine.
///
/// An abort that ends the process is delayed by the journal, and one that panics by a backoff.
pub(super) async fn reconcile_quarantined(
    context: &Context,
    cached: &Arc<RolloutObject>,
    local: &mut LocalState,
    left: Duration,
) -> Action {
    let rollout = local.newest(Arc::clone(cached));
    if !degraded::is_aborting(context, &rollout) {
        return Action::Requeue(left);
    }
    if let Some(wait) = local.abort_delayed_for() {
        return Action::Requeue(wait.min(left));
    }
    let journal = &context.safeguards.journal;
    let attempt = match journal.begin_abort(&subject(&rollout), context.clock.now()) {
        Admission::Start(attempt) => attempt,
        Admission::Wait => return Action::Requeue(AFTER_OTHERS.min(left)),
        Admission::Quarantined { left: wait, .. } => return Action::Requeue(wait.min(left)),
    };
    let began = Instant::now();
    let run = Box::pin(pipeline::run_quarantined(context, rollout, local));
    let outcome = AssertUnwindSafe(run).catch_unwind().await;
    drop(attempt);
    let (result, action) = match outcome {
        Ok(Ok(action)) => {
            local.failures = 0;
            local.abort_backoff = None;
            (ReconcileResult::Done, action)
        }
        Ok(Err(ReconcileError::InvariantViolation(violation))) => (
            ReconcileResult::Failed,
            delay_abort(local, &violation.to_string()),
        ),
        Ok(Err(error)) => handle_error(&error, local),
        Err(panic) => {
            let text = panic_message(panic.as_ref());
            drop(panic);
            (ReconcileResult::Panicked, delay_abort(local, &text))
        }
    };
    context.metrics.record_reconcile(result, began.elapsed());
    match action {
        Action::Requeue(after) | Action::Retry(after) => Action::Requeue(after.min(left)),
        Action::AwaitChange => Action::Requeue(left),
    }
}

fn delay_abort(local: &mut LocalState, text: &str) -> Action {
    let wait = local.delay_abort(jitter());
    tracing::error!(cause = %text, retry_in = ?wait, "internal error while aborting a quarantined rollout");
    Action::Requeue(wait)
}
