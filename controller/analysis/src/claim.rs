//! What is claimed about false rollbacks of this release, and under which condition.
//!
//! The bound `1/alpha` is a theorem under assumptions on how requests reach the two arms. Which of
//! them stands depends on the release: whether pods are distinguished, what was learned of how errors
//! cluster, and whether that still holds.

use serde::{Deserialize, Serialize};

use crate::config::{Calibration, EvidenceConfig, Temper};
use crate::evidence::Evidence;
use crate::format::{significant, thousands};
use crate::placebo::PlaceboSummary;
use crate::pods::pod_arrangement_limit;

/// The claim about false rollbacks of one release.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Claim {
    /// The bound holds if errors come one by one, as they do on stable's pods.
    PerRequest,
    /// Clients or connections are assigned to a side, and counted. The bound holds if they fail
    /// independently of each other.
    PerCountedUnit {
        /// What is assigned and counted.
        unit: RoutedUnit,
    },
    /// The bound holds if errors come one by one. Stable had too few errors before the release to show
    /// whether they do.
    Unlearned {
        /// Number of stable's errors before the release.
        errors: f64,
        /// What is counted, and assigned to a side as a whole.
        #[serde(default)]
        unit: RoutedUnit,
    },
    /// The evidence is calibrated with placebo releases. The bound holds if the hour of the release is
    /// like theirs.
    Calibrated {
        /// The temper of the calibration.
        temper: f64,
        /// Number of placebo hours.
        hours: u32,
        /// The bound that was calibrated: `1/alpha`.
        one_in: f64,
    },
    /// The bound holds if errors cluster no more than the temper allows for.
    Clustered {
        /// The temper `k`, without its margin.
        k: f64,
        /// How it is known.
        learned: TemperSource,
    },
    /// The source does not distinguish pods. The bound holds if the router assigns each request, or
    /// each burst within a block, by chance, to pods that are alike.
    Gateway {
        /// The temper `k`, learned from the course of stable's errors in time.
        k: f64,
        /// What is counted, and assigned to a side as a whole.
        #[serde(default)]
        unit: RoutedUnit,
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
    /// All of the traffic at once, by a blue/green switch.
    AllTraffic,
    /// A request by chance, except for those that a rule chooses for the canary or copies to it.
    ChosenRequests,
}

impl RoutedUnit {
    /// The unit in the singular.
    const fn name(self) -> &'static str {
        match self {
            Self::Request | Self::ChosenRequests => "request",
            Self::Client => "client",
            Self::Connection => "connection",
            Self::AllTraffic => "switch",
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
    /// Stable's own pods would have been rolled back before the release, so often that the bound
    /// cannot hold.
    PlaceboRolledBack {
        /// Hours in which at least one pod would have been.
        hours_with_rollback: u32,
        /// All hours.
        hours: u32,
    },
    /// Pods are not distinguished, and requests or clusters of errors reach the sides as if clients or
    /// connections were assigned.
    ClustersLast {
        /// The temper `k`.
        k: f64,
    },
    /// All of the traffic moves at once, so that the two revisions are never compared.
    NoComparison,
    /// A rule of the release chooses requests for the canary, or copies them to it, while the sides
    /// are compared. They are not a random sample.
    ChosenRequests,
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

/// Factor above the temper with which a release began, from which its assumption counts as broken:
/// the margin of the temper is used up.
const BROKEN_FACTOR: f64 = 2.0;
/// Stable's errors before a release from which it can be seen whether errors cluster. Fewer may be a
/// single cluster, or miss all of them.
const MIN_ERRORS: f64 = 10.0;

/// What is claimed for a release with this evidence and a test of level `alpha`.
pub fn claim(evidence: &Evidence, config: &EvidenceConfig, alpha: f64) -> Claim {
    if let Some(placebo) = evidence.placebo().filter(|placebo| placebo.refutes_bound) {
        let PlaceboSummary {
            hours_with_rollback,
            hours,
            ..
        } = placebo;
        return Claim::NotClaimed {
            reason: UnclaimedReason::PlaceboRolledBack {
                hours_with_rollback,
                hours,
            },
        };
    }
    if let Some(Calibration { temper, hours }) = config.calibration {
        return Claim::Calibrated {
            temper,
            hours,
            one_in: 1.0 / alpha,
        };
    }
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
            Claim::Gateway {
                k,
                unit: RoutedUnit::Request,
            }
        };
    }
    let dispersion = evidence.dispersion();
    let (canary_pods, stable_pods) = (evidence.canary_pods(), evidence.compared_stable_pods());
    let arrangements = pod_arrangement_limit(count(canary_pods), count(stable_pods));
    if dispersion.pods_differ() && canary_pods > 0 && arrangements < 1.0 / alpha {
        return Claim::LimitedByPods {
            arrangements,
            canary_pods,
            stable_pods,
        };
    }
    if evidence.errors_before() < MIN_ERRORS {
        Claim::Unlearned {
            errors: evidence.errors_before(),
            unit: RoutedUnit::Request,
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
    /// The claim if `unit` is assigned to a side, and the counters count `counted`. Without this
    /// knowledge, a claim takes for granted that each request is assigned and counted. A claim that
    /// is weaker for another reason is kept.
    #[must_use]
    pub fn for_unit(self, unit: RoutedUnit, counted: RoutedUnit) -> Self {
        match (unit, self) {
            (RoutedUnit::AllTraffic, _) => Self::NotClaimed {
                reason: UnclaimedReason::NoComparison,
            },
            (RoutedUnit::ChosenRequests, _) => Self::NotClaimed {
                reason: UnclaimedReason::ChosenRequests,
            },
            // What is assigned in the placebo hours is assigned in the release.
            (RoutedUnit::Request, _)
            | (_, Self::Calibrated { .. } | Self::LimitedByPods { .. } | Self::NotClaimed { .. }) => {
                self
            }
            (_, Self::PerRequest) if unit == counted => Self::PerCountedUnit { unit },
            (_, Self::Gateway { k, .. }) if unit == counted => Self::Gateway { k, unit },
            (_, Self::Unlearned { errors, .. }) if unit == counted => {
                Self::Unlearned { errors, unit }
            }
            _ if unit == counted => self,
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
            Self::Calibrated {
                temper,
                hours,
                one_in: calibrated,
            } if (threshold - calibrated).abs() < 0.5 => format!(
                "{what} {one_in} within an hour, if this hour is like the {hours} placebo hours with \
                 which the evidence was calibrated (temper {}).",
                significant(*temper)
            ),
            Self::PerRequest | Self::Calibrated { .. } => {
                format!("{what} {one_in}, if requests fail independently of each other.")
            }
            Self::Unlearned { errors, unit } => format!(
                "{what} {one_in}, if {}s fail independently of each other. Stable failed only {} times \
                 before the release, too few to show whether they do.",
                unit.name(),
                thousands(errors.round())
            ),
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
            Self::PerCountedUnit { unit } => format!(
                "{what} {one_in}, if {}s fail independently of each other. They are assigned to a \
                 side as a whole, and the counters count them.",
                unit.name()
            ),
            Self::Gateway {
                k,
                unit: RoutedUnit::Request,
            } => format!(
                "{what} {one_in}, if each request is routed by chance to pods that are alike, and \
                 errors cluster no more than stable's so far (k = {}, estimated). The metrics do not \
                 distinguish pods, so neither clients that stick to one side nor pods that differ \
                 are seen.",
                significant(*k)
            ),
            Self::Gateway { k, unit } => format!(
                "{what} {one_in}, if each {} is routed by chance to pods that are alike, and errors \
                 cluster no more than stable's so far (k = {}, estimated). The metrics do not distinguish \
                 pods, so pods that differ are not seen.",
                unit.name(),
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
            Self::NotClaimed { reason } => reason.sentence(),
        }
    }
}

impl UnclaimedReason {
    /// The sentence for operators.
    fn sentence(&self) -> String {
        match self {
            Self::PlaceboRolledBack {
                hours_with_rollback,
                hours,
            } => format!(
                "No bound on false rollbacks is claimed: in {hours_with_rollback} of the {hours} hours \
                 before the release, the rule would have rolled back stable's own pods."
            ),
            Self::ClustersLast { k } => format!(
                "No bound on false rollbacks is claimed: errors cluster for longer than a scrape (k = \
                 {}), as if requests were assigned by client or connection. The evidence allows for \
                 it, but only by an estimate.",
                significant(*k)
            ),
            Self::ChosenRequests => {
                "No bound on false rollbacks is claimed: a rule of the release sends chosen requests to \
                 the canary, or copies of them, while the two sides are compared. They are not a \
                 random sample of all requests."
                    .to_owned()
            }
            Self::NoComparison => {
                "No bound on false rollbacks is claimed: all of the traffic moves at \
                                   once, so the two revisions are never compared. The new one is \
                                   compared with the past of the service, which is a heuristic."
                    .to_owned()
            }
            Self::ClusteringRose { from, to } => format!(
                "No bound on false rollbacks is claimed: errors cluster more than before the release \
                 (k rose from {} to {}).",
                significant(*from),
                significant(*to)
            ),
        }
    }
}

#[cfg(test)]
mod tests;
