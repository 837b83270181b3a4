//! One memory budget for the answers of all servers.
//!
//! An answer is charged for its body and for what decoding allocates, as it grows. Two pools keep
//! small answers possible at any time: every answer waits for a share of the first pool before its
//! body is read, and what exceeds this share comes from the second pool or fails. Nothing waits for
//! the second pool, so that two growing answers cannot wait for each other.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::QueryError;
use super::quota::RolloutQuota;

const KIB: usize = 1 << 10;

/// What every answer can take of the first pool, in KiB. Most answers need no more.
const BASE_KIB: usize = 320;
/// Steps in which an answer takes from the second pool, in KiB.
const STEP_KIB: usize = 64;
/// Share of the budget that is the first pool: one in this number.
const BASE_SHARE: usize = 4;

/// The memory budget. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct AnswerMemory {
    base: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl AnswerMemory {
    /// A budget of this size. At least one answer always fits into the first pool.
    pub(super) fn new(bytes: usize) -> Self {
        let base = (bytes / BASE_SHARE / KIB).max(BASE_KIB);
        let shared = (bytes / KIB).saturating_sub(base);
        let pool = |kib: usize| Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS)));
        Self {
            base: pool(base),
            shared: pool(shared),
        }
    }

    /// Waits for a share of the first pool.
    pub(super) async fn reserve(&self, quota: Option<Arc<RolloutQuota>>) -> Reservation {
        // The semaphore is never closed.
        let base = self.base.clone().acquire_many_owned(permits(BASE_KIB));
        Reservation {
            base: base.await.ok(),
            shared: None,
            of_rollout: None,
            pool: self.shared.clone(),
            quota,
        }
    }

    /// What is reserved at the moment, in bytes.
    #[cfg(test)]
    pub(super) fn reserved_bytes(&self, total: usize) -> usize {
        total - (self.base.available_permits() + self.shared.available_permits()) * KIB
    }
}

/// Memory that is reserved for one answer, until it is dropped.
pub struct Reservation {
    base: Option<OwnedSemaphorePermit>,
    shared: Option<OwnedSemaphorePermit>,
    of_rollout: Option<OwnedSemaphorePermit>,
    pool: Arc<Semaphore>,
    quota: Option<Arc<RolloutQuota>>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |permit: &Option<OwnedSemaphorePermit>| {
            permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
        };
        f.debug_struct("Reservation")
            .field("kib", &(kib(&self.base) + kib(&self.shared)))
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// A reservation without a budget, for bodies that are already in memory.
    pub(super) fn unlimited() -> Self {
        Self {
            base: None,
            shared: None,
            of_rollout: None,
            pool: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            quota: None,
        }
    }

    /// Records bytes that were received for the answer, against the rate of the Rollout.
    pub(super) fn record_received(&self, bytes: usize) {
        if let Some(quota) = &self.quota {
            quota.record_bytes(bytes);
        }
    }

    /// Reserves at least this number of bytes in total.
    ///
    /// # Errors
    /// [`QueryError::TooLarge`] if the budget of the Rollout or of the process does not suffice.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), QueryError> {
        let held = self
            .shared
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = bytes.div_ceil(KIB).saturating_sub(BASE_KIB);
        if needed <= held {
            return Ok(());
        }
        let more = permits((needed - held).next_multiple_of(STEP_KIB));
        if let Some(quota) = &self.quota {
            let permit = quota.memory.clone().try_acquire_many_owned(more);
            merge(
                &mut self.of_rollout,
                permit.map_err(|_| exhausted("of this Rollout"))?,
            );
        }
        let permit = self.pool.clone().try_acquire_many_owned(more);
        merge(
            &mut self.shared,
            permit.map_err(|_| exhausted("of all Rollouts"))?,
        );
        Ok(())
    }

    /// Releases what exceeds this number of bytes.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(KIB);
        release(&mut self.base, needed);
        release(&mut self.shared, needed.saturating_sub(BASE_KIB));
        release(&mut self.of_rollout, needed.saturating_sub(BASE_KIB));
    }
}

fn permits(kib: usize) -> u32 {
    u32::try_from(kib).unwrap_or(u32::MAX)
}

fn exhausted(whose: &str) -> QueryError {
    QueryError::TooLarge(format!(
        "the answers {whose} that are being processed leave no room for it"
    ))
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

fn release(held: &mut Option<OwnedSemaphorePermit>, needed: usize) {
    if let Some(permit) = held {
        let surplus = permit.num_permits().saturating_sub(needed);
        drop(permit.split(surplus));
    }
}
