//! The delays before a failed watch is restarted.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use rand::Rng;
use serin_core::backoff::retry_after;
use tokio::time::Instant;

/// Maximum delay before a failed watch is restarted.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// The backoff is reset if a watch has run without failures for this time.
pub(super) const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(30);

/// A backoff that grows with every failure until the watch was healthy for a while. kube-runtime
/// resets a backoff at every restart of a watch, so this one ignores `reset`.
#[derive(Debug, Default)]
pub struct WatchBackoff {
    failures: u32,
    failed_at: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let was_healthy = self
            .failed_at
            .is_some_and(|at| at.elapsed() >= BACKOFF_RESET_AFTER);
        self.failures = if was_healthy {
            1
        } else {
            self.failures.saturating_add(1)
        };
        self.failed_at = Some(Instant::now());
        Some(retry_after(self.failures, rand::rng().random()).min(MAX_BACKOFF))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_backoff_grows_although_each_restart_resets_it() {
        let mut backoff = WatchBackoff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            // kube-runtime resets the backoff whenever the watch restarts.
            backoff.reset();
            waits.extend(backoff.next());
        }
        assert!(waits[0] <= Duration::from_millis(200), "{waits:?}");
        assert!(
            waits[7] >= MAX_BACKOFF / 2 && waits[7] <= MAX_BACKOFF,
            "{waits:?}"
        );
        tokio::time::advance(BACKOFF_RESET_AFTER).await;
        assert!(
            backoff.next().unwrap() <= Duration::from_millis(200),
            "it was healthy for a while"
        );
    }
}
