//! Limits the writes for one Rollout, so that answers that change all the time do not become an
//! endless stream of writes.

use std::time::Duration;

use tokio::time::Instant;

/// Number of writes that are possible without a wait.
const BURST: u32 = 10;

/// A token bucket. It starts full.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: u32,
    /// When the last token was added. `None` while the bucket is full.
    refilled_at: Option<Instant>,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self {
            tokens: BURST,
            refilled_at: None,
        }
    }
}

impl TokenBucket {
    /// Takes a token. One token is added per `every`.
    ///
    /// # Errors
    /// The time until there is a token.
    pub fn take(&mut self, every: Duration) -> Result<(), Duration> {
        let now = Instant::now();
        self.refill(every, now);
        if self.tokens == 0 {
            let since = self.refilled_at.unwrap_or(now);
            return Err((since + every).saturating_duration_since(now));
        }
        self.tokens -= 1;
        self.refilled_at.get_or_insert(now);
        Ok(())
    }

    fn refill(&mut self, every: Duration, now: Instant) {
        while let Some(next) = self.refilled_at.map(|at| at + every)
            && next <= now
        {
            self.tokens += 1;
            self.refilled_at = (self.tokens < BURST).then_some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_followed_by_a_steady_rate() {
        let mut bucket = TokenBucket::default();
        for _ in 0..BURST {
            assert_eq!(bucket.take(EVERY), Ok(()));
        }
        assert_eq!(bucket.take(EVERY), Err(EVERY));
        tokio::time::advance(2 * EVERY).await;
        assert_eq!(bucket.take(EVERY), Ok(()));
        assert_eq!(bucket.take(EVERY), Ok(()));
        assert_eq!(bucket.take(EVERY), Err(EVERY));
        tokio::time::advance(1_000 * EVERY).await;
        for _ in 0..BURST {
            assert_eq!(bucket.take(EVERY), Ok(()));
        }
        assert_eq!(bucket.take(EVERY), Err(EVERY));
    }
}
