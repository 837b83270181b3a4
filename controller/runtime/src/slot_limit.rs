//! How many Rollouts may be reconciled at the same time, by the latency of the API server.
//!
//! Requests that the API server cannot serve yet wait there instead of here, and everybody else
//! waits behind them. The limit follows the rule of TCP: it grows by one while the writes are
//! fast, and shrinks by a quarter when they are slow. Urgent reconciles do not count against it.
//!
//! An admission webhook can make the writes of one namespace slow. The latency is therefore that of
//! the namespace whose writes are the fastest: an API server that is overloaded is slow for all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Writes after which the limit is changed, at the earliest.
const WINDOW_WRITES: usize = 32;
/// Time after which the limit is changed, at the earliest. It is longer than a fast write.
const WINDOW: Duration = Duration::from_millis(100);
/// Minimum number of writes in a namespace whose latency counts.
const MIN_WRITES: usize = 3;
/// Writes are slow if they take longer than this multiple of those of an idle API server.
const TOLERATED_FACTOR: u32 = 3;
/// Writes that are faster are never slow: shorter waits are noise.
const NEVER_SLOW: Duration = Duration::from_millis(25);
/// Writes that take longer are always slow, so that a controller that starts while the API server
/// is overloaded does not take that for the usual latency. A quarter of the default of 32 slots
/// still permits 160 writes per second at this latency.
const ALWAYS_SLOW: Duration = Duration::from_millis(50);
/// By this part, the latency of an idle API server is forgotten in each window: it may have become
/// slower for good.
const FORGOTTEN_PART: u32 = 1_024;

/// The limit, and the latencies that it follows. Times are passed in.
#[derive(Debug)]
pub struct SlotLimit {
    max: usize,
    floor: usize,
    current: usize,
    /// The latency of an API server that is not busy. `None` before the first window.
    idle_latency: Option<Duration>,
    latencies: BTreeMap<String, Vec<Duration>>,
    window_began: Option<Instant>,
}

impl SlotLimit {
    /// A limit of at most `max`, and at least a quarter of it.
    pub fn new(max: usize) -> Self {
        let floor = (max / 4).max(1);
        Self {
            max,
            floor,
            current: max.max(floor),
            idle_latency: None,
            latencies: BTreeMap::new(),
            window_began: None,
        }
    }

    /// The number of Rollouts that may be reconciled at the same time.
    pub const fn current(&self) -> usize {
        self.current
    }

    /// Records the latency of a write in a namespace.
    pub fn record(&mut self, namespace: &str, took: Duration, now: Instant) {
        let began = *self.window_began.get_or_insert(now);
        match self.latencies.get_mut(namespace) {
            Some(latencies) => latencies.push(took),
            None => drop(self.latencies.insert(namespace.to_owned(), vec![took])),
        }
        let writes: usize = self.latencies.values().map(Vec::len).sum();
        if writes >= WINDOW_WRITES && now.duration_since(began) >= WINDOW {
            self.window_began = None;
            let latencies = std::mem::take(&mut self.latencies);
            if let Some(latency) = fastest_median(latencies) {
                self.adapt(latency);
            }
        }
    }

    fn adapt(&mut self, latency: Duration) {
        let idle = self.idle_latency.map_or(latency, |idle| {
            latency.min(idle.saturating_add(idle / FORGOTTEN_PART))
        });
        self.idle_latency = Some(idle);
        let tolerated = idle.saturating_mul(TOLERATED_FACTOR);
        self.current = if latency > tolerated.clamp(NEVER_SLOW, ALWAYS_SLOW) {
            (self.current - self.current.div_ceil(4)).max(self.floor)
        } else {
            (self.current + 1).min(self.max)
        };
    }
}

/// The lowest median latency of a namespace. `None` if no namespace has enough writes.
fn fastest_median(latencies: BTreeMap<String, Vec<Duration>>) -> Option<Duration> {
    let enough = latencies
        .into_values()
        .filter(|latencies| latencies.len() >= MIN_WRITES);
    let medians = enough.filter_map(|mut latencies| {
        latencies.sort_unstable();
        latencies.get(latencies.len() / 2).copied()
    });
    medians.min()
}

/// A [`SlotLimit`] that the client writes and the queue reads.
#[derive(Debug)]
pub struct SharedSlotLimit {
    current: AtomicUsize,
    /// `None` if there is no limit.
    limit: Option<Mutex<SlotLimit>>,
}

impl Default for SharedSlotLimit {
    /// No limit.
    fn default() -> Self {
        Self {
            current: AtomicUsize::new(usize::MAX),
            limit: None,
        }
    }
}

impl SharedSlotLimit {
    /// A limit of at most `max`.
    pub fn new(max: usize) -> Self {
        let limit = SlotLimit::new(max);
        Self {
            current: AtomicUsize::new(limit.current()),
            limit: Some(Mutex::new(limit)),
        }
    }

    /// The number of Rollouts that may be reconciled at the same time.
    pub fn current(&self) -> usize {
        self.current.load(Relaxed)
    }

    /// Records the latency of a write in a namespace.
    pub fn record(&self, namespace: &str, took: Duration) {
        let Some(limit) = &self.limit else {
            return;
        };
        let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.record(namespace, took, Instant::now());
        self.current.store(limit.current(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An API server that serves one write each `cost`, one after the other: with `limit` writes
    /// under way, each waits for the others.
    fn saturate(limit: &mut SlotLimit, namespace: &str, cost: Duration, writes: u32) {
        let mut now = Instant::now();
        for _ in 0..writes {
            let under_way = u32::try_from(limit.current()).unwrap();
            now += cost;
            limit.record(namespace, cost * under_way, now);
        }
    }

    #[tokio::test]
    async fn a_saturated_api_server_gets_fewer_requests() {
        let mut limit = SlotLimit::new(32);
        assert_eq!(limit.current(), 32);
        // 4 ms of CPU each: 32 at once wait for 128 ms.
        saturate(&mut limit, "shop", 4 * MS, 2_000);
        assert!((8..=13).contains(&limit.current()), "{}", limit.current());
        // The latency of the idle API server is known.
        let mut limit = SlotLimit::new(32);
        let mut now = Instant::now();
        for _ in 0..64 {
            now += 50 * MS;
            limit.record("shop", 5 * MS, now);
        }
        saturate(&mut limit, "shop", 4 * MS, 2_000);
        assert!((8..=9).contains(&limit.current()), "{}", limit.current());
    }

    #[tokio::test]
    async fn a_fast_api_server_is_used_fully_also_after_a_slow_time() {
        let mut limit = SlotLimit::new(32);
        saturate(&mut limit, "shop", 10 * MS, 500);
        assert_eq!(limit.current(), 8, "never less than a quarter");
        let mut now = Instant::now();
        for _ in 0..5_000 {
            now += 4 * MS;
            limit.record("shop", 5 * MS, now);
        }
        assert_eq!(limit.current(), 32);
    }

    #[tokio::test]
    async fn one_namespace_with_a_slow_webhook_does_not_slow_the_others_down() {
        let mut limit = SlotLimit::new(32);
        let mut now = Instant::now();
        for write in 0..5_000 {
            now += 4 * MS;
            let (namespace, took) = match write % 5 {
                0 => ("fast", 6 * MS),
                _ => ("slow", 2_000 * MS),
            };
            limit.record(namespace, took, now);
        }
        assert_eq!(limit.current(), 32);
    }

    #[tokio::test]
    async fn a_slow_etcd_is_not_an_overload() {
        let mut limit = SlotLimit::new(32);
        let mut now = Instant::now();
        for _ in 0..5_000 {
            now += 4 * MS;
            limit.record("shop", 40 * MS, now);
        }
        assert_eq!(limit.current(), 32);
    }

    #[tokio::test]
    async fn few_writes_change_nothing() {
        let mut limit = SlotLimit::new(32);
        let now = Instant::now();
        for write in 0..31 {
            limit.record("shop", 5_000 * MS, now + write * 1_000 * MS);
        }
        assert_eq!(limit.current(), 32);
        assert_eq!(SlotLimit::new(1).current(), 1);
        assert_eq!(SharedSlotLimit::default().current(), usize::MAX);
    }
}
