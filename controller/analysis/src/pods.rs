//! Pods that differ: which pod the canary's excess errors come from, and how much evidence an
//! arrangement of pods can give.
//!
//! One bad node makes one pod fail. If one of several canary pods carries the excess, the release
//! is not rolled back for it: the pod is *excluded*. From then on its requests are not evidence,
//! but its errors are still charged to the error budget, and the evidence starts again with the
//! others.
//!
//! This does not raise the rate of false rollbacks. A pod is excluded only once the evidence has
//! passed `1/alpha`, which for a good release happens with probability at most `alpha`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::budget::SpentBudget;
use crate::counts::{Counts, PodCounts, Tick};

/// Maximum number of pods of each arm that are counted by name. The others are added up.
const MAX_PODS: usize = 16;
/// Maximum number of pods that a release may exclude. With more bad pods it is the release.
const MAX_EXCLUDED: usize = 3;
/// Minimum share of the arm's excess errors that one pod must have to be an outlier.
const OUTLIER_SHARE: f64 = 0.8;
/// Maximum probability that the errors of equal pods look like those of an outlier. The price of
/// that mistake is a bounded delay of the rollback.
const OUTLIER_ALPHA: f64 = 0.05;

/// Requests and errors of one pod since the release began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PodTally {
    /// Identity of the pod, [`crate::PodId::or_position`]. 0 for the pods that are added up.
    #[serde(with = "hexadecimal")]
    pod: u64,
    requests: f64,
    errors: f64,
    /// Errors expected at stable's rate in the same ticks.
    expected: f64,
}

/// JSON numbers above 2^53 are not exact.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(de::Error::custom)
    }
}

/// A pod whose requests are no longer evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExcludedPod {
    #[serde(with = "hexadecimal")]
    pod: u64,
    /// Name of the pod.
    pub name: String,
    /// When the pod was excluded, in milliseconds since the epoch.
    pub since_ms: i64,
    /// Time of its latest round with requests, in milliseconds since the epoch.
    pub last_seen_ms: i64,
    /// Its share of the canary's excess errors when it was excluded, from 0 to 1.
    pub share: f64,
    /// Its requests and errors, and those of the other canary pods, when it was excluded: the
    /// others in place of stable.
    pub counts: Counts,
    spent: SpentBudget,
}

impl ExcludedPod {
    /// Errors that it has spent since it was excluded, beyond those expected at stable's rate.
    pub fn excess_errors(&self, baseline_rate: f64) -> f64 {
        self.spent.excess_errors(baseline_rate)
    }
}

/// One pod that carries the excess errors of its arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierPod {
    /// Identity of the pod, [`crate::PodId::or_position`].
    pub pod: u64,
    /// Its share of the arm's excess errors, from 0 to 1.
    pub share: f64,
    /// Its requests and errors, and those of the other pods of the arm in place of stable.
    pub counts: Counts,
}

/// The counts of each pod of a release: at most about 3 KB of JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodEvidence {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    canary: Vec<PodTally>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stable: Vec<PodTally>,
    /// The pods that were excluded, in order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<ExcludedPod>,
}

impl PodEvidence {
    /// Adds a tick. Returns it without the pods that were excluded. `weight_changed_at_ms` and
    /// `baseline_rate` are those of [`SpentBudget::charge`].
    pub fn add<'a>(
        &mut self,
        tick: &'a Tick,
        weight_changed_at_ms: i64,
        baseline_rate: f64,
    ) -> Cow<'a, Tick> {
        let rate = tick.counts.stable_rate().unwrap_or(baseline_rate);
        for pod in &tick.stable_pods {
            record(&mut self.stable, pod, rate);
        }
        let mut kept = Cow::Borrowed(tick);
        for pod in &tick.canary_pods {
            let id = pod.pod.or_position(0);
            let Some(excluded) = self.excluded.iter_mut().find(|excluded| excluded.pod == id)
            else {
                record(&mut self.canary, pod, rate);
                continue;
            };
            let stable = &tick.counts;
            let of_pod = Tick {
                started_ms: tick.started_ms,
                at_ms: tick.at_ms,
                counts: Counts::new(
                    pod.requests,
                    pod.errors,
                    stable.stable_requests,
                    stable.stable_errors,
                ),
                ..Tick::default()
            };
            excluded
                .spent
                .charge(&of_pod, weight_changed_at_ms, baseline_rate);
            if pod.requests > 0.0 {
                excluded.last_seen_ms = tick.at_ms;
            }
            let kept = kept.to_mut();
            kept.counts.canary_requests = (kept.counts.canary_requests - pod.requests).max(0.0);
            kept.counts.canary_errors = (kept.counts.canary_errors - pod.errors).max(0.0);
            kept.canary_pods.retain(|other| other.pod != pod.pod);
        }
        kept
    }

    /// The canary pod that carries the excess errors, if one of several does. `k` is the temper of
    /// the evidence.
    pub fn canary_outlier(&self, k: f64) -> Option<OutlierPod> {
        outlier(&self.canary, k)
    }

    /// The stable pod that carries stable's excess errors, if one of several does. It can hide a
    /// canary that is worse.
    pub fn stable_outlier(&self, k: f64) -> Option<OutlierPod> {
        outlier(&self.stable, k)
    }

    /// Identity of the canary's pod if only one has served requests.
    pub fn only_canary_pod(&self) -> Option<u64> {
        let mut serving = self.canary.iter().filter(|pod| pod.requests > 0.0);
        let only = serving.next()?;
        (serving.next().is_none() && self.excluded.is_empty()).then_some(only.pod)
    }

    /// Excludes a pod. Returns false if too many already are.
    pub fn exclude(&mut self, outlier: &OutlierPod, name: &str, at_ms: i64) -> bool {
        if self.excluded.len() >= MAX_EXCLUDED {
            return false;
        }
        self.canary.retain(|pod| pod.pod != outlier.pod);
        self.excluded.push(ExcludedPod {
            pod: outlier.pod,
            name: name.to_owned(),
            since_ms: at_ms,
            last_seen_ms: at_ms,
            share: outlier.share,
            counts: outlier.counts,
            spent: SpentBudget::default(),
        });
        true
    }

    /// Identities of the pods that were excluded.
    pub fn excluded_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.excluded.iter().map(|excluded| excluded.pod)
    }

    /// Errors that the pods have spent since they were excluded, beyond those expected at stable's
    /// rate.
    pub fn excess_errors(&self, baseline_rate: f64) -> f64 {
        self.excluded
            .iter()
            .map(|excluded| excluded.excess_errors(baseline_rate))
            .sum()
    }
}

/// Adds the counts of one pod. If there are too many, the pod with the fewest errors is added to
/// the rest.
fn record(tallies: &mut Vec<PodTally>, counts: &PodCounts, rate: f64) {
    let id = counts.pod.or_position(0);
    let index = tallies.iter().position(|tally| tally.pod == id);
    let add = |tally: &mut PodTally, other: &PodTally| {
        tally.requests += other.requests;
        tally.errors += other.errors;
        tally.expected += other.expected;
    };
    let new = PodTally {
        pod: id,
        requests: counts.requests,
        errors: counts.errors,
        expected: counts.requests * rate,
    };
    if let Some(tally) = index.and_then(|index| tallies.get_mut(index)) {
        add(tally, &new);
        return;
    }
    tallies.push(new);
    if tallies.len() <= MAX_PODS {
        return;
    }
    let named = tallies
        .iter()
        .enumerate()
        .filter(|(_, tally)| tally.pod != 0);
    let fewest = named
        .min_by(|(_, one), (_, other)| one.errors.total_cmp(&other.errors))
        .map(|(index, _)| index);
    if let Some(fewest) = fewest.map(|index| tallies.swap_remove(index)) {
        match tallies.iter_mut().find(|tally| tally.pod == 0) {
            Some(rest) => add(rest, &fewest),
            None => tallies.push(PodTally { pod: 0, ..fewest }),
        }
    }
}

/// The pod with nearly all of the excess errors, unless equal pods would often look like that.
///
/// If the pods are equal, each error is of a pod with its share `s` of the requests. By Chernoff's
/// bound a pod has the share `q > s` of `E` errors with probability at most `exp(-E KL(q, s))`. The
/// probabilities of all pods are added up, and `k` allows for errors that cluster.
fn outlier(tallies: &[PodTally], k: f64) -> Option<OutlierPod> {
    let pods = tallies.iter().filter(|tally| tally.requests > 0.0).count();
    if pods < 2 {
        return None;
    }
    let requests: f64 = tallies.iter().map(|tally| tally.requests).sum();
    let errors: f64 = tallies.iter().map(|tally| tally.errors).sum();
    let excess = |tally: &PodTally| (tally.errors - tally.expected).max(0.0);
    let all_excess: f64 = tallies.iter().map(excess).sum();
    let worst = tallies
        .iter()
        .filter(|tally| tally.pod != 0)
        .max_by(|one, other| excess(one).total_cmp(&excess(other)))?;
    let (q, s) = (worst.errors / errors, worst.requests / requests);
    let share = excess(worst) / all_excess;
    if !(share >= OUTLIER_SHARE && q > s && s > 0.0) {
        return None;
    }
    let others = if q < 1.0 {
        (1.0 - q) * ((1.0 - q) / (1.0 - s)).ln()
    } else {
        0.0
    };
    let divergence = q * (q / s).ln() + others;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of pods is far below 2^53"
    )]
    let threshold = (pods as f64 / OUTLIER_ALPHA).ln();
    (errors * divergence / k.max(1.0) >= threshold).then(|| OutlierPod {
        pod: worst.pod,
        share,
        counts: Counts::new(
            worst.requests,
            worst.errors,
            requests - worst.requests,
            errors - worst.errors,
        ),
    })
}

/// Upper limit of the evidence, as an e-value, if it is the pods (their nodes, or the clients that
/// stick to them) that differ, and not the requests.
///
/// Then a good release is a random choice of `canary_pods` out of all pods. No statistic can be
/// larger than the number of such choices: for one canary pod beside four of stable, 5. A promise
/// of 1 in 100 needs at least 100 choices, such as 2 of 15 pods or 3 of 10.
///
/// The limit rises with more canary pods, and multiplies with each new assignment of pods to nodes
/// (another canary pod on another node). It is 1 without pods in one of the arms.
pub fn pod_arrangement_limit(canary_pods: usize, stable_pods: usize) -> f64 {
    if canary_pods == 0 || stable_pods == 0 {
        return 1.0;
    }
    let (fewer, more) = (canary_pods.min(stable_pods), canary_pods.max(stable_pods));
    let mut choices = 1.0_f64;
    for chosen in 1..=fewer {
        // Beyond this no promise is limited, and the product would overflow.
        if choices >= MAX_ARRANGEMENTS {
            return MAX_ARRANGEMENTS;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of pods is far below 2^53"
        )]
        let factor = (more.saturating_add(chosen)) as f64 / chosen as f64;
        choices *= factor;
    }
    choices.round().min(MAX_ARRANGEMENTS)
}

/// Larger numbers of arrangements are not distinguished.
const MAX_ARRANGEMENTS: f64 = 1e12;

#[cfg(test)]
mod tests;
