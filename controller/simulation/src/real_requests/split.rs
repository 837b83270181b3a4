//! Divides the requests of a log between a canary that equals stable, and stable's pods.

use std::collections::HashMap;

use serin_analysis::{Counts, PodCounts, Tick};

use crate::parallel::derive_seed;
use crate::request_log::RequestLog;

/// Number of stable pods in the split.
pub const STABLE_PODS: usize = 4;
/// A pause of this length ends a connection, as with the keep-alive timeouts of common servers.
const CONNECTION_PAUSE_MS: i64 = 15_000;
/// Number of requests after which a connection ends.
const CONNECTION_REQUESTS: u32 = 100;
const SLICE_MS: i64 = 1000;

/// What the router assigns to a pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitUnit {
    /// Each request.
    Request,
    /// Each client for the complete release: session affinity.
    Client,
    /// Each connection: the requests of a client without a pause of 15 s, at most 100.
    Connection,
    /// All requests of one second.
    Slice,
}

impl SplitUnit {
    /// All units.
    pub const ALL: [Self; 4] = [Self::Request, Self::Client, Self::Connection, Self::Slice];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "per request",
            Self::Client => "by client",
            Self::Connection => "by connection",
            Self::Slice => "slices of 1 s",
        }
    }

    /// The number of the unit to which each request of the log belongs.
    pub(crate) fn numbers(self, log: &RequestLog) -> Vec<u64> {
        let mut connections: HashMap<u32, (i64, u32, u64)> = HashMap::new();
        let mut next = 0;
        (0..)
            .zip(log.requests())
            .map(|(index, request)| match self {
                Self::Request => index,
                Self::Client => u64::from(request.client),
                Self::Slice => (request.at_ms / SLICE_MS).unsigned_abs(),
                Self::Connection => {
                    let open = connections.get(&request.client).copied();
                    let is_open = |(last_ms, requests, _): &(i64, u32, u64)| {
                        request.at_ms - last_ms < CONNECTION_PAUSE_MS
                            && *requests < CONNECTION_REQUESTS
                    };
                    let (requests, connection) = match open.filter(is_open) {
                        Some((_, requests, connection)) => (requests + 1, connection),
                        None => {
                            next += 1;
                            (1, next)
                        }
                    };
                    connections.insert(request.client, (request.at_ms, requests, connection));
                    connection
                }
            })
            .collect()
    }
}

/// A log that is prepared for splits by one unit and one scrape interval.
///
/// The first half of the log is the history, during which stable serves all requests. The release
/// begins at the first scrape after the middle.
#[derive(Debug)]
pub(crate) struct SplitLog {
    units: Vec<u64>,
    bad: Vec<bool>,
    ticks: Vec<u32>,
    history_ticks: u32,
    all_ticks: u32,
    scrape_ms: i64,
    bad_rate: f64,
}

/// One release of a split: the ticks before it and the ticks during it.
#[derive(Debug, PartialEq)]
pub(crate) struct SplitRelease {
    pub(crate) history: Vec<Tick>,
    pub(crate) ticks: Vec<Tick>,
    /// The start of the release in milliseconds since the start of the log.
    pub(crate) began_ms: i64,
}

impl SplitLog {
    pub(crate) fn new(log: &RequestLog, unit: SplitUnit, scrape_seconds: u32) -> Self {
        let scrape_ms = i64::from(scrape_seconds.max(1)) * 1000;
        let tick = |at_ms: i64| u32::try_from(at_ms / scrape_ms).unwrap_or(u32::MAX - 1);
        Self {
            units: unit.numbers(log),
            bad: log.requests().iter().map(|one| one.is_bad).collect(),
            ticks: log.requests().iter().map(|one| tick(one.at_ms)).collect(),
            history_ticks: tick(log.duration_ms() / 2),
            all_ticks: tick(log.duration_ms()) + 1,
            scrape_ms,
            bad_rate: log.bad_rate(),
        }
    }

    /// Draws the arm and the pod of each unit. `weight` is the probability of the canary.
    /// `error_factor` multiplies the canary's error rate: its good requests become bad at random.
    pub(crate) fn release(&self, weight: f64, error_factor: f64, seed: u64) -> SplitRelease {
        let (arm_seed, pod_seed, error_seed) = (
            derive_seed(seed, 0),
            derive_seed(seed, 1),
            derive_seed(seed, 2),
        );
        let extra = (error_factor - 1.0) * self.bad_rate / (1.0 - self.bad_rate).max(1e-9);
        let mut pods = vec![[PodCounts::default(); STABLE_PODS + 1]; self.all_ticks as usize];
        for (index, (unit, (tick, bad))) in
            (0..).zip(self.units.iter().zip(self.ticks.iter().zip(&self.bad)))
        {
            let is_canary = *tick >= self.history_ticks && uniform(arm_seed, *unit) < weight;
            let pod = if is_canary {
                STABLE_PODS
            } else {
                stable_pod(pod_seed, *unit)
            };
            let counts = &mut pods[*tick as usize][pod];
            counts.requests += 1.0;
            if *bad || (is_canary && extra > 0.0 && uniform(error_seed, index) < extra) {
                counts.errors += 1.0;
            }
        }
        let ticks = (0_i64..).zip(&pods).map(|(index, pods)| Tick {
            started_ms: index * self.scrape_ms,
            at_ms: (index + 1) * self.scrape_ms,
            counts: counts(pods),
            stable_pods: pods[..STABLE_PODS].to_vec(),
            canary_pods: vec![pods[STABLE_PODS]],
            ..Tick::default()
        });
        let mut history: Vec<_> = ticks.collect();
        let ticks = history.split_off(self.history_ticks as usize);
        SplitRelease {
            history,
            ticks,
            began_ms: i64::from(self.history_ticks) * self.scrape_ms,
        }
    }
}

fn counts(pods: &[PodCounts; STABLE_PODS + 1]) -> Counts {
    let canary = pods[STABLE_PODS];
    let stable = &pods[..STABLE_PODS];
    Counts::new(
        canary.requests,
        canary.errors,
        stable.iter().map(|pod| pod.requests).sum(),
        stable.iter().map(|pod| pod.errors).sum(),
    )
}

/// A hash of `number` as a uniform number from 0 to 1.
fn uniform(seed: u64, number: u64) -> f64 {
    const TWO_TO_53: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let value = (mixed(seed, number) >> 11) as f64;
    value / TWO_TO_53
}

fn stable_pod(seed: u64, number: u64) -> usize {
    usize::try_from(mixed(seed, number) % STABLE_PODS as u64).unwrap_or(0)
}

/// The finalizer of `SplitMix64`, see [`derive_seed`], which takes numbers up to 2^32 only.
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_log::LoggedRequest;

    /// Two requests a second of ten clients for 20 minutes. Every 50th request is bad.
    fn log() -> RequestLog {
        let requests = (0..2400_u32).map(|index| LoggedRequest {
            at_ms: i64::from(index) * 500,
            client: index % 10,
            is_bad: index % 50 == 0,
        });
        RequestLog::new(requests.collect()).unwrap()
    }

    fn totals(ticks: &[Tick]) -> Counts {
        let mut all = Counts::default();
        for tick in ticks {
            all.add(&tick.counts);
        }
        all
    }

    #[test]
    fn every_request_is_counted_once_and_the_history_has_no_canary() {
        let log = log();
        for unit in SplitUnit::ALL {
            let release = SplitLog::new(&log, unit, 15).release(0.5, 1.0, 7);
            let (before, during) = (totals(&release.history), totals(&release.ticks));
            assert_eq!(before.canary_requests, 0.0);
            assert_eq!(before.requests() + during.requests(), 2400.0, "{unit:?}");
            let bad = before.stable_errors + during.stable_errors + during.canary_errors;
            assert_eq!(bad, 48.0);
            assert_eq!(
                release.began_ms, 585_000,
                "the last scrape before the middle"
            );
            assert_eq!(release.ticks[0].started_ms, release.began_ms);
        }
    }

    #[test]
    fn a_client_stays_in_its_arm_and_on_its_pod() {
        let requests = (0..1200_u32).map(|index| LoggedRequest {
            at_ms: i64::from(index) * 1000,
            client: 3,
            is_bad: false,
        });
        let log = RequestLog::new(requests.collect()).unwrap();
        let release = SplitLog::new(&log, SplitUnit::Client, 15).release(0.2, 1.0, 1);
        let is_whole = |tick: &Tick| matches!(tick.counts.canary_share(), Some(0.0 | 1.0));
        assert!(release.ticks.iter().all(is_whole));
        let serving = |tick: &Tick| tick.stable_pods.iter().position(|pod| pod.requests > 0.0);
        let first = serving(&release.history[0]);
        assert!(release.history.iter().all(|tick| serving(tick) == first));
    }

    #[test]
    fn a_connection_ends_after_a_pause_or_a_hundred_requests() {
        let at = |at_ms| LoggedRequest {
            at_ms,
            client: 1,
            is_bad: false,
        };
        let mut requests: Vec<_> = (0..101).map(at).collect();
        requests.extend([at(15_099), at(30_099)]);
        let numbers = SplitUnit::Connection.numbers(&RequestLog::new(requests).unwrap());
        assert_eq!(numbers[..100], [1; 100]);
        assert_eq!(numbers[100..], [2, 2, 3]);
    }

    #[test]
    fn the_weight_and_the_extra_errors_are_kept_on_average() {
        let requests = (0..40_000_u32).map(|index| LoggedRequest {
            at_ms: i64::from(index) * 25,
            client: index,
            is_bad: index % 50 == 0,
        });
        let log = RequestLog::new(requests.collect()).unwrap();
        let split = SplitLog::new(&log, SplitUnit::Request, 15);
        let all = totals(&split.release(0.2, 5.0, 3).ticks);
        assert!((all.canary_share().unwrap() - 0.2).abs() < 0.01);
        assert!((all.canary_errors / all.canary_requests - 0.1).abs() < 0.015);
        assert!((all.stable_rate().unwrap() - 0.02).abs() < 0.005);
    }

    #[test]
    fn a_seed_gives_the_same_split_and_another_seed_another() {
        let log = log();
        let split = SplitLog::new(&log, SplitUnit::Connection, 5);
        assert_eq!(split.release(0.2, 2.0, 5), split.release(0.2, 2.0, 5));
        assert_ne!(split.release(0.2, 2.0, 5), split.release(0.2, 2.0, 6));
    }
}
