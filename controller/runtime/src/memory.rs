//! What this process remembers of each Rollout between reconciles: nothing that a restarted one
//! would miss.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serin_core::backoff::retry_after;
use serin_crds::RolloutStatus;
use tokio::time::Instant;

use crate::events;
use crate::observe::Sightings;
use crate::revision;
use crate::world::RolloutObject;

/// A failure that happens so often in a row is told in the status: a single one heals by itself.
const TROUBLE_AFTER: u32 = 2;
/// A Service that was not there is looked for again after so long.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// What is remembered of one Rollout.
#[derive(Debug, Default)]
pub struct Memory {
    /// Since when things have been seen as they are.
    pub sightings: Sightings,
    /// Which revisions templates stand for.
    pub revisions: revision::Memory,
    /// What was told lately.
    pub told: events::Told,
    /// Failed reconciles in a row.
    pub failures: u32,
    /// Whether its releases are being judged.
    pub judging: bool,
    /// Why it is set aside.
    pub quarantine: Option<Quarantine>,
    written: Option<Arc<RolloutObject>>,
    written_at: Option<Instant>,
    seen: Option<(RolloutStatus, Instant)>,
    troubles: BTreeMap<String, (u32, String)>,
    absent_services: HashMap<String, Instant>,
}

/// A Rollout that is set aside.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
    /// The generation that it failed at: an edited spec is tried at once.
    pub generation: i64,
    /// How often it failed in a row.
    pub failures: u32,
    /// When it is tried again.
    pub until: Instant,
}

impl Memory {
    /// The newest known state: what was written last, until the watch has caught up with it.
    pub fn newest(&mut self, seen: Arc<RolloutObject>) -> Arc<RolloutObject> {
        match &self.written {
            Some(written) if written.is_newer_than(&seen) => Arc::clone(written),
            _ => {
                self.written = None;
                seen
            }
        }
    }

    /// Remembers what the API server answered to a write.
    pub fn wrote(&mut self, rollout: RolloutObject) -> Arc<RolloutObject> {
        let rollout = Arc::new(rollout);
        self.written = Some(Arc::clone(&rollout));
        rollout
    }

    /// Remembers that the status stands as told.
    pub fn wrote_status(&mut self) {
        self.written_at = Some(Instant::now());
        self.seen = None;
    }

    /// How long this (a lasting status) must still stay the same before it is worth a write.
    pub fn seen_due_in(&mut self, lasting: RolloutStatus, stable_for: Duration) -> Duration {
        let since = match &self.seen {
            Some((same, since)) if *same == lasting => *since,
            _ => self.seen.insert((lasting, Instant::now())).1,
        };
        stable_for.saturating_sub(since.elapsed())
    }

    /// How long it is until the status may be written again for no other reason than fresh
    /// evidence.
    pub fn evidence_due_in(&mut self, every: Duration) -> Duration {
        every.saturating_sub(self.written_at.get_or_insert_with(Instant::now).elapsed())
    }

    /// Remembers how the effects of one reconcile went: those that failed, by name, and why.
    pub fn note_troubles(&mut self, failed: BTreeMap<String, String>) {
        let before = std::mem::take(&mut self.troubles);
        let count = |name: &String| {
            before
                .get(name)
                .map_or(0, |(count, _)| *count)
                .saturating_add(1)
        };
        self.troubles = failed
            .into_iter()
            .map(|(name, why)| (name.clone(), (count(&name), why)))
            .collect();
    }

    /// What keeps failing, in a sentence.
    pub fn trouble(&self) -> Option<String> {
        let lasting = self
            .troubles
            .iter()
            .filter(|(_, (count, _))| *count >= TROUBLE_AFTER);
        let told: Vec<String> = lasting
            .map(|(name, (_, why))| format!("{name}: {why}"))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// How often in a row something has failed.
    pub fn troubled_for(&self) -> u32 {
        self.troubles
            .values()
            .map(|(count, _)| *count)
            .max()
            .unwrap_or(0)
    }

    /// Whether a Service of this name was looked for in vain a moment ago.
    pub fn is_absent(&self, service: &str) -> bool {
        self.absent_services
            .get(service)
            .is_some_and(|since| since.elapsed() < ABSENT_FOR)
    }

    /// Remembers that there is no Service of this name.
    pub fn note_absent(&mut self, service: &str) {
        self.absent_services
            .insert(service.to_owned(), Instant::now());
    }

    /// Sets the Rollout aside, longer with every failure in a row.
    pub fn set_aside(&mut self, generation: i64, jitter: f64) {
        let failures = self
            .quarantine
            .map_or(0, |before| before.failures)
            .saturating_add(1);
        *self = Self {
            judging: self.judging,
            ..Self::default()
        };
        // Starts where the ordinary backoff is already slow.
        let wait = retry_after(failures.saturating_add(4), jitter);
        self.quarantine = Some(Quarantine {
            generation,
            failures,
            until: Instant::now() + wait,
        });
    }

    /// How long the Rollout stays set aside; none: it is not.
    pub fn set_aside_for(&self, generation: i64) -> Option<Duration> {
        let quarantine = self
            .quarantine
            .filter(|quarantine| quarantine.generation == generation)?;
        let left = quarantine.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// What is remembered of all Rollouts, by UID.
#[derive(Debug, Default)]
pub struct Memories(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>>);

impl Memories {
    /// What is remembered of one Rollout.
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(uid.to_owned()).or_default())
    }

    /// Forgets one Rollout.
    pub fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }

    /// How many Rollouts are set aside.
    pub fn set_aside(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being reconciled right now is not.
        all.values()
            .filter(|memory| {
                memory
                    .try_lock()
                    .is_ok_and(|memory| memory.quarantine.is_some())
            })
            .count()
    }

    /// Forgets all of them, and answers which they were.
    pub fn forget_all(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_keys().collect()
    }
}
