//! The simulated service: its pods, their requests and their errors.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution, Exp1, Geometric, LogNormal, Poisson};
use serin_analysis::Arm;

use super::{ClusterSize, World};
use crate::scenario::{round_to_u64, to_f64};

/// Duration of the extra errors of a new pod.
const YOUNG_SECONDS: f64 = 60.0;
const YOUNG_ERRORS: f64 = 0.03;
const BAD_NODE_TIMES: f64 = 10.0;
/// Errors of both variants while something that they share fails.
const SHARED_ERRORS: f64 = 0.5;
const OVERLOAD_TIMES: f64 = 10.0;
/// Every period begins with a burst, or with a minute of overload.
const PERIOD_SECONDS: f64 = 300.0;
const BURST_SECONDS: f64 = 10.0;
const OVERLOAD_SECONDS: f64 = 60.0;
/// Start and end of the outage of the dependency.
const OUTAGE: (f64, f64) = (600.0, 900.0);
/// Duration of the errors after a weight change.
const RELOAD_SECONDS: f64 = 2.0;
/// One client in this many causes errors.
const CLIENTS_PER_BROKEN: u16 = 20;
const PARETO_EXPONENT: f64 = 1.2;
const PARETO_MAX: f64 = 500.0;
/// Mean of the sizes `floor(min(500, U^(-1/1.2)))`: the sum of `k^-1.2` for k from 1 to 500.
const PARETO_MEAN: f64 = 4.149;

/// One pod with its counters since its start.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) arm: Arm,
    /// Seconds since the start of the release.
    pub(super) created_seconds: i64,
    times: f64,
    pub(super) requests: u64,
    pub(super) errors: u64,
}

/// One client of a service with session affinity.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// Its share of all requests.
    share: f64,
    /// Its share of all errors.
    error_share: f64,
    pod: usize,
}

/// A part of a scrape interval with one weight.
#[derive(Debug, Clone, Copy)]
struct Segment {
    from_seconds: f64,
    seconds: f64,
    weight: f64,
    reload_errors: f64,
}

/// The service during one hour before a release and the release.
#[derive(Debug)]
pub(super) struct Service {
    world: World,
    random: SmallRng,
    requests_per_second: f64,
    stable_rate: f64,
    scrape_seconds: i64,
    pub(super) pods: Vec<Pod>,
    clients: Vec<Client>,
    /// Errors of clusters in later scrapes, by the number of the scrape.
    pending: BTreeMap<i64, Vec<(usize, u64)>>,
}

impl Service {
    pub(super) fn new(
        world: World,
        (requests_per_second, stable_rate): (f64, f64),
        scrape_seconds: u32,
        seed: u64,
    ) -> Self {
        let mut service = Self {
            world,
            random: SmallRng::seed_from_u64(seed),
            requests_per_second,
            stable_rate,
            scrape_seconds: i64::from(scrape_seconds),
            pods: Vec::new(),
            clients: Vec::new(),
            pending: BTreeMap::new(),
        };
        for _ in 0..world.stable_pods() {
            service.add_pod(Arm::Stable, i64::MIN / 2);
        }
        if matches!(world, World::BadStablePod) {
            service.pods[0].times = BAD_NODE_TIMES;
        }
        if let World::SessionAffinity { clients } = world {
            service.add_clients(clients);
        }
        service
    }

    pub(super) fn random(&mut self) -> &mut SmallRng {
        &mut self.random
    }

    /// Starts a pod.
    pub(super) fn add_pod(&mut self, arm: Arm, created_seconds: i64) {
        let times = match self.world {
            // The mean of the factors is 1.
            World::PodsDiffer { sigma, .. } => LogNormal::new(-sigma * sigma / 2.0, sigma)
                .map_or(1.0, |factor| factor.sample(&mut self.random)),
            World::CanaryOnBadNode if arm == Arm::Canary => BAD_NODE_TIMES,
            _ => 1.0,
        };
        let prefix = if arm == Arm::Canary {
            "canary"
        } else {
            "stable"
        };
        self.pods.push(Pod {
            name: format!("{prefix}-{}", self.pods.len()),
            arm,
            created_seconds,
            times,
            requests: 0,
            errors: 0,
        });
    }

    fn add_clients(&mut self, clients: u16) {
        let stable_pods = usize::from(self.world.stable_pods());
        let broken = (clients / CLIENTS_PER_BROKEN).max(1);
        let shares: Vec<f64> = (0..clients).map(|_| self.random.sample(Exp1)).collect();
        let all: f64 = shares.iter().sum();
        let of_broken: f64 = shares.iter().take(usize::from(broken)).sum();
        self.clients = (0..broken)
            .map(|_| 1.0 / of_broken)
            .chain(std::iter::repeat(0.0))
            .zip(shares)
            .map(|(error_factor, share)| Client {
                share: share / all,
                error_share: share * error_factor,
                pod: self.random.random_range(0..stable_pods),
            })
            .collect();
    }

    /// Assigns this share of the clients to the canary for the complete release.
    pub(super) fn assign_clients(&mut self, weight: f64) {
        let canary = self.pods.iter().position(|pod| pod.arm == Arm::Canary);
        let Some(canary) = canary else { return };
        for client in &mut self.clients {
            if self.random.random::<f64>() < weight {
                client.pod = canary;
            }
        }
    }

    /// Serves the scrape that starts at `from_seconds` with this weight. `changed_from` is the
    /// weight before, if it changes in this scrape. Returns the second of the change.
    pub(super) fn serve(
        &mut self,
        from_seconds: i64,
        weight: f64,
        changed_from: Option<f64>,
    ) -> Option<f64> {
        let (started, length) = (seconds(from_seconds), seconds(self.scrape_seconds));
        let segment = |from: f64, to: f64, weight, reload_errors| Segment {
            from_seconds: started + from,
            seconds: to - from,
            weight,
            reload_errors,
        };
        let (World::RouteReload { error_fraction }, Some(before)) = (self.world, changed_from)
        else {
            self.serve_segment(segment(0.0, length, weight, 0.0), from_seconds);
            return changed_from.map(|_| started);
        };
        let at = self.random.random::<f64>() * (length - RELOAD_SECONDS).max(0.0);
        let until = (at + RELOAD_SECONDS).min(length);
        for part in [
            segment(0.0, at, before, 0.0),
            segment(at, until, weight, error_fraction),
            segment(until, length, weight, 0.0),
        ] {
            self.serve_segment(part, from_seconds);
        }
        Some(started + at)
    }

    fn serve_segment(&mut self, segment: Segment, from_seconds: i64) {
        let pods = self.pods.len();
        let mut requests = vec![0; pods];
        if self.clients.is_empty() {
            let total = round_to_u64(self.requests_per_second * segment.seconds);
            let canary = self.binomial(total, segment.weight);
            self.spread(Arm::Canary, canary, &mut requests);
            self.spread(Arm::Stable, total - canary, &mut requests);
        } else {
            let mut shares = vec![0.0; pods];
            for client in &self.clients {
                shares[client.pod] += client.share;
            }
            for (requests, share) in requests.iter_mut().zip(shares) {
                *requests = self.poisson(self.requests_per_second * segment.seconds * share);
            }
        }
        let errors = match self.world {
            World::LastingClusters { mean, seconds } => {
                self.start_clusters(&segment, (mean, seconds));
                self.due(from_seconds, pods)
            }
            World::SessionAffinity { .. } => self.client_errors(&segment, pods),
            World::ErrorClusters(size) => requests
                .iter()
                .map(|requests| self.clustered(*requests, size))
                .collect(),
            _ => (0..pods)
                .map(|pod| {
                    let p = self.error_rate(pod, &segment);
                    self.binomial(requests[pod], p)
                })
                .collect(),
        };
        for ((pod, requests), errors) in self.pods.iter_mut().zip(requests).zip(errors) {
            pod.requests += requests;
            pod.errors += errors.min(requests);
        }
    }

    /// The probability that a request to a pod fails.
    fn error_rate(&self, pod: usize, segment: &Segment) -> f64 {
        let Pod {
            arm,
            created_seconds,
            times,
            ..
        } = self.pods[pod];
        let at = segment.from_seconds;
        let is_canary = arm == Arm::Canary;
        let age = at - seconds(created_seconds);
        let p = self.stable_rate * times;
        let in_period = |length: f64| at.rem_euclid(PERIOD_SECONDS) < length;
        let p = match self.world {
            World::SharedBursts if in_period(BURST_SECONDS) => {
                // A burst ends within the scrape in which it starts.
                p + SHARED_ERRORS * (BURST_SECONDS / segment.seconds).min(1.0)
            }
            World::DependencyOutage if (OUTAGE.0..OUTAGE.1).contains(&at) => p + SHARED_ERRORS,
            World::MissedScrapes { .. } if in_period(OVERLOAD_SECONDS) => p * OVERLOAD_TIMES,
            World::ScaleUpWarmUp | World::StableScales if age < YOUNG_SECONDS => p + YOUNG_ERRORS,
            World::ColdCachePlus if is_canary => p + 0.02 * (-at / 100.0).exp(),
            World::ColdCacheTimes if is_canary => p * (1.0 + 19.0 * (-at / 120.0).exp()),
            World::WorseUsers { times } if is_canary => p * times,
            _ => p,
        };
        p + segment.reload_errors
    }

    /// Whether scrapes may be missed in the scrape that starts then.
    pub(super) fn is_overloaded(from_seconds: i64) -> bool {
        seconds(from_seconds).rem_euclid(PERIOD_SECONDS) < OVERLOAD_SECONDS
    }

    /// Spreads requests evenly over the pods of an arm.
    fn spread(&mut self, arm: Arm, requests: u64, per_pod: &mut [u64]) {
        let of_arm: Vec<usize> = (0..self.pods.len())
            .filter(|pod| self.pods[*pod].arm == arm)
            .collect();
        let mut left = requests;
        for (index, pod) in of_arm.iter().enumerate() {
            let pods_left = to_f64((of_arm.len() - index) as u64);
            let requests = self.binomial(left, 1.0 / pods_left);
            per_pod[*pod] = requests;
            left -= requests;
        }
    }

    /// A random pod of the canary with this probability, otherwise one of stable.
    fn random_pod(&mut self, weight: f64) -> usize {
        let arm = if self.random.random::<f64>() < weight {
            Arm::Canary
        } else {
            Arm::Stable
        };
        let of_arm: Vec<usize> = (0..self.pods.len())
            .filter(|pod| self.pods[*pod].arm == arm)
            .collect();
        let index = self.random.random_range(0..of_arm.len().max(1));
        of_arm.get(index).copied().unwrap_or(0)
    }

    fn start_clusters(&mut self, segment: &Segment, (mean, span): (f64, u16)) {
        let errors = self.stable_rate * self.requests_per_second * segment.seconds;
        for _ in 0..self.poisson(errors / mean) {
            let pod = self.random_pod(segment.weight);
            let starts = segment.from_seconds + self.random.random::<f64>() * segment.seconds;
            for _ in 0..self.cluster_size(ClusterSize::Geometric(mean)) {
                let at = starts + self.random.random::<f64>() * f64::from(span);
                #[expect(clippy::cast_possible_truncation, reason = "seconds of two hours")]
                let scrape = (at / seconds(self.scrape_seconds)).floor() as i64;
                self.pending.entry(scrape).or_default().push((pod, 1));
            }
        }
    }

    /// The errors of clusters that are due in the scrape that starts then.
    fn due(&mut self, from_seconds: i64, pods: usize) -> Vec<u64> {
        let scrape = from_seconds.div_euclid(self.scrape_seconds);
        let mut errors = vec![0; pods];
        for (pod, count) in self.pending.remove(&scrape).unwrap_or_default() {
            errors[pod] += count;
        }
        errors
    }

    fn client_errors(&mut self, segment: &Segment, pods: usize) -> Vec<u64> {
        let all = self.stable_rate * self.requests_per_second * segment.seconds;
        let mut expected = vec![0.0; pods];
        for client in &self.clients {
            expected[client.pod] += all * client.error_share;
        }
        expected.iter().map(|mean| self.poisson(*mean)).collect()
    }

    fn clustered(&mut self, requests: u64, size: ClusterSize) -> u64 {
        let mean = match size {
            ClusterSize::Geometric(mean) => mean,
            ClusterSize::Pareto => PARETO_MEAN,
        };
        let clusters = self.binomial(requests, self.stable_rate / mean);
        (0..clusters).map(|_| self.cluster_size(size)).sum()
    }

    fn cluster_size(&mut self, size: ClusterSize) -> u64 {
        match size {
            ClusterSize::Geometric(mean) => {
                Geometric::new(1.0 / mean).map_or(1, |more| 1 + more.sample(&mut self.random))
            }
            ClusterSize::Pareto => {
                let uniform: f64 = 1.0 - self.random.random::<f64>();
                round_to_u64(uniform.powf(-1.0 / PARETO_EXPONENT).min(PARETO_MAX).floor())
            }
        }
    }

    fn binomial(&mut self, trials: u64, p: f64) -> u64 {
        Binomial::new(trials, p.clamp(0.0, 1.0))
            .map_or(0, |binomial| binomial.sample(&mut self.random))
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        Poisson::new(mean).map_or(0, |poisson| {
            let count: f64 = poisson.sample(&mut self.random);
            round_to_u64(count)
        })
    }
}

/// Converts seconds of a simulation. Pods from long before are infinitely old.
fn seconds(value: i64) -> f64 {
    crate::scenario::seconds(value.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error rates of both arms over many releases of an hour.
    fn rates(world: World) -> (f64, f64) {
        let mut counts = [[0, 0]; 2];
        for seed in 0..40 {
            let mut service = Service::new(world, (200.0, 5e-4), 15, seed);
            for from in (-3600..0).step_by(15) {
                service.serve(from, 0.0, None);
            }
            service.add_pod(Arm::Canary, 0);
            service.assign_clients(0.2);
            for pod in &mut service.pods {
                (pod.requests, pod.errors) = (0, 0);
            }
            for from in (0..3600).step_by(15) {
                service.serve(from, 0.2, None);
            }
            for pod in &service.pods {
                let arm = usize::from(pod.arm == Arm::Stable);
                counts[arm][0] += pod.requests;
                counts[arm][1] += pod.errors;
            }
        }
        let rate = |[requests, errors]: [u64; 2]| to_f64(errors) / to_f64(requests);
        (rate(counts[0]), rate(counts[1]))
    }

    #[test]
    fn clusters_keep_the_error_rate_of_both_arms() {
        for world in [
            World::Plain,
            World::ErrorClusters(ClusterSize::Geometric(4.0)),
            World::LastingClusters {
                mean: 7.0,
                seconds: 120,
            },
        ] {
            let (canary, stable) = rates(world);
            assert!((canary / 5e-4 - 1.0).abs() < 0.15, "{world:?}: {canary}");
            assert!((stable / 5e-4 - 1.0).abs() < 0.1, "{world:?}: {stable}");
        }
    }

    #[test]
    fn worse_users_and_a_bad_node_raise_only_the_canary() {
        let (canary, stable) = rates(World::WorseUsers { times: 2.0 });
        assert!((canary / stable - 2.0).abs() < 0.2, "{canary} {stable}");
        let (canary, stable) = rates(World::CanaryOnBadNode);
        assert!((canary / stable - 10.0).abs() < 1.0, "{canary} {stable}");
    }

    #[test]
    fn the_mean_of_the_pareto_sizes_is_the_constant() {
        let mut service = Service::new(World::Plain, (1.0, 1e-3), 15, 3);
        let sizes = (0..4_000_000).map(|_| service.cluster_size(ClusterSize::Pareto));
        let mean = to_f64(sizes.sum()) / 4e6;
        assert!((mean / PARETO_MEAN - 1.0).abs() < 0.03, "{mean}");
    }
}
