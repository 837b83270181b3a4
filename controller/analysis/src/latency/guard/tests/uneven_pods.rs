//! Simulations of pods of the same code that differ in speed or that pause. They print the share of
//! releases that the guard holds, and the time until it finds a slower canary:
//! `cargo test -p serin-analysis uneven_pods -- --nocapture`.

use std::fmt;

use super::*;
use crate::counts::{PodCounts, PodId};
use crate::latency::EdgeHistory;

/// The default buckets of the Prometheus clients up to 5 s, in seconds.
const DEFAULT_EDGES: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const STABLE_PODS: usize = 4;
const SCRAPE_SECONDS: f64 = 15.0;
/// A release of 15 minutes, and the hour before it.
const SCRAPES: i64 = 60;
const HISTORY_SCRAPES: i64 = 240;

/// Four stable pods and one canary pod. Durations are log-normal with a median of 120 ms.
#[derive(Clone, Copy)]
struct World {
    name: &'static str,
    /// Standard deviation of the logarithm of a pod's speed.
    spread: f64,
    /// Length of a pod's pauses and their mean interval, in seconds.
    pauses: Option<(f64, f64)>,
    /// The canary's durations as a multiple of stable's.
    canary: f64,
    /// Requests per second of each pod.
    rate: f64,
    /// Whether the series distinguish pods. Otherwise a gateway counts for all of them.
    has_pods: bool,
}

struct Outcome {
    releases: usize,
    found_seconds: Vec<i64>,
}

impl Outcome {
    fn held_percent(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred releases")]
        let (held, all) = (self.found_seconds.len() as f64, self.releases as f64);
        100.0 * held / all
    }

    fn median_seconds(&self) -> Option<i64> {
        self.found_seconds.get(self.releases / 2).copied()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self
            .median_seconds()
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
        let held = self.held_percent();
        write!(formatter, "held {held:.1} %, median {median}")
    }
}

/// The share of a standard normal distribution above `x`, by a rational approximation
/// (Abramowitz, Stegun 26.2.17).
fn normal_above(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() * polynomial;
    if x >= 0.0 { tail } else { 1.0 - tail }
}

impl SplitMix64 {
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A binomial number: by inversion, or by the normal approximation above 30 expected.
    fn binomial(&mut self, n: f64, p: f64) -> f64 {
        if n <= 0.0 || p <= 0.0 {
            return 0.0;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        if n * p > 30.0 {
            let normal = self.normal();
            return (n * p + (n * p * (1.0 - p)).sqrt() * normal)
                .round()
                .clamp(0.0, n);
        }
        let (mut count, mut mass, mut left) = (0.0, (1.0 - p).powf(n), self.unit());
        while left > mass && count < n {
            left -= mass;
            mass *= (n - count) / (count + 1.0) * p / (1.0 - p);
            count += 1.0;
        }
        count
    }

    /// Requests of one pod in one scrape, and those beyond each edge.
    fn scrape(&mut self, world: &World, median: f64) -> (f64, [f64; 10]) {
        let requests = world.rate * SCRAPE_SECONDS;
        let mut slower = [0.0; 10];
        let mut paused = 0.0;
        if let Some((length, interval)) = world.pauses {
            let mut at = -self.unit().max(1e-300).ln() * interval;
            while at < SCRAPE_SECONDS {
                paused += length * world.rate;
                at -= self.unit().max(1e-300).ln() * interval;
            }
            paused = paused.round().min(requests);
            for (beyond, edge) in slower.iter_mut().zip(DEFAULT_EDGES) {
                // Arrivals are spread over the pause and wait until it ends.
                *beyond += (paused * (1.0 - edge / length).max(0.0)).round();
            }
        }
        let mut left = requests - paused;
        let mut above_last = 1.0;
        for (beyond, edge) in slower.iter_mut().zip(DEFAULT_EDGES) {
            let above = normal_above((edge / median).ln() / 0.5);
            left = self.binomial(left, (above / above_last).min(1.0));
            above_last = above.max(1e-300);
            *beyond += left;
        }
        (requests, slower)
    }

    /// One tick at each edge.
    fn ticks(&mut self, world: &World, medians: &[f64], index: i64) -> Vec<Tick> {
        let pods: Vec<_> = medians
            .iter()
            .map(|median| self.scrape(world, *median))
            .collect();
        let at_edge = |edge: usize| {
            let counts = |(requests, slower): &(f64, [f64; 10])| PodCounts {
                pod: PodId::default(),
                requests: *requests,
                errors: slower[edge],
            };
            let mut stable_pods: Vec<PodCounts> = pods[..STABLE_PODS].iter().map(counts).collect();
            let canary = counts(&pods[STABLE_PODS]);
            let requests = stable_pods.iter().map(|pod| pod.requests).sum();
            let slower = stable_pods.iter().map(|pod| pod.errors).sum();
            if !world.has_pods {
                stable_pods.clear();
            }
            Tick {
                started_ms: index * 15_000,
                at_ms: (index + 1) * 15_000,
                counts: Counts::new(canary.requests, canary.errors, requests, slower),
                stable_pods,
                ..Tick::default()
            }
        };
        (0..DEFAULT_EDGES.len()).map(at_edge).collect()
    }
}

/// Seconds until the guard acts, if it does.
fn found_after(seed: u64, world: &World) -> Option<i64> {
    let mut random = SplitMix64(seed.wrapping_mul(7_919));
    let mut medians: Vec<f64> = (0..=STABLE_PODS)
        .map(|_| 0.12 * (world.spread * random.normal()).exp())
        .collect();
    let mut state = LatencyGuardState::default();
    let mut guard = LatencyGuard::resume(config(0.01), CounterConfig::default(), 0, &state);
    if world.has_pods {
        let mut history = vec![Vec::new(); DEFAULT_EDGES.len()];
        for index in -HISTORY_SCRAPES..0 {
            for (ticks, tick) in history.iter_mut().zip(random.ticks(world, &medians, index)) {
                ticks.push(tick);
            }
        }
        let histories = DEFAULT_EDGES.iter().zip(&history);
        state.learn(
            histories
                .map(|(seconds, ticks)| EdgeHistory::from_ticks(*seconds, ticks))
                .collect(),
        );
    }
    medians[STABLE_PODS] *= world.canary;
    guard.set_edges(&mut state, &DEFAULT_EDGES, 0, 1.0);
    for index in 0..SCRAPES {
        let ticks = random.ticks(world, &medians, index);
        let by_time = BTreeMap::from([(index, ticks.iter().enumerate().collect())]);
        state.add_ticks(&guard.evidence, 0, &by_time, &NO_WARM_UP);
        if state.ln_e() >= 100_f64.ln() {
            return Some((index + 1) * 15);
        }
    }
    None
}

fn simulate(world: &World, releases: usize) -> Outcome {
    let seeds = (0_u64..).take(releases);
    let mut found_seconds: Vec<i64> = seeds.filter_map(|seed| found_after(seed, world)).collect();
    found_seconds.sort_unstable();
    let outcome = Outcome {
        releases,
        found_seconds,
    };
    let counted_by = if world.has_pods { "pods" } else { "gateway" };
    println!(
        "latency guard, {}, {}/s a pod, counted by {counted_by}: {outcome}",
        world.name, world.rate
    );
    outcome
}

const PLAIN: World = World {
    name: "equal pods",
    spread: 0.0,
    pauses: None,
    canary: 1.0,
    rate: 50.0,
    has_pods: false,
};

#[test]
fn pods_up_to_five_percent_apart_hold_no_release() {
    for (name, spread) in [("pods 3 % apart", 0.03), ("pods 5 % apart", 0.05)] {
        for rate in [10.0, 200.0] {
            let world = World {
                name,
                spread,
                rate,
                ..PLAIN
            };
            let outcome = simulate(&world, 200);
            assert!(outcome.held_percent() <= 1.0, "{outcome}");
        }
    }
}

#[test]
fn rare_long_pauses_of_pods_hold_no_release() {
    for (has_pods, releases) in [(true, 100), (false, 200)] {
        let world = World {
            name: "pauses of 2 s every 5 min",
            pauses: Some((2.0, 300.0)),
            has_pods,
            ..PLAIN
        };
        let outcome = simulate(&world, releases);
        assert!(outcome.held_percent() <= 1.0, "{outcome}");
    }
}

#[test]
fn a_slower_canary_is_found_among_uneven_pods() {
    for (has_pods, rate, limit_seconds) in [(false, 10.0, 90), (false, 200.0, 90), (true, 50.0, 60)]
    {
        let world = World {
            name: "a canary that takes 1.5 times as long, pods 5 % apart",
            spread: 0.05,
            canary: 1.5,
            rate,
            has_pods,
            ..PLAIN
        };
        let outcome = simulate(&world, 50);
        assert!(
            outcome
                .median_seconds()
                .is_some_and(|seconds| seconds <= limit_seconds),
            "{outcome}"
        );
    }
}
