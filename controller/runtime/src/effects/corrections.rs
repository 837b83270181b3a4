//! Limits how often one object is put back to the same state while somebody else keeps changing it.
//!
//! A new desired state is always written at once, and so are the first corrections. Then the delay
//! doubles with each correction, up to a minute. A correction that takes traffic away from a canary
//! waits a second at most.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serin_core::hold::{Hold, HoldCode};
use tokio::time::Instant;

/// Writes of one desired state without a delay: the first one, the first correction, and one more
/// because another client may write at the same time.
const FREE_WRITES: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Maximum delay of a write that takes traffic away from a canary.
const LONGEST_DELAY_TO_LOWER: Duration = Duration::from_secs(1);
/// An object that was not corrected for this time, and for twice its delay, is left alone again.
const QUIET: Duration = Duration::from_secs(10);

/// The recent writes of one Rollout, by object.
#[derive(Debug, Default)]
pub struct Corrections(Mutex<HashMap<String, Writes>>);

/// The recent writes of one desired state to an object.
#[derive(Debug)]
struct Writes {
    desired: String,
    count: u32,
    last_at: Instant,
    /// Whether a write was delayed.
    delayed: bool,
}

impl Writes {
    /// Minimum time between the last write and the next one.
    fn delay(&self) -> Duration {
        match self.count.checked_sub(FREE_WRITES) {
            None => Duration::ZERO,
            Some(extra) => FIRST_DELAY
                .saturating_mul(2_u32.saturating_pow(extra.min(16)))
                .min(LONGEST_DELAY),
        }
    }

    fn is_over(&self) -> bool {
        self.last_at.elapsed() >= QUIET.max(2 * self.delay())
    }
}

impl Corrections {
    /// Counts a write of `desired` to an object, for example `Service shop`. `lowers`: the write takes
    /// traffic away from a canary.
    ///
    /// # Errors
    /// How long to wait, because the same state was written too often lately.
    pub(super) fn count_write(
        &self,
        object: &str,
        desired: &str,
        lowers: bool,
    ) -> Result<(), Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, writes| !writes.is_over());
        let now = Instant::now();
        let Some(writes) = all
            .get_mut(object)
            .filter(|writes| writes.desired == desired)
        else {
            let first = Writes {
                desired: desired.to_owned(),
                count: 1,
                last_at: now,
                delayed: false,
            };
            all.insert(object.to_owned(), first);
            return Ok(());
        };
        let delay = if lowers {
            writes.delay().min(LONGEST_DELAY_TO_LOWER)
        } else {
            writes.delay()
        };
        let left = delay.saturating_sub(writes.last_at.elapsed());
        if !left.is_zero() {
            writes.delayed = true;
            return Err(left);
        }
        writes.count = writes.count.saturating_add(1);
        writes.last_at = now;
        Ok(())
    }

    /// The hold of an object that somebody else keeps changing. `None` if nobody does. `writer` is the
    /// other client that last wrote it, if known.
    pub fn hold(&self, object: &str, writer: Option<&str>) -> Option<Hold> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(object)
            .filter(|writes| writes.delayed && !writes.is_over())?;
        let writer = writer.unwrap_or("another client");
        let message = format!(
            "{object} is changed again and again by {writer}; Serin puts it back less often"
        );
        Some(Hold::new(HoldCode::Contested, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes as often as permitted for a time. Returns the seconds at which it wrote.
    async fn fight(corrections: &Corrections, lowers: bool, time: Duration) -> Vec<u64> {
        let (began, mut at) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            match corrections.count_write("Service shop", "v1", lowers) {
                Ok(()) => at.push(began.elapsed().as_secs()),
                Err(wait) => tokio::time::advance(wait).await,
            }
        }
        at
    }

    #[tokio::test(start_paused = true)]
    async fn corrections_become_rare_and_are_at_once_again_after_a_quiet_time() {
        let corrections = Corrections::default();
        let writes = fight(&corrections, false, Duration::from_secs(200)).await;
        assert_eq!(writes, [0, 0, 0, 1, 3, 7, 15, 31, 63, 123, 183]);
        let hold = corrections.hold("Service shop", Some("argocd")).unwrap();
        assert!(hold.message.contains("argocd"), "{}", hold.message);
        tokio::time::advance(2 * LONGEST_DELAY).await;
        assert!(corrections.hold("Service shop", None).is_none());
        assert_eq!(corrections.count_write("Service shop", "v1", false), Ok(()));
        assert_eq!(corrections.0.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_desired_state_is_written_at_once() {
        let corrections = Corrections::default();
        fight(&corrections, false, Duration::from_secs(60)).await;
        assert_eq!(corrections.count_write("Service shop", "v1", false), Ok(()));
        assert!(
            corrections
                .count_write("Service shop", "v1", false)
                .is_err()
        );
        assert_eq!(corrections.count_write("Service shop", "v2", false), Ok(()));
        assert_eq!(
            corrections.count_write("Service other", "v1", false),
            Ok(())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_is_lowered_at_least_every_second_and_at_most_so_often() {
        let corrections = Corrections::default();
        let writes = fight(&corrections, true, Duration::from_secs(20)).await;
        assert_eq!(writes.len(), 2 + 20, "{writes:?}");
        assert!(writes.windows(2).all(|pair| pair[1] - pair[0] <= 1));
    }
}
