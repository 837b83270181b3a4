//! What is claimed about false rollbacks of this release, and under which condition.
//!
//! The bound `1/alpha` is a theorem under assumptions on how requests reach the two arms. Which of
//! them stands depends on the release: whether pods are distinguished, what was learned of how errors
//! cluster, and whether that still holds.

use serde::{Deserialize, Serialize};

use crate::config::{EvidenceConfig, Temper};
use crate::evidence::Evidence;
use crate::format::{significant, thousands};
use crate::pods::pod_arrangement_limit;

/// The claim about false rollbacks of one release.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Claim {
    /// The bound holds if errors come one by one, as they do on stable's pods.
    PerRequest,
    /// The bound holds if errors cluster no more than the temper allows for.
    Clustered {
        /// The temper `k`.
        k: f64,
        /// How it is known.
        learned: TemperSource,
    },
    /// The source does not distinguish pods. The bound holds if the router assigns each request, or
    /// each burst within a block, by chance, to pods that are alike.
    Gateway {
        /// The temper `k`, learned from the course of stable's errors in time.
        k: f64,
    },
    /// Stable's pods differ among themselves, so that the evidence of any test is limited by the
    /// number of ways to choose the canary's pods.
    LimitedByPods {
        /// The number of ways.
        arrangements: f64,
        /// Pods of the canary.
        canary_pods: u32,
        /// Pods of stable.
        stable_pods: u32,
    },
    /// Clients or connections are assigned to a side. The bound holds if these are counted, not
    /// requests.
    PerUnit {
        /// What is assigned.
        unit: RoutedUnit,
    },
    /// No bound is claimed.
    NotClaimed {
        /// Why.
        reason: UnclaimedReason,
    },
}

/// What is assigned to a side as a whole, according to the Services and routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RoutedUnit {
    /// A request.
    #[default]
    Request,
    /// A client, by session affinity or persistence.
    Client,
    /// A connection, because there is no router.
    Connection,
}

impl RoutedUnit {
    /// The unit in the singular.
    const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Client => "client",
            Self::Connection => "connection",
        }
    }
}

/// Why no bound is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnclaimedReason {
    /// Errors cluster far more than before the release.
    ClusteringRose {
        /// The temper with which the release began.
        from: f64,
        /// The temper that the release shows.
        to: f64,
    },
    /// Clusters outlast a scrape, as if requests were assigned by client or connection. Where pods are
    /// distinguished, they are also larger than before the release.
    ClustersLast {
        /// The temper `k`.
        k: f64,
    },
}

/// How a temper is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TemperSource {
    /// It is configured.
    Configured,
    /// From the differences of stable's pods.
    StablePods,
}

/// Factor above the temper with which a release began, from which its assumption counts as broken.
const BROKEN_FACTOR: f64 = 2.0;
/// The same factor where clusters outlast a scrape. Then the temper is an estimate from few clusters,
/// and a smaller rise shows that the history does not describe the release.
const LASTING_FACTOR: f64 = 1.5;

/// What is claimed for a release with this evidence and a test of level `alpha`.
pub fn claim(evidence: &Evidence, config: &EvidenceConfig, alpha: f64) -> Claim {
    let k = evidence.k(config);
    if let Temper::Fixed(k) = config.temper {
        return if k > 1.0 {
            Claim::Clustered {
                k,
                learned: TemperSource::Configured,
            }
        } else {
            Claim::PerRequest
        };
    }
    let initial_k = evidence.initial_k().unwrap_or(k);
    if k > BROKEN_FACTOR * initial_k {
        let (from, to) = (initial_k, k);
        return Claim::NotClaimed {
            reason: UnclaimedReason::ClusteringRose { from, to },
        };
    }
    if !evidence.distinguishes_pods() {
        return if evidence.clusters_last() {
            Claim::NotClaimed {
                reason: UnclaimedReason::ClustersLast { k },
            }
        } else {
            Claim::Gateway { k }
        };
    }
    let dispersion = evidence.dispersion();
    let (canary_pods, stable_pods) = (evidence.canary_pods(), dispersion.latest_pods());
    let arrangements = pod_arrangement_limit(count(canary_pods), count(stable_pods));
    if dispersion.pods_differ() && canary_pods > 0 && arrangements < 1.0 / alpha {
        return Claim::LimitedByPods {
            arrangements,
            canary_pods,
            stable_pods,
        };
    }
    if evidence.clusters_last() && k > LASTING_FACTOR * initial_k {
        Claim::NotClaimed {
            reason: UnclaimedReason::ClustersLast { k },
        }
    } else if k > 1.0 {
        Claim::Clustered {
            k,
            learned: TemperSource::StablePods,
        }
    } else {
        Claim::PerRequest
    }
}

fn count(pods: u32) -> usize {
    usize::try_from(pods).unwrap_or(usize::MAX)
}

impl Claim {
    /// The claim if `unit` is assigned to a side. Without this knowledge, a claim takes for granted
    /// that each request is assigned. A claim that is weaker for another reason is kept.
    #[must_use]
    pub const fn for_unit(self, unit: RoutedUnit) -> Self {
        match (unit, self) {
            (RoutedUnit::Request, _)
            | (_, Self::LimitedByPods { .. } | Self::NotClaimed { .. }) => self,
            _ => Self::PerUnit { unit },
        }
    }

    /// Whether the assumption with which the release began is seen to be broken.
    pub fn is_broken(&self) -> bool {
        matches!(
            self,
            Self::NotClaimed {
                reason: UnclaimedReason::ClusteringRose { .. }
            }
        )
    }

    /// The sentence for operators about evidence of strength `threshold`, such as `1/alpha`: the
    /// frequency together with its condition. `what` is what the evidence does to a good release,
    /// such as "Evidence this strong rolls back a good release".
    pub fn sentence(&self, what: &str, threshold: f64) -> String {
        let one_in = format!("at most 1 time in {}", thousands(threshold.round()));
        match self {
            Self::PerRequest => {
                format!("{what} {one_in}, if requests fail independently of each other.")
            }
            Self::Clustered {
                k,
                learned: TemperSource::Configured,
            } => format!(
                "{what} {one_in}, if errors cluster no more than k = {} allows for.",
                significant(*k)
            ),
            Self::Clustered {
                k,
                learned: TemperSource::StablePods,
            } => format!(
                "{what} {one_in}, if errors cluster no more than on stable's pods so far (k = {}, \
                 estimated).",
                significant(*k)
            ),
            Self::Gateway { k } => format!(
                "{what} {one_in}, if each request is routed by chance to pods that are alike, and \
                 errors cluster no more than stable's so far (k = {}, estimated). The metrics do not \
                 distinguish pods, so neither clients that stick to one side nor pods that differ \
                 are seen.",
                significant(*k)
            ),
            Self::PerUnit { unit } => format!(
                "{what} {one_in} only if the counters count {0}s and not their requests: each {0} is \
                 assigned to a side as a whole, so that all of its errors are one observation. For \
                 counted requests no bound is claimed.",
                unit.name()
            ),
            Self::LimitedByPods {
                arrangements,
                canary_pods,
                stable_pods,
            } => format!(
                "Stable's pods differ from each other. If the canary's pods differ in the same way, \
                 the choice of {canary_pods} of {} pods makes no evidence stronger than {} to 1, so \
                 no bound of 1 in {} is claimed.",
                canary_pods.saturating_add(*stable_pods),
                thousands(*arrangements),
                thousands(threshold.round())
            ),
            Self::NotClaimed {
                reason: UnclaimedReason::ClustersLast { k },
            } => format!(
                "No bound on false rollbacks is claimed: errors cluster for longer than a scrape (k = \
                 {}), as if requests were assigned by client or connection. The evidence allows for \
                 it, but only by an estimate.",
                significant(*k)
            ),
            Self::NotClaimed {
                reason: UnclaimedReason::ClusteringRose { from, to },
            } => format!(
                "No bound on false rollbacks is claimed: errors cluster more than before the release \
                 (k rose from {} to {}).",
                significant(*from),
                significant(*to)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Counts, PodCounts, Tick};
    use crate::evidence::{Bets, TickContext};

    const ALPHA: f64 = 0.01;

    fn pods(errors: &[f64]) -> Vec<PodCounts> {
        let pod = |errors: &f64| PodCounts {
            requests: 500.0,
            errors: *errors,
            ..PodCounts::default()
        };
        errors.iter().map(pod).collect()
    }

    fn tick(index: i64, stable: &[f64], canary: &[f64]) -> Tick {
        Tick {
            started_ms: index * 15_000,
            at_ms: (index + 1) * 15_000,
            counts: Counts::new(100.0, canary.iter().sum(), 2_000.0, stable.iter().sum()),
            stable_pods: pods(stable),
            canary_pods: pods(canary),
            ..Tick::default()
        }
    }

    /// The claim after a history and a release with these errors of stable's pods in each scrape.
    fn claim_after(
        history: impl Fn(i64) -> Vec<f64>,
        release: impl Fn(i64) -> Vec<f64>,
        canary: &[f64],
    ) -> Claim {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let ticks: Vec<_> = (0..240)
            .map(|index| tick(index, &history(index), &[]))
            .collect();
        evidence.learn_dispersion(&ticks);
        for index in 0..64 {
            let tick = tick(index, &release(index), canary);
            evidence.add(&bets, &tick, &TickContext::default());
        }
        claim(&evidence, bets.config(), ALPHA)
    }

    fn rotating(size: f64) -> impl Fn(i64) -> Vec<f64> {
        move |index| {
            (0..4)
                .map(|pod| if index % 4 == pod { size } else { 0.0 })
                .collect()
        }
    }

    #[test]
    fn independent_errors_support_the_bound_per_request() {
        let claim = claim_after(rotating(1.0), rotating(1.0), &[0.0]);
        assert_eq!(claim, Claim::PerRequest);
        assert_eq!(
            claim.sentence("Evidence this strong rolls back a good release", 100.0),
            "Evidence this strong rolls back a good release at most 1 time in 100, if requests fail \
             independently of each other."
        );
    }

    #[test]
    fn clusters_before_the_release_are_part_of_the_condition() {
        let claim = claim_after(rotating(8.0), rotating(8.0), &[0.0]);
        let Claim::Clustered { k, learned } = claim else {
            panic!("{claim:?}");
        };
        assert!((k - 8.0).abs() < 0.2 && learned == TemperSource::StablePods);
        assert!(
            claim
                .sentence("It", 100.0)
                .contains("at most 1 time in 100, if errors cluster")
        );
    }

    #[test]
    fn clusters_that_begin_during_the_release_withdraw_the_claim() {
        let claim = claim_after(rotating(1.0), rotating(40.0), &[0.0]);
        assert!(claim.is_broken(), "{claim:?}");
        let sentence = claim.sentence("It", 100.0);
        assert!(sentence.starts_with("No bound on false rollbacks is claimed"));
        assert!(!sentence.contains("at most"));
    }

    /// `errors` in each scrape, on the same pod for four minutes.
    fn lasting(errors: f64) -> impl Fn(i64) -> Vec<f64> {
        move |index| {
            let pod = (index / 16 * 7 + index / 64) % 4;
            (0..4)
                .map(|number| if number == pod { errors } else { 0.0 })
                .collect()
        }
    }

    #[test]
    fn clusters_that_outlast_a_scrape_are_part_of_the_condition_if_the_history_has_them() {
        let claim = claim_after(lasting(1.0), lasting(1.0), &[0.0]);
        assert!(
            matches!(claim, Claim::Clustered { k, .. } if k > 10.0),
            "{claim:?}"
        );
        assert!(claim.sentence("It", 100.0).contains("at most"));
    }

    #[test]
    fn clusters_that_outlast_a_scrape_and_grow_support_no_claim() {
        let claim = claim_after(lasting(1.0), lasting(2.5), &[0.0]);
        let is_expected = matches!(
            claim,
            Claim::NotClaimed {
                reason: UnclaimedReason::ClustersLast { .. }
            }
        );
        assert!(is_expected && !claim.is_broken(), "{claim:?}");
        assert!(!claim.sentence("It", 100.0).contains("at most"));
    }

    /// The claim at a gateway that is routed in units of `size` requests.
    fn gateway_claim(size: f64) -> Claim {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        for index in 0..60_i64 {
            // Four of twenty units on average.
            let canary = [3.0, 5.0, 4.0, 2.0, 6.0][usize::try_from(index * 7 % 5).unwrap()] * size;
            let errors = f64::from(u8::from(index % 5 == 0));
            let tick = Tick {
                started_ms: index * 15_000,
                at_ms: (index + 1) * 15_000,
                counts: Counts::new(canary, errors, 20.0 * size - canary, 4.0),
                ..Tick::default()
            };
            evidence.add(&bets, &tick, &TickContext::default());
        }
        claim(&evidence, bets.config(), ALPHA)
    }

    #[test]
    fn a_gateway_that_assigns_clients_is_seen_in_its_requests_and_supports_no_claim() {
        assert!(matches!(gateway_claim(1.0), Claim::Gateway { .. }));
        assert!(matches!(gateway_claim(50.0), Claim::NotClaimed { .. }));
    }

    #[test]
    fn pods_that_differ_limit_the_claim_by_their_arrangements() {
        let one_bad = |_| vec![2.0, 0.0, 0.0, 0.0];
        let claim = claim_after(one_bad, one_bad, &[0.0]);
        assert_eq!(
            claim,
            Claim::LimitedByPods {
                arrangements: 5.0,
                canary_pods: 1,
                stable_pods: 4
            }
        );
        assert!(claim.sentence("It", 100.0).contains("5 to 1"));
    }

    #[test]
    fn a_source_without_pods_says_so() {
        let bets = Bets::new(EvidenceConfig::default()).unwrap();
        let mut evidence = Evidence::new(&bets, 0);
        let claim = claim(&evidence, bets.config(), ALPHA);
        assert_eq!(claim, Claim::Gateway { k: 1.0 });
        assert!(
            claim
                .sentence("It", 100.0)
                .contains("do not distinguish pods")
        );
        evidence.add(&bets, &tick(0, &[1.0, 0.0], &[]), &TickContext::default());
        assert!(evidence.distinguishes_pods());
    }

    #[test]
    fn a_bound_for_requests_becomes_one_for_the_unit_that_is_assigned() {
        let bound = Claim::PerRequest;
        assert_eq!(bound.for_unit(RoutedUnit::Request), bound);
        for (unit, counted) in [
            (RoutedUnit::Client, "count clients"),
            (RoutedUnit::Connection, "count connections"),
        ] {
            for bound in [bound, Claim::Gateway { k: 1.0 }] {
                let claim = bound.for_unit(unit);
                assert_eq!(claim, Claim::PerUnit { unit });
                let sentence = claim.sentence("It", 100.0);
                assert!(sentence.contains(counted), "{sentence}");
                assert!(sentence.contains("For counted requests no bound is claimed"));
            }
        }
    }

    #[test]
    fn a_weaker_claim_is_not_replaced_by_the_unit() {
        let differing = Claim::LimitedByPods {
            arrangements: 5.0,
            canary_pods: 1,
            stable_pods: 4,
        };
        let rose = Claim::NotClaimed {
            reason: UnclaimedReason::ClusteringRose { from: 1.0, to: 9.0 },
        };
        for weaker in [differing, rose] {
            assert_eq!(weaker.for_unit(RoutedUnit::Client), weaker);
        }
    }

    #[test]
    fn a_configured_temper_is_the_condition() {
        let config = EvidenceConfig {
            temper: Temper::Fixed(4.0),
            ..EvidenceConfig::default()
        };
        let bets = Bets::new(config).unwrap();
        let claim = claim(&Evidence::new(&bets, 0), bets.config(), ALPHA);
        assert!(
            claim
                .sentence("It", 100.0)
                .ends_with("than k = 4 allows for.")
        );
    }
}
