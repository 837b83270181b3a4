//! One release in a world: its samples, and the evidence at a gateway and from pods.

use std::collections::BTreeMap;

use rand::Rng;
use serin_analysis::counters::{Arm, CounterKind, Sample, SampleBatch};
use serin_analysis::counts::PodId;
use serin_analysis::objective::{PodWarmUp, RoundContext};
use serin_analysis::{ConfigError, Objective, ObjectiveConfig, ObjectiveState};

use super::World;
use super::service::Service;
use crate::real_requests::{BoundClaim, CountingMode, shipped_evidence};

/// The service of all worlds, as in the audit of the rule.
const BUDGET_FRACTION: f64 = 0.001;
const STABLE_RATE: f64 = 0.0005;
const SCRAPE_SECONDS: u32 = 15;
const HISTORY_SECONDS: i64 = 3600;
const RELEASE_SECONDS: i64 = 3600;
const ALPHA: f64 = 0.01;
/// Start of the release in milliseconds since the epoch. Any time with an hour before it.
const BEGAN_MS: i64 = 1_800_000_000_000;
const RESTART_CHANCE: f64 = 0.02;
/// The time between two new pods of a stable that scales.
const SCALE_EVERY_SECONDS: i64 = 300;
const MAX_STABLE_PODS: usize = 8;
const GATEWAY: &str = "gateway";

/// The result of one release in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorldResult {
    /// Whether the evidence for a rollback ever suffices.
    pub(super) is_rolled_back: bool,
    /// The claim at the first scrape.
    pub(super) claim: BoundClaim,
}

/// An owned sample.
#[derive(Debug, Clone)]
struct Scraped {
    source: String,
    arm: Arm,
    at_ms: i64,
    requests: u64,
    errors: u64,
}

/// The evidence in one mode.
struct Observer {
    objective: Objective,
    state: ObjectiveState,
    claim: BoundClaim,
    is_rolled_back: bool,
}

impl Observer {
    fn new(mode: CountingMode) -> Result<Self, ConfigError> {
        let scrape_ms = i64::from(SCRAPE_SECONDS) * 1000;
        let mut config = ObjectiveConfig::new("availability", 1.0 - BUDGET_FRACTION, scrape_ms);
        config.evidence = shipped_evidence(BUDGET_FRACTION, STABLE_RATE);
        config.selector_verified = true;
        config.sources_are_pods = mode == CountingMode::Pods;
        let (objective, state) = Objective::begin(config, BEGAN_MS)?;
        Ok(Self {
            objective,
            state,
            claim: BoundClaim::Claimed,
            is_rolled_back: false,
        })
    }

    fn learn(&mut self, history: &[Scraped]) {
        let samples = samples(history);
        let batch = SampleBatch {
            samples: &samples,
            source_created_ms: &BTreeMap::new(),
            settled_ms: BEGAN_MS,
            now_ms: BEGAN_MS,
        };
        let config = self.objective.config();
        let from_ms = BEGAN_MS - HISTORY_SECONDS * 1000;
        Objective::estimate_dispersion(config, &mut self.state, &batch, from_ms);
    }

    fn observe(
        &mut self,
        scraped: &[Scraped],
        created_ms: &BTreeMap<String, i64>,
        now_ms: i64,
        context: &RoundContext,
    ) {
        if self.is_rolled_back {
            return;
        }
        let samples = samples(scraped);
        let batch = SampleBatch {
            samples: &samples,
            source_created_ms: created_ms,
            settled_ms: now_ms,
            now_ms,
        };
        self.objective.observe(&mut self.state, &batch, context);
        let (evidence, bets) = (&self.state.evidence, self.objective.bets());
        self.is_rolled_back = evidence.ln_e(bets) >= -ALPHA.ln();
        if evidence.ticks == 1 {
            self.claim = BoundClaim::from_evidence(evidence, bets, ALPHA);
        }
    }
}

fn samples(scraped: &[Scraped]) -> Vec<Sample<'_>> {
    let sample =
        |one: &'_ Scraped, kind, value: u64| (kind, crate::scenario::to_f64(value), one.at_ms);
    scraped
        .iter()
        .flat_map(|one| {
            [
                sample(one, CounterKind::Total, one.requests),
                sample(one, CounterKind::Errors, one.errors),
            ]
            .map(|(kind, value, at_ms)| Sample {
                source: &one.source,
                series: "",
                arm: one.arm,
                kind,
                at_ms,
                value,
            })
        })
        .collect()
}

/// Simulates one release of good code. Returns the results at a gateway and from pods.
///
/// # Errors
/// An invalid configuration. Does not occur with the built-in configuration.
pub(super) fn simulate(
    world: World,
    requests_per_second: f64,
    seed: u64,
) -> Result<[WorldResult; 2], ConfigError> {
    let mut run = ReleaseRun {
        world,
        service: Service::new(
            world,
            (requests_per_second, STABLE_RATE),
            SCRAPE_SECONDS,
            seed,
        ),
        bases: BTreeMap::new(),
    };
    let mut observers = [
        Observer::new(CountingMode::Gateway)?,
        Observer::new(CountingMode::Pods)?,
    ];
    run.serve_history(&mut observers);
    run.serve_release(&mut observers);
    Ok(observers.map(|observer| WorldResult {
        is_rolled_back: observer.is_rolled_back,
        claim: observer.claim,
    }))
}

struct ReleaseRun {
    world: World,
    service: Service,
    /// Requests and errors at the last start of each process.
    bases: BTreeMap<String, (u64, u64)>,
}

impl ReleaseRun {
    fn serve_history(&mut self, observers: &mut [Observer; 2]) {
        let mut history = self.scrape(-HISTORY_SECONDS, false);
        for from in (-HISTORY_SECONDS..0).step_by(SCRAPE_SECONDS as usize) {
            self.service.serve(from, 0.0, None);
            let is_overloaded = Service::is_overloaded(from);
            let scraped = self.scrape(from + i64::from(SCRAPE_SECONDS), is_overloaded);
            for (all, scraped) in history.iter_mut().zip(scraped) {
                all.extend(scraped);
            }
        }
        for (observer, history) in observers.iter_mut().zip(&history) {
            observer.learn(history);
        }
    }

    /// Scrapes the gateway and all pods.
    fn scrape(&mut self, at: i64, is_overloaded: bool) -> [Vec<Scraped>; 2] {
        [
            self.scrape_gateway(at, is_overloaded),
            self.scrape_pods(at, is_overloaded),
        ]
    }

    fn serve_release(&mut self, observers: &mut [Observer; 2]) {
        let steps = self.world.steps();
        let mut context = RoundContext {
            warm_up_ends_ms: BEGAN_MS,
            weight_changed_at_ms: BEGAN_MS,
            ..RoundContext::default()
        };
        let mut created_ms = BTreeMap::new();
        // The baseline of the counters that exist before the release.
        let mut pending = self.scrape(0, false);
        let mut weight = 0.0;
        for from in (0..RELEASE_SECONDS).step_by(SCRAPE_SECONDS as usize) {
            let step = steps.iter().find(|step| step.seconds == from);
            let mut changed_from = None;
            if let Some(step) = step {
                self.add_canary_pods(step.canary_pods, from, observers, &mut context);
                if from == 0 {
                    self.service.assign_clients(step.weight);
                } else {
                    changed_from = Some(weight);
                }
                weight = step.weight;
            }
            self.scale_stable(from);
            for pod in &self.service.pods {
                if pod.created_seconds >= 0 {
                    created_ms.insert(pod.name.clone(), at_ms(pod.created_seconds));
                }
            }
            let changed_at = self.service.serve(from, weight, changed_from);
            if let Some(at) = changed_at {
                #[expect(clippy::cast_possible_truncation, reason = "seconds of an hour")]
                let changed_ms = (at * 1000.0) as i64;
                context.weight_changed_at_ms = BEGAN_MS + changed_ms;
            }
            let (to, overloaded) = (
                from + i64::from(SCRAPE_SECONDS),
                Service::is_overloaded(from),
            );
            for (pending, scraped) in pending.iter_mut().zip(self.scrape(to, overloaded)) {
                pending.extend(scraped);
            }
            for (observer, scraped) in observers.iter_mut().zip(&mut pending) {
                observer.observe(scraped, &created_ms, at_ms(to), &context);
                scraped.clear();
            }
            if observers.iter().all(|observer| observer.is_rolled_back) {
                break;
            }
        }
    }

    /// Adds canary pods up to a number. The warm-up of each is known.
    fn add_canary_pods(
        &mut self,
        count: u16,
        from: i64,
        observers: &[Observer; 2],
        context: &mut RoundContext,
    ) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "configured seconds are at most 1e9"
        )]
        let warm_up_ms = (observers[0].objective.config().evidence.warm_up_seconds * 1000.0) as i64;
        while context.canary_pods.len() < usize::from(count) {
            self.service.add_pod(Arm::Canary, from);
            let Some(pod) = self.service.pods.last() else {
                return;
            };
            context.canary_pods.push(PodWarmUp {
                pod: PodId::from_name(&pod.name),
                started_ms: at_ms(from),
                ends_ms: at_ms(from) + warm_up_ms,
            });
        }
        if from == 0 {
            context.warm_up_ends_ms = at_ms(0) + warm_up_ms;
        }
    }

    fn scale_stable(&mut self, from: i64) {
        let stable = self
            .service
            .pods
            .iter()
            .filter(|pod| pod.arm == Arm::Stable);
        if matches!(self.world, World::StableScales)
            && from > 0
            && from % SCALE_EVERY_SECONDS == 0
            && stable.count() < MAX_STABLE_PODS
        {
            self.service.add_pod(Arm::Stable, from);
        }
    }

    /// Scrapes all pods.
    fn scrape_pods(&mut self, at: i64, is_overloaded: bool) -> Vec<Scraped> {
        let pods = self.service.pods.clone();
        let mut scraped = Vec::new();
        for pod in pods {
            if is_overloaded && self.is_missed(pod.arm) {
                continue;
            }
            let now = (pod.requests, pod.errors);
            let restarts = self.restarts();
            let base = self.base(&pod.name, now, restarts);
            scraped.push(Scraped {
                source: pod.name,
                arm: pod.arm,
                at_ms: at_ms(at),
                requests: now.0 - base.0,
                errors: now.1 - base.1,
            });
        }
        scraped
    }

    /// Scrapes the gateway, which counts for all pods of a variant.
    fn scrape_gateway(&mut self, at: i64, is_overloaded: bool) -> Vec<Scraped> {
        if is_overloaded && self.is_missed(Arm::Stable) {
            return Vec::new();
        }
        let restarts = self.restarts();
        [
            (Arm::Canary, "gateway, canary"),
            (Arm::Stable, "gateway, stable"),
        ]
        .map(|(arm, name)| {
            let pods = || self.service.pods.iter().filter(|pod| pod.arm == arm);
            let now = (
                pods().map(|pod| pod.requests).sum(),
                pods().map(|pod| pod.errors).sum(),
            );
            let base = self.base(name, now, restarts);
            Scraped {
                source: GATEWAY.to_owned(),
                arm,
                at_ms: at_ms(at),
                requests: now.0 - base.0,
                errors: now.1 - base.1,
            }
        })
        .to_vec()
    }

    fn is_missed(&mut self, arm: Arm) -> bool {
        let World::MissedScrapes { stable, canary } = self.world else {
            return false;
        };
        let chance = if arm == Arm::Canary { canary } else { stable };
        self.service.random().random::<f64>() < chance
    }

    /// Whether a process has restarted just before this scrape.
    fn restarts(&mut self) -> bool {
        matches!(self.world, World::CounterResets)
            && self.service.random().random::<f64>() < RESTART_CHANCE
    }

    /// The counts at the last start of a process, which its counters do not contain.
    fn base(&mut self, name: &str, now: (u64, u64), restarts: bool) -> (u64, u64) {
        let base = self.bases.entry(name.to_owned()).or_default();
        if restarts {
            *base = now;
        }
        *base
    }
}

fn at_ms(seconds: i64) -> i64 {
    BEGAN_MS + seconds * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rolled_back(world: World, requests_per_second: f64, runs: u64) -> [usize; 2] {
        let mut counts = [0; 2];
        for seed in 0..runs {
            let results = simulate(world, requests_per_second, seed).unwrap();
            for (count, result) in counts.iter_mut().zip(results) {
                *count += usize::from(result.is_rolled_back);
            }
        }
        counts
    }

    #[test]
    fn good_releases_with_independent_errors_are_not_rolled_back() {
        for world in [World::Plain, World::SharedBursts, World::CounterResets] {
            let [gateway, pods] = rolled_back(world, 100.0, 60);
            assert!(gateway <= 1 && pods <= 1, "{world:?}: {gateway}, {pods}");
        }
    }

    #[test]
    fn a_canary_on_a_bad_node_is_rolled_back_in_both_modes() {
        assert_eq!(rolled_back(World::CanaryOnBadNode, 100.0, 20), [20, 20]);
    }

    #[test]
    fn a_seed_reproduces_a_release() {
        let world = World::MissedScrapes {
            stable: 0.7,
            canary: 0.7,
        };
        assert_eq!(simulate(world, 50.0, 3), simulate(world, 50.0, 3));
    }
}
