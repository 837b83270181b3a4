//! Limits of one Rollout, so that no Rollout can use up the process or a shared server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::lock;

/// Bytes of answers that cost as much as one query. Decoding them takes about as long.
const BYTES_PER_QUERY: f64 = 65_536.0;

/// What one Rollout may use.
#[derive(Debug)]
pub(super) struct RolloutQuota {
    polls: Semaphore,
    single: Semaphore,
    /// Limits the memory of large answers, in KiB.
    pub memory: Arc<Semaphore>,
    rate: Mutex<TokenBucket>,
}

impl RolloutQuota {
    /// Creates a quota with this number of concurrent polls and single queries, this memory in
    /// bytes, and this number of queries per second.
    pub(super) fn new(polls: usize, single: usize, memory: usize, queries_per_second: f64) -> Self {
        Self {
            polls: Semaphore::new(polls),
            single: Semaphore::new(single),
            memory: Arc::new(Semaphore::new((memory >> 10).min(Semaphore::MAX_PERMITS))),
            rate: Mutex::new(TokenBucket::new(queries_per_second, Instant::now())),
        }
    }

    /// Waits until a poll with this number of queries is permitted. The permit ends the poll.
    pub(super) async fn poll_turn(&self, queries: usize) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let permit = self.polls.acquire().await.ok();
        self.wait_for_queries(queries).await;
        permit
    }

    /// Waits until a single query is permitted. The permit ends the query.
    pub(super) async fn single_turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let permit = self.single.acquire().await.ok();
        self.wait_for_queries(1).await;
        permit
    }

    /// Waits until the rate permits this number of queries.
    async fn wait_for_queries(&self, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few queries")]
        let cost = count as f64;
        loop {
            let ready_at = lock(&self.rate).take(cost, Instant::now());
            match ready_at {
                Some(ready_at) => sleep_until(ready_at).await,
                None => return,
            }
        }
    }

    /// Whether a new quota would permit as much.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && lock(&self.rate).is_full(Instant::now())
    }

    /// Records received bytes. They delay later queries.
    pub(super) fn record_bytes(&self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
        let cost = bytes as f64 / BYTES_PER_QUERY;
        lock(&self.rate).tokens -= cost;
    }
}

/// A token bucket that may go into debt: the cost of an answer is known only afterwards.
#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    tokens: f64,
    updated_at: Instant,
}

impl TokenBucket {
    /// A full bucket. It holds the tokens of two seconds.
    fn new(per_second: f64, now: Instant) -> Self {
        Self {
            per_second,
            tokens: 2.0 * per_second,
            updated_at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(2.0 * self.per_second);
        self.updated_at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= 2.0 * self.per_second
    }

    /// Takes tokens if the bucket has any. Otherwise returns the time to try again.
    fn take(&mut self, cost: f64, now: Instant) -> Option<Instant> {
        self.refill(now);
        if self.tokens > 0.0 {
            self.tokens -= cost;
            return None;
        }
        let seconds = (1.0 - self.tokens) / self.per_second;
        Some(now + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_limited_and_received_bytes_count() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(10.0, began);
        for _ in 0..20 {
            assert_eq!(bucket.take(1.0, began), None, "two seconds at once");
        }
        let ready_at = bucket.take(1.0, began).unwrap();
        assert_eq!(ready_at, began + Duration::from_millis(100));
        assert_eq!(bucket.take(1.0, ready_at), None);
        bucket.tokens -= 9.0;
        assert_eq!(
            bucket.take(1.0, ready_at),
            Some(ready_at + Duration::from_secs(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_unused_only_when_its_rate_has_recovered() {
        let quota = Arc::new(RolloutQuota::new(1, 1, 1 << 20, 10.0));
        assert!(quota.is_unused());
        drop(quota.single_turn().await);
        assert!(!quota.is_unused());
        tokio::time::advance(Duration::from_secs(1)).await;
        let user = quota.clone();
        assert!(!quota.is_unused());
        drop(user);
        assert!(quota.is_unused());
    }

    #[test]
    fn an_idle_bucket_is_never_more_than_full() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(10.0, began);
        let later = began + Duration::from_secs(3_600);
        let taken = (0..100).take_while(|_| bucket.take(1.0, later).is_none());
        assert_eq!(taken.count(), 20);
    }
}
