//! The simulated service: its traffic, and how its errors are distributed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution, Geometric};
use serin_analysis::{Counts, PodCounts, Tick};

/// The distribution of errors over time and pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// Independent of each other, at a constant rate.
    Plain,
    /// About every 15 minutes both variants fail ten times as often for a minute, as if a
    /// dependency failed.
    SharedBursts,
    /// Traffic and error rate vary over the day by 50 % and 80 %, starting at a random hour.
    DailyDrift,
    /// The canary's pods fail 3 % of their requests in their first minute.
    WarmUpSpike,
    /// Clients retry on the pod that failed: errors occur in clusters with a mean of 4 on one pod,
    /// an overdispersion of 7.
    StickyRetries,
}

impl Conditions {
    /// All conditions.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::SharedBursts,
        Self::DailyDrift,
        Self::WarmUpSpike,
        Self::StickyRetries,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SharedBursts => "shared bursts",
            Self::DailyDrift => "daily drift",
            Self::WarmUpSpike => "warm-up spike",
            Self::StickyRetries => "sticky retries, tempered",
        }
    }
}

/// The error rate of the canary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CanaryEffect {
    /// This multiple of stable's error rate.
    Times(f64),
    /// Stable's error rate plus this fraction of requests.
    Plus(f64),
    /// This fraction of requests.
    Fraction(f64),
}

impl CanaryEffect {
    /// The canary's error rate if stable's is `p_s`.
    pub fn rate(self, p_s: f64) -> f64 {
        match self {
            Self::Times(times) => (times * p_s).min(1.0),
            Self::Plus(excess) => (p_s + excess).min(1.0),
            Self::Fraction(rate) => rate,
        }
    }
}

/// A service and a release of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Requests per second of both variants.
    pub requests_per_second: f64,
    /// Seconds between scrapes.
    pub tick_seconds: u32,
    /// Stable's error rate.
    pub stable_rate: f64,
    /// The error rate of the canary.
    pub effect: CanaryEffect,
    /// The distribution of errors over time and pods.
    pub conditions: Conditions,
}

/// Length of the history, as in the controller.
const HISTORY_SECONDS: u32 = 3600;
const STABLE_PODS: u8 = 4;
const WARM_UP_SECONDS: f64 = 60.0;
const SPIKE_RATE: f64 = 0.03;
const BURST_EVERY_SECONDS: f64 = 900.0;
const BURST_SECONDS: f64 = 60.0;
const BURST_TIMES: f64 = 10.0;
const DAY_SECONDS: f64 = 86_400.0;
const TRAFFIC_SWING: f64 = 0.5;
const RATE_SWING: f64 = 0.8;
const CLUSTER_MEAN: f64 = 4.0;

/// Simulates the service during one rollout.
#[derive(Debug)]
pub(crate) struct ServiceSimulator {
    scenario: Scenario,
    random: SmallRng,
    at_seconds: u32,
    day_phase: f64,
    burst_ends: f64,
    splits_exactly: bool,
}

/// A simulated tick with its expected cost.
#[derive(Debug)]
pub(crate) struct SimulatedTick {
    pub(crate) tick: Tick,
    /// Expected errors of the canary beyond those at stable's rate.
    pub(crate) excess_errors: f64,
}

impl ServiceSimulator {
    pub(crate) fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let day_phase = random.random::<f64>() * std::f64::consts::TAU;
        Self {
            scenario,
            random,
            at_seconds: 0,
            day_phase,
            burst_ends: 0.0,
            splits_exactly: false,
        }
    }

    /// Simulates a router that keeps the weight exactly in every tick, like a weighted round robin.
    pub(crate) fn with_exact_split(scenario: Scenario, seed: u64) -> Self {
        Self {
            splits_exactly: true,
            ..Self::new(scenario, seed)
        }
    }

    /// Stable's last hour before the rollout, by pod, from which the temper is estimated. Empty
    /// unless errors cluster.
    pub(crate) fn history(&mut self) -> Vec<Tick> {
        if self.scenario.conditions != Conditions::StickyRetries {
            return Vec::new();
        }
        let ticks = HISTORY_SECONDS / self.scenario.tick_seconds;
        let requests =
            round_to_u64(self.scenario.requests_per_second * f64::from(self.scenario.tick_seconds));
        let (per_pod, rate) = (requests / u64::from(STABLE_PODS), self.scenario.stable_rate);
        let tick = |_| Tick {
            stable_pods: (0..STABLE_PODS).map(|_| self.pod(per_pod, rate)).collect(),
            ..Tick::default()
        };
        (0..ticks).map(tick).collect()
    }

    /// Simulates the time until the next scrape with this canary weight.
    pub(crate) fn serve(&mut self, weight: f64) -> SimulatedTick {
        let Scenario {
            requests_per_second,
            tick_seconds,
            stable_rate,
            effect,
            conditions,
        } = self.scenario;
        let started = f64::from(self.at_seconds);
        let mut requests = requests_per_second * f64::from(tick_seconds);
        let (mut p_s, mut spike) = (stable_rate, 0.0);
        match conditions {
            Conditions::SharedBursts => {
                if self.random.random::<f64>() < f64::from(tick_seconds) / BURST_EVERY_SECONDS {
                    self.burst_ends = started + BURST_SECONDS;
                }
                if started < self.burst_ends {
                    p_s *= BURST_TIMES;
                }
            }
            Conditions::DailyDrift => {
                let angle = self.day_phase + started / DAY_SECONDS * std::f64::consts::TAU;
                requests *= 1.0 + TRAFFIC_SWING * angle.sin();
                p_s *= 1.0 + RATE_SWING * angle.cos();
            }
            Conditions::WarmUpSpike if started < WARM_UP_SECONDS => spike = SPIKE_RATE,
            Conditions::Plain | Conditions::StickyRetries | Conditions::WarmUpSpike => {}
        }
        let p_c = (effect.rate(p_s) + spike).min(1.0);
        let total = round_to_u64(requests);
        let canary = if self.splits_exactly {
            round_to_u64(to_f64(total) * weight)
        } else {
            self.binomial(total, weight)
        };
        let stable = total - canary;
        let excess_errors = to_f64(canary) * (p_c - p_s);
        let (canary_errors, stable_errors, stable_pods) = if conditions == Conditions::StickyRetries
        {
            let pods: Vec<_> = (0..STABLE_PODS)
                .map(|_| self.pod(stable / u64::from(STABLE_PODS), p_s))
                .collect();
            let errors = pods.iter().map(|pod| pod.errors).sum();
            (self.clustered(canary, p_c), errors, pods)
        } else {
            (
                to_f64(self.binomial(canary, p_c)),
                to_f64(self.binomial(stable, p_s)),
                Vec::new(),
            )
        };
        let started_ms = i64::from(self.at_seconds) * 1000;
        self.at_seconds += tick_seconds;
        let at_ms = i64::from(self.at_seconds) * 1000;
        let counts = Counts::new(to_f64(canary), canary_errors, to_f64(stable), stable_errors);
        SimulatedTick {
            tick: Tick {
                started_ms,
                at_ms,
                counts,
                stable_pods,
                ..Tick::default()
            },
            excess_errors,
        }
    }

    /// The tick with a random part of stable's requests in place of all of them: those of the
    /// baseline pods.
    pub(crate) fn part_of_stable(&mut self, tick: &Tick, part: f64) -> Tick {
        let counts = &tick.counts;
        let [good, bad] = [
            counts.stable_requests - counts.stable_errors,
            counts.stable_errors,
        ]
        .map(|count| to_f64(self.binomial(round_to_u64(count.max(0.0)), part)));
        Tick {
            started_ms: tick.started_ms,
            at_ms: tick.at_ms,
            counts: Counts::new(
                counts.canary_requests,
                counts.canary_errors,
                good + bad,
                bad,
            ),
            ..Tick::default()
        }
    }

    fn pod(&mut self, requests: u64, rate: f64) -> PodCounts {
        PodCounts {
            requests: to_f64(requests),
            errors: self.clustered(requests, rate),
            ..PodCounts::default()
        }
    }

    fn binomial(&mut self, trials: u64, p: f64) -> u64 {
        Binomial::new(trials, p.clamp(0.0, 1.0))
            .map_or(0, |binomial| binomial.sample(&mut self.random))
    }

    /// Errors in clusters of geometric size with the given mean rate.
    fn clustered(&mut self, requests: u64, rate: f64) -> f64 {
        let clusters = self.binomial(requests, rate / CLUSTER_MEAN);
        let Ok(more) = Geometric::new(1.0 / CLUSTER_MEAN) else {
            return 0.0;
        };
        let errors: u64 = (0..clusters)
            .map(|_| 1 + more.sample(&mut self.random))
            .sum();
        to_f64(errors.min(requests))
    }
}

/// Converts a count, which is far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of a simulated tick")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below 2^53"
)]
pub(crate) fn round_to_u64(count: f64) -> u64 {
    count.round() as u64
}

/// Converts milliseconds of a simulation to seconds.
pub(crate) fn seconds(at_ms: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the milliseconds of a simulated hour"
    )]
    {
        at_ms as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serin_analysis::overdispersion::Overdispersion;

    fn simulator(
        conditions: Conditions,
        effect: CanaryEffect,
        requests_per_second: f64,
    ) -> ServiceSimulator {
        ServiceSimulator::new(
            Scenario {
                requests_per_second,
                tick_seconds: 15,
                stable_rate: 5e-4,
                effect,
                conditions,
            },
            7,
        )
    }

    #[test]
    fn errors_match_their_rates() {
        let mut simulator = simulator(Conditions::Plain, CanaryEffect::Times(10.0), 1000.0);
        let mut totals = Counts::default();
        (0..2000).for_each(|_| totals.add(&simulator.serve(0.2).tick.counts));
        assert!((totals.canary_share().unwrap() - 0.2).abs() < 1e-3);
        assert!((totals.canary_errors / totals.canary_requests / 5e-3 - 1.0).abs() < 0.02);
        assert!((totals.stable_rate().unwrap() / 5e-4 - 1.0).abs() < 0.03);
    }

    #[test]
    fn sticky_retries_have_the_documented_overdispersion() {
        let mut simulator = simulator(Conditions::StickyRetries, CanaryEffect::Times(1.0), 1000.0);
        let mut phi = Overdispersion::default();
        let mut totals = Counts::default();
        for _ in 0..5000 {
            let tick = simulator.serve(0.5).tick;
            phi.add(&tick.stable_pods);
            totals.add(&tick.counts);
        }
        assert!((phi.phi().unwrap() - 7.0).abs() < 0.7, "{:?}", phi.phi());
        assert!((totals.stable_rate().unwrap() / 5e-4 - 1.0).abs() < 0.1);
        assert!((totals.canary_errors / totals.canary_requests / 5e-4 - 1.0).abs() < 0.1);
    }

    #[test]
    fn an_exact_split_keeps_the_weight_in_every_tick() {
        let scenario = simulator(Conditions::Plain, CanaryEffect::Times(1.0), 100.0).scenario;
        let mut simulator = ServiceSimulator::with_exact_split(scenario, 7);
        assert!((0..50).all(|_| simulator.serve(0.1).tick.counts.canary_share() == Some(0.1)));
    }

    #[test]
    fn a_seed_reproduces_a_rollout() {
        let serve = || {
            let mut simulator = simulator(Conditions::SharedBursts, CanaryEffect::Plus(1e-3), 10.0);
            (0..50)
                .map(|_| simulator.serve(0.1).tick)
                .collect::<Vec<_>>()
        };
        assert_eq!(serve(), serve());
    }
}
