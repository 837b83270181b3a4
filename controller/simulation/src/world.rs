//! What a service does to a release: its traffic, its errors, and how they come.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution, Geometric};
use serin_analysis::{Counts, PodCounts, Tick};

/// How errors come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Independent of each other, at a constant rate.
    Plain,
    /// About every 15 minutes both arms fail ten times as often for a minute, as when a dependency
    /// is ill.
    SharedBursts,
    /// Traffic and error rate follow the day, from any hour of it, swinging by 50 % and 80 %.
    DailyDrift,
    /// The canary's pods fail 3 % of their requests in their first minute.
    WarmUpSpike,
    /// Clients retry on the pod that failed them: errors come in clusters with a mean of 4 on one
    /// pod, an overdispersion of 7.
    StickyRetries,
}

impl Weather {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::SharedBursts,
        Self::DailyDrift,
        Self::WarmUpSpike,
        Self::StickyRetries,
    ];

    /// What a table calls it.
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

/// What the canary does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    /// Fails this many times as often as stable.
    Times(f64),
    /// Fails this fraction of its requests more than stable.
    Plus(f64),
    /// Fails this fraction of its requests.
    Fraction(f64),
}

impl Effect {
    /// The canary's error rate where stable's is `p_s`.
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
    /// Requests per second of both arms.
    pub requests_per_second: f64,
    /// Seconds between scrapes.
    pub tick_seconds: u32,
    /// Stable's error rate.
    pub stable_rate: f64,
    /// What the canary does.
    pub effect: Effect,
    /// How errors come.
    pub weather: Weather,
}

/// How much of the past is read, as the controller does.
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

/// One rollout's service at work.
#[derive(Debug)]
pub(crate) struct World {
    scenario: Scenario,
    random: SmallRng,
    at_seconds: u32,
    day_phase: f64,
    burst_ends: f64,
    splits_exactly: bool,
}

/// A tick, and what it truly cost.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) tick: Tick,
    /// Errors of the canary beyond those that stable would have made of its requests, in
    /// expectation.
    pub(crate) excess_errors: f64,
}

impl World {
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

    /// The same behind a router that keeps the weight in every tick, as a weighted round robin
    /// does.
    pub(crate) fn with_exact_split(scenario: Scenario, seed: u64) -> Self {
        Self {
            splits_exactly: true,
            ..Self::new(scenario, seed)
        }
    }

    /// Stable's last hour before the rollout, pod by pod, where errors cluster: what the temper is
    /// learnt from.
    pub(crate) fn history(&mut self) -> Vec<Tick> {
        if self.scenario.weather != Weather::StickyRetries {
            return Vec::new();
        }
        let ticks = HISTORY_SECONDS / self.scenario.tick_seconds;
        let requests =
            whole(self.scenario.requests_per_second * f64::from(self.scenario.tick_seconds));
        let (per_pod, rate) = (requests / u64::from(STABLE_PODS), self.scenario.stable_rate);
        let tick = |_| Tick {
            stable_pods: (0..STABLE_PODS).map(|_| self.pod(per_pod, rate)).collect(),
            ..Tick::default()
        };
        (0..ticks).map(tick).collect()
    }

    /// Serves the time until the next scrape with this share on the canary.
    pub(crate) fn serve(&mut self, weight: f64) -> Served {
        let Scenario {
            requests_per_second,
            tick_seconds,
            stable_rate,
            effect,
            weather,
        } = self.scenario;
        let started = f64::from(self.at_seconds);
        let mut requests = requests_per_second * f64::from(tick_seconds);
        let (mut p_s, mut spike) = (stable_rate, 0.0);
        match weather {
            Weather::SharedBursts => {
                if self.random.random::<f64>() < f64::from(tick_seconds) / BURST_EVERY_SECONDS {
                    self.burst_ends = started + BURST_SECONDS;
                }
                if started < self.burst_ends {
                    p_s *= BURST_TIMES;
                }
            }
            Weather::DailyDrift => {
                let angle = self.day_phase + started / DAY_SECONDS * std::f64::consts::TAU;
                requests *= 1.0 + TRAFFIC_SWING * angle.sin();
                p_s *= 1.0 + RATE_SWING * angle.cos();
            }
            Weather::WarmUpSpike if started < WARM_UP_SECONDS => spike = SPIKE_RATE,
            Weather::Plain | Weather::StickyRetries | Weather::WarmUpSpike => {}
        }
        let p_c = (effect.rate(p_s) + spike).min(1.0);
        let total = whole(requests);
        let canary = if self.splits_exactly {
            whole(real(total) * weight)
        } else {
            self.binomial(total, weight)
        };
        let stable = total - canary;
        let excess_errors = real(canary) * (p_c - p_s);
        let (canary_errors, stable_errors, stable_pods) = if weather == Weather::StickyRetries {
            let pods: Vec<_> = (0..STABLE_PODS)
                .map(|_| self.pod(stable / u64::from(STABLE_PODS), p_s))
                .collect();
            let errors = pods.iter().map(|pod| pod.errors).sum();
            (self.clustered(canary, p_c), errors, pods)
        } else {
            (
                real(self.binomial(canary, p_c)),
                real(self.binomial(stable, p_s)),
                Vec::new(),
            )
        };
        let started_ms = i64::from(self.at_seconds) * 1000;
        self.at_seconds += tick_seconds;
        let at_ms = i64::from(self.at_seconds) * 1000;
        let counts = Counts::new(real(canary), canary_errors, real(stable), stable_errors);
        Served {
            tick: Tick {
                started_ms,
                at_ms,
                counts,
                stable_pods,
            },
            excess_errors,
        }
    }

    fn pod(&mut self, requests: u64, rate: f64) -> PodCounts {
        PodCounts {
            requests: real(requests),
            errors: self.clustered(requests, rate),
        }
    }

    fn binomial(&mut self, trials: u64, p: f64) -> u64 {
        Binomial::new(trials, p.clamp(0.0, 1.0))
            .map_or(0, |binomial| binomial.sample(&mut self.random))
    }

    /// Errors in clusters of geometric size, at the same mean rate.
    fn clustered(&mut self, requests: u64, rate: f64) -> f64 {
        let clusters = self.binomial(requests, rate / CLUSTER_MEAN);
        let Ok(more) = Geometric::new(1.0 / CLUSTER_MEAN) else {
            return 0.0;
        };
        let errors: u64 = (0..clusters)
            .map(|_| 1 + more.sample(&mut self.random))
            .sum();
        real(errors.min(requests))
    }
}

/// Counts here are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of a simulated tick")]
fn real(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below 2^53"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// A time of a simulation in seconds.
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

    fn world(weather: Weather, effect: Effect, requests_per_second: f64) -> World {
        World::new(
            Scenario {
                requests_per_second,
                tick_seconds: 15,
                stable_rate: 5e-4,
                effect,
                weather,
            },
            7,
        )
    }

    #[test]
    fn errors_come_at_their_rates() {
        let mut world = world(Weather::Plain, Effect::Times(10.0), 1000.0);
        let mut totals = Counts::default();
        (0..2000).for_each(|_| totals.add(&world.serve(0.2).tick.counts));
        assert!((totals.canary_share().unwrap() - 0.2).abs() < 1e-3);
        assert!((totals.canary_errors / totals.canary_requests / 5e-3 - 1.0).abs() < 0.02);
        assert!((totals.stable_rate().unwrap() / 5e-4 - 1.0).abs() < 0.03);
    }

    #[test]
    fn sticky_retries_have_the_overdispersion_that_they_are_said_to_have() {
        let mut world = world(Weather::StickyRetries, Effect::Times(1.0), 1000.0);
        let mut phi = Overdispersion::default();
        let mut totals = Counts::default();
        for _ in 0..5000 {
            let tick = world.serve(0.5).tick;
            phi.add(&tick.stable_pods);
            totals.add(&tick.counts);
        }
        assert!((phi.phi().unwrap() - 7.0).abs() < 0.7, "{:?}", phi.phi());
        assert!((totals.stable_rate().unwrap() / 5e-4 - 1.0).abs() < 0.1);
        assert!((totals.canary_errors / totals.canary_requests / 5e-4 - 1.0).abs() < 0.1);
    }

    #[test]
    fn an_exact_split_is_the_weight_in_every_tick() {
        let scenario = world(Weather::Plain, Effect::Times(1.0), 100.0).scenario;
        let mut world = World::with_exact_split(scenario, 7);
        assert!((0..50).all(|_| world.serve(0.1).tick.counts.canary_share() == Some(0.1)));
    }

    #[test]
    fn a_seed_is_a_rollout() {
        let serve = || {
            let mut world = world(Weather::SharedBursts, Effect::Plus(1e-3), 10.0);
            (0..50).map(|_| world.serve(0.1).tick).collect::<Vec<_>>()
        };
        assert_eq!(serve(), serve());
    }
}
