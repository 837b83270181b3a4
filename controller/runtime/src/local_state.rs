//! Process-local state of each Rollout between reconciles. It is lost on a restart, and nothing
//! depends on its survival.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serin_core::backoff::retry_after;
use serin_crds::RolloutStatus;
use tokio::time::Instant;

use crate::cluster_cache::RolloutObject;
use crate::effects::Corrections;
use crate::events;
use crate::foreign_workload::ForeignWorkloadReader;
use crate::gate::GateReader;
use crate::guardrails::GuardrailReader;
use crate::mount_failures::MountFailures;
use crate::observe::ObservationTimes;
use crate::planner::PlanCache;
use crate::reconcile::PolicyResolver;
use crate::revision;
use crate::token_bucket::TokenBucket;
use crate::unbound_services::UnboundServices;
use crate::workload::WorkloadReader;

/// Number of consecutive failures after which an effect is reported in `.status`.
const REPORT_AFTER: u32 = 2;
/// Interval of status writes that change no position, once the burst is used up.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Number of the shortest delays of the backoff that a panic skips.
const SKIPPED_DELAYS: u32 = 4;

/// The process-local state of one Rollout.
#[derive(Debug, Default)]
pub struct LocalState {
    /// When this process first observed the current traffic and Service state.
    pub observation_times: ObservationTimes,
    /// Known revisions of templates.
    pub revisions: revision::RevisionCache,
    /// Recently published Events.
    pub event_dedup: events::EventDedup,
    /// Volumes of its pods that cannot be mounted.
    pub mount_failures: MountFailures,
    /// What was read of the Services of its plan that it has not bound.
    pub unbound_services: UnboundServices,
    /// Its effective spec.
    pub policy: PolicyResolver,
    /// What was read for its guardrails.
    pub guardrails: GuardrailReader,
    /// What was read for the gate of its current step.
    pub gate: GateReader,
    /// What was read of the Deployment that it takes over.
    pub workload: WorkloadReader,
    /// What was read of the pods that it observes.
    pub foreign_workload: ForeignWorkloadReader,
    /// How often its objects were put back lately.
    pub corrections: Corrections,
    /// How often a policy has refused to restore an object of the deleted Rollout.
    pub restore_refusals: u32,
    /// Number of consecutive failed reconciles.
    pub failures: u32,
    /// Whether its metrics are being analyzed.
    pub analyzing: bool,
    /// Set if the Rollout is quarantined.
    pub quarantine: Option<Quarantine>,
    /// Set if the abort of the quarantined Rollout panicked: the number of consecutive failures,
    /// and when it is tried again.
    pub abort_backoff: Option<(u32, Instant)>,
    /// The plan of the latest generation.
    pub plans: PlanCache,
    /// The generation that was reconciled completely at least once.
    pub tried_generation: Option<i64>,
    /// Whether this process has written the whole status, so that it contains no fields of another
    /// version.
    pub is_status_known: bool,
    status_writes: TokenBucket,
    written: Option<Arc<RolloutObject>>,
    written_at: Option<Instant>,
    /// A status that is written once it is stable, and since when it is. It is large and rare.
    pending_status: Option<Box<(RolloutStatus, Instant)>>,
    effect_failures: BTreeMap<String, (u32, String)>,
}

/// A Rollout that is not reconciled because its reconcile panicked or ended the process.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
    /// The generation that failed. A changed spec ends the quarantine.
    pub generation: i64,
    /// Number of consecutive failures.
    pub failures: u32,
    /// When it is reconciled again.
    pub until: Instant,
}

impl LocalState {
    /// The newest known object: the result of our last write until the watch has delivered it.
    pub fn newest(&mut self, cached: Arc<RolloutObject>) -> Arc<RolloutObject> {
        match &self.written {
            Some(written) if written.is_newer_than(&cached) => Arc::clone(written),
            _ => {
                self.written = None;
                cached
            }
        }
    }

    /// Records the response of the API server to a write.
    pub fn record_written(&mut self, rollout: RolloutObject) -> Arc<RolloutObject> {
        let rollout = Arc::new(rollout);
        self.written = Some(Arc::clone(&rollout));
        rollout
    }

    /// Records that the status was written.
    pub fn record_status_written(&mut self) {
        self.written_at = Some(Instant::now());
        self.pending_status = None;
    }

    /// Remaining time for which this status (without volatile fields) must be unchanged before it
    /// is written.
    pub fn stable_status_due_in(
        &mut self,
        stable_status: RolloutStatus,
        stable_for: Duration,
    ) -> Duration {
        let pending = self.pending_status.take();
        let pending = pending
            .filter(|pending| pending.0 == stable_status)
            .unwrap_or_else(|| Box::new((stable_status, Instant::now())));
        let since = pending.1;
        self.pending_status = Some(pending);
        stable_for.saturating_sub(since.elapsed())
    }

    /// Remaining time until a status that changes no position may be written. Zero means that this
    /// write is counted.
    pub fn status_write_due_in(&mut self) -> Duration {
        let taken = self.status_writes.take(STATUS_INTERVAL);
        taken.err().unwrap_or(Duration::ZERO)
    }

    /// Remaining time until the status may be written only because the evidence has changed.
    pub fn evidence_due_in(&mut self, every: Duration) -> Duration {
        every.saturating_sub(self.written_at.get_or_insert_with(Instant::now).elapsed())
    }

    /// Records which effects of a reconcile failed, by name, with the error.
    pub fn record_effect_failures(&mut self, failed: BTreeMap<String, String>) {
        let before = std::mem::take(&mut self.effect_failures);
        let count = |name: &String| {
            before
                .get(name)
                .map_or(0, |(count, _)| *count)
                .saturating_add(1)
        };
        self.effect_failures = failed
            .into_iter()
            .map(|(name, why)| (name.clone(), (count(&name), why)))
            .collect();
    }

    /// A message about the effects that fail repeatedly. `None` if there are none.
    pub fn effect_failure_message(&self) -> Option<String> {
        let repeated = self
            .effect_failures
            .iter()
            .filter(|(_, (count, _))| *count >= REPORT_AFTER);
        let messages: Vec<String> = repeated
            .map(|(name, (_, why))| format!("{name}: {why}"))
            .collect();
        (!messages.is_empty()).then(|| messages.join("; "))
    }

    /// The largest number of consecutive failures of one effect.
    pub fn consecutive_effect_failures(&self) -> u32 {
        self.effect_failures
            .values()
            .map(|(count, _)| *count)
            .max()
            .unwrap_or(0)
    }

    /// Quarantines the Rollout. The quarantine grows with the number of consecutive panics.
    pub fn quarantine(&mut self, generation: i64, jitter: f64) {
        let failures = self
            .quarantine
            .map_or(0, |before| before.failures)
            .saturating_add(1);
        *self = Self {
            analyzing: self.analyzing,
            abort_backoff: self.abort_backoff,
            ..Self::default()
        };
        let wait = retry_after(failures.saturating_add(SKIPPED_DELAYS), jitter);
        self.quarantine = Some(Quarantine {
            generation,
            failures,
            until: Instant::now() + wait,
        });
    }

    /// Quarantines the Rollout for `wait` because the process died while it was reconciled.
    pub fn quarantine_after_death(&mut self, generation: i64, deaths: u32, wait: Duration) {
        self.quarantine = Some(Quarantine {
            generation,
            failures: deaths,
            until: Instant::now() + wait,
        });
    }

    /// Delays the abort of a quarantined Rollout because it panicked. Returns the delay, which grows
    /// with the number of consecutive panics.
    pub fn delay_abort(&mut self, jitter: f64) -> Duration {
        let before = self.abort_backoff.map_or(0, |(failures, _)| failures);
        let failures = before.saturating_add(1);
        *self = Self {
            analyzing: self.analyzing,
            quarantine: self.quarantine,
            ..Self::default()
        };
        let wait = retry_after(failures.saturating_add(SKIPPED_DELAYS), jitter);
        self.abort_backoff = Some((failures, Instant::now() + wait));
        wait
    }

    /// Remaining time until the abort of a quarantined Rollout is tried again. `None` if it may be
    /// tried now.
    pub fn abort_delayed_for(&self) -> Option<Duration> {
        let (_, until) = self.abort_backoff?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Remaining time of the quarantine. `None` if the Rollout is not quarantined.
    pub fn quarantined_for(&self, generation: i64) -> Option<Duration> {
        let quarantine = self
            .quarantine
            .filter(|quarantine| quarantine.generation == generation)?;
        let left = quarantine.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// The process-local state of all Rollouts, by UID.
#[derive(Debug, Default)]
pub struct LocalStates(Mutex<HashMap<String, Arc<tokio::sync::Mutex<LocalState>>>>);

impl LocalStates {
    /// The state of one Rollout, which is created if it does not exist.
    pub fn get_or_create(&self, uid: &str) -> Arc<tokio::sync::Mutex<LocalState>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(uid.to_owned()).or_default())
    }

    /// Drops the state of one Rollout.
    pub fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }

    /// Number of Rollouts with a state.
    pub fn entry_count(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.len()
    }

    /// Number of quarantined Rollouts.
    pub fn quarantined_count(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A Rollout that is currently reconciled (locked) does not count.
        all.values()
            .filter(|local| {
                local
                    .try_lock()
                    .is_ok_and(|local| local.quarantine.is_some())
            })
            .count()
    }

    /// Drops all states and returns the UIDs.
    pub fn forget_all(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_abort_that_panics_is_delayed_for_longer_each_time_and_stays_quarantined() {
        let mut local = LocalState::default();
        local.quarantine_after_death(7, 3, Duration::from_secs(300));
        assert_eq!(local.abort_delayed_for(), None);
        let mut last = Duration::ZERO;
        for _ in 0..3 {
            let wait = local.delay_abort(1.0);
            assert!(wait > last, "{wait:?} after {last:?}");
            assert_eq!(local.abort_delayed_for(), Some(wait));
            tokio::time::advance(wait).await;
            assert_eq!(local.abort_delayed_for(), None);
            last = wait;
        }
        assert!(local.quarantined_for(7).is_some());
    }
}
