//! Places for requests: for the process, for each namespace and for each host, and a rate for each
//! host.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Limits on the requests of checks.
#[derive(Clone, Copy, Debug)]
pub struct ProbeLimits {
    /// Maximum number of concurrent requests of the process.
    pub concurrent_total: usize,
    /// Maximum number of concurrent requests of the Rollouts of one namespace.
    pub concurrent_per_namespace: usize,
    /// Maximum number of concurrent requests to one host and port.
    pub concurrent_per_host: usize,
    /// Minimum time between two requests to one host and port, after a burst.
    pub host_interval: Duration,
    /// Number of requests to one host and port that are possible at once.
    pub host_burst: u32,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self {
            concurrent_total: 64,
            concurrent_per_namespace: 6,
            concurrent_per_host: 4,
            host_interval: Duration::from_millis(50),
            host_burst: 20,
        }
    }
}

/// Host and port.
type Host = (String, u16);

/// The places of all requests.
pub(super) struct Slots {
    limits: ProbeLimits,
    total: Arc<Semaphore>,
    namespaces: Places<String>,
    hosts: Places<Host>,
    /// By host: when its next request is due, if all of its burst had been used.
    next: Mutex<HashMap<Host, Instant>>,
}

/// A place for one request.
#[derive(Debug)]
pub(super) struct Place {
    _permits: [Option<OwnedSemaphorePermit>; 3],
}

impl Slots {
    pub(super) fn new(limits: ProbeLimits) -> Self {
        Self {
            limits,
            total: Arc::new(Semaphore::new(limits.concurrent_total)),
            namespaces: Places::new(limits.concurrent_per_namespace),
            hosts: Places::new(limits.concurrent_per_host),
            next: Mutex::default(),
        }
    }

    /// Waits for a place. Whoever waits for a place of its namespace or its host holds none that
    /// others need.
    pub(super) async fn take(&self, namespace: &str, host: Host) -> Place {
        let of_namespace = acquire(self.namespaces.places_for(namespace.to_owned())).await;
        let of_host = acquire(self.hosts.places_for(host.clone())).await;
        sleep_until(self.reserve(host)).await;
        Place {
            _permits: [
                of_namespace,
                of_host,
                acquire(Arc::clone(&self.total)).await,
            ],
        }
    }

    /// Reserves the next time for a request to a host. Times within the burst lie in the past.
    fn reserve(&self, host: Host) -> Instant {
        let now = Instant::now();
        let burst = self.limits.host_interval * self.limits.host_burst;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // What is in the past limits nothing.
        next.retain(|_, at| *at > now);
        let at = next.entry(host).or_insert(now);
        let due = at.checked_sub(burst).unwrap_or(now);
        *at += self.limits.host_interval;
        due.max(now)
    }
}

async fn acquire(semaphore: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    semaphore.acquire_owned().await.ok()
}

/// Places by key. Keys without a request are forgotten.
struct Places<K> {
    places: usize,
    by_key: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Places<K> {
    fn new(places: usize) -> Self {
        Self {
            places,
            by_key: Mutex::default(),
        }
    }

    fn places_for(&self, key: K) -> Arc<Semaphore> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.retain(|_, places| Arc::strong_count(places) > 1);
        let places = by_key
            .entry(key)
            .or_insert_with(|| Arc::new(Semaphore::new(self.places)));
        Arc::clone(places)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    fn host(name: &str) -> Host {
        (name.to_owned(), 80)
    }

    #[tokio::test(start_paused = true)]
    async fn one_namespace_and_one_host_leave_places_for_others() {
        let slots = Slots::new(ProbeLimits::default());
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(slots.take("shop", host("slow")).await);
        }
        assert!(
            timeout(SHORT, slots.take("pay", host("slow")))
                .await
                .is_err()
        );
        for number in 0..2 {
            taken.push(slots.take("shop", host(&number.to_string())).await);
        }
        assert!(
            timeout(SHORT, slots.take("shop", host("other")))
                .await
                .is_err()
        );
        assert!(
            timeout(SHORT, slots.take("pay", host("other")))
                .await
                .is_ok()
        );
        drop(taken);
        assert!(
            timeout(SHORT, slots.take("shop", host("slow")))
                .await
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_gets_a_burst_and_then_a_steady_rate() {
        let slots = Slots::new(ProbeLimits::default());
        let began = Instant::now();
        for _ in 0..=20 {
            drop(slots.take("shop", host("a")).await);
        }
        assert!(
            began.elapsed() < Duration::from_millis(5),
            "{:?}",
            began.elapsed()
        );
        for _ in 0..20 {
            drop(slots.take("shop", host("a")).await);
        }
        let took = began.elapsed();
        assert!((900..=1_100).contains(&took.as_millis()), "{took:?}");
        let other = Instant::now();
        drop(slots.take("shop", host("b")).await);
        assert!(other.elapsed() < Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_without_a_request_are_forgotten() {
        let slots = Slots::new(ProbeLimits::default());
        for number in 0..100 {
            drop(
                slots
                    .take(&number.to_string(), host(&number.to_string()))
                    .await,
            );
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(slots.take("shop", host("a")).await);
        assert!(slots.namespaces.by_key.lock().unwrap().len() <= 2);
        assert!(slots.hosts.by_key.lock().unwrap().len() <= 2);
        assert!(slots.next.lock().unwrap().len() <= 1);
    }
}
