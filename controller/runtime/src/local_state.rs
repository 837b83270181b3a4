//! Process-local state of each Rollout between reconciles. It is lost on a restart, and nothing
//! depends on its survival.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serin_core::backoff::retry_after;
use serin_crds::RolloutStatus;
use tokio::time::Instant;

use crate::cluster_cache::RolloutObject;
use crate::events;
use crate::observe::ObservationTimes;
use crate::revision;

/// Number of consecutive failures after which an effect is reported in `.status`.
const REPORT_AFTER: u32 = 2;
/// Time until a missing Service is read again.
const ABSENT_SERVICE_TTL: Duration = Duration::from_secs(5);

/// The process-local state of one Rollout.
#[derive(Debug, Default)]
pub struct LocalState {
    /// When this process first observed the current traffic and Service state.
    pub observation_times: ObservationTimes,
    /// Known revisions of templates.
    pub revisions: revision::RevisionCache,
    /// Recently published Events.
    pub event_dedup: events::EventDedup,
    /// Number of consecutive failed reconciles.
    pub failures: u32,
    /// Whether its metrics are being analyzed.
    pub analyzing: bool,
    /// Set if the Rollout is quarantined.
    pub quarantine: Option<Quarantine>,
    written: Option<Arc<RolloutObject>>,
    written_at: Option<Instant>,
    pending_status: Option<(RolloutStatus, Instant)>,
    effect_failures: BTreeMap<String, (u32, String)>,
    absent_services: HashMap<String, Instant>,
}

/// A Rollout that is not reconciled because its reconcile panicked.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
    /// The generation at which it panicked. A changed spec ends the quarantine.
    pub generation: i64,
    /// Number of consecutive panics.
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
        let since = match &self.pending_status {
            Some((same, since)) if *same == stable_status => *since,
            _ => {
                self.pending_status
                    .insert((stable_status, Instant::now()))
                    .1
            }
        };
        stable_for.saturating_sub(since.elapsed())
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

    /// Whether a read has recently shown that this Service does not exist.
    pub fn is_service_absent(&self, service: &str) -> bool {
        self.absent_services
            .get(service)
            .is_some_and(|since| since.elapsed() < ABSENT_SERVICE_TTL)
    }

    /// Records that no Service with this name exists.
    pub fn record_service_absent(&mut self, service: &str) {
        self.absent_services
            .insert(service.to_owned(), Instant::now());
    }

    /// Quarantines the Rollout. The quarantine grows with the number of consecutive panics.
    pub fn quarantine(&mut self, generation: i64, jitter: f64) {
        let failures = self
            .quarantine
            .map_or(0, |before| before.failures)
            .saturating_add(1);
        *self = Self {
            analyzing: self.analyzing,
            ..Self::default()
        };
        // Skips the short delays of the backoff.
        let wait = retry_after(failures.saturating_add(4), jitter);
        self.quarantine = Some(Quarantine {
            generation,
            failures,
            until: Instant::now() + wait,
        });
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
