//! Rounds from increments that Prometheus has aggregated, for objectives with too many series to
//! read individually.
//!
//! A round is one step of the query: the increment of each source between two times, from the last
//! scrape before each of them. Successive steps of a series add up to its total increment without
//! overlap.

use std::collections::{BTreeMap, BTreeSet};

use super::series::{Sums, reconcile_errors};
use super::{Arm, Rounds};
use crate::counts::{Counts, PodCounts, PodId, Tick};

/// The increment, or a part of it, of one source for one arm in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct SummedIncrement {
    /// The scrape target, such as a pod's name or a gateway's instance.
    pub source: String,
    /// The arm to which it belongs.
    pub arm: Arm,
    /// End of the step, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Requests.
    pub requests: f64,
    /// Bad requests of series that existed when the step began.
    pub errors: f64,
    /// Bad requests of series that started during the step.
    pub new_errors: f64,
}

/// The counts of one step.
#[derive(Debug, Default)]
struct StepCounts {
    counts: Counts,
    stable_pods: Vec<PodCounts>,
    canary_pods: Vec<PodCounts>,
}

/// Builds the rounds of these increments, in order of time. Each starts `step_ms` before it closes.
/// An increment that is NaN, negative or infinite is ignored, requests and errors alike, and
/// reported in [`Rounds::not_a_number_at_ms`].
pub fn rounds_from_sums(increments: &[SummedIncrement], step_ms: i64) -> Rounds {
    let mut rounds = Rounds::default();
    let mut sums: BTreeMap<(i64, &str, Arm), Sums> = BTreeMap::new();
    for SummedIncrement {
        source,
        arm,
        at_ms,
        requests,
        errors,
        new_errors,
    } in increments
    {
        let source_sums = sums.entry((*at_ms, source, *arm)).or_default();
        source_sums.requests += requests;
        source_sums.errors += errors;
        source_sums.new_errors += new_errors;
    }
    let sources_of = |arm| -> BTreeSet<&str> {
        let of_arm = increments.iter().filter(|increment| increment.arm == arm);
        of_arm.map(|increment| increment.source.as_str()).collect()
    };
    // A source that counts for both arms is a gateway, not a pod.
    let (of_canary, of_stable) = (sources_of(Arm::Canary), sources_of(Arm::Stable));
    let gateways: BTreeSet<&str> = of_canary.intersection(&of_stable).copied().collect();
    let mut steps: BTreeMap<i64, StepCounts> = BTreeMap::new();
    for ((at_ms, source, arm), sums) in sums {
        let step = steps.entry(at_ms).or_default();
        let is_count = |value: f64| value.is_finite() && value >= 0.0;
        if ![sums.requests, sums.errors, sums.new_errors]
            .into_iter()
            .all(is_count)
        {
            rounds.not_a_number_at_ms = rounds.not_a_number_at_ms.max(Some(at_ms));
            continue;
        }
        let (requests, errors) = reconcile_errors(sums, &mut rounds.inconsistent_increments);
        let pod = PodCounts {
            pod: PodId::from_name(source),
            requests,
            errors,
        };
        match arm {
            Arm::Canary => {
                step.counts.add(&Counts::new(requests, errors, 0.0, 0.0));
                if !gateways.contains(source) {
                    step.canary_pods.push(pod);
                }
            }
            Arm::Stable => {
                step.counts.add(&Counts::new(0.0, 0.0, requests, errors));
                step.stable_pods.push(pod);
            }
        }
    }
    for (at_ms, step) in steps {
        if step.counts.canary_requests > 0.0 {
            rounds.canary_requests_at_ms = rounds.canary_requests_at_ms.max(Some(at_ms));
        }
        let started_ms = at_ms.saturating_sub(step_ms);
        rounds.ticks.push(Tick {
            started_ms,
            at_ms,
            counts: step.counts,
            // A single source that counts for all pods does not show how the pods differ.
            stable_pods: if step.stable_pods.len() > 1 {
                step.stable_pods
            } else {
                Vec::new()
            },
            canary_pods: step.canary_pods,
            // The last scrape before the step may be a whole interval older.
            counts_since_ms: Some(started_ms.saturating_sub(step_ms)),
        });
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(
        source: &str,
        arm: Arm,
        at_ms: i64,
        requests: f64,
        errors: f64,
    ) -> SummedIncrement {
        SummedIncrement {
            source: source.to_owned(),
            arm,
            at_ms,
            requests,
            errors,
            new_errors: 0.0,
        }
    }

    #[test]
    fn a_step_is_a_round_of_all_its_sources() {
        let increments = [
            increment("a", Arm::Stable, 15_000, 100.0, 1.0),
            increment("b", Arm::Stable, 15_000, 90.0, 0.0),
            increment("c", Arm::Canary, 15_000, 10.0, 2.0),
            increment("c", Arm::Canary, 30_000, 12.0, 0.0),
        ];
        let rounds = rounds_from_sums(&increments, 15_000);
        assert_eq!(rounds.ticks.len(), 2);
        assert_eq!(
            (rounds.ticks[0].started_ms, rounds.ticks[0].at_ms),
            (0, 15_000)
        );
        assert_eq!(rounds.ticks[0].counts, Counts::new(10.0, 2.0, 190.0, 1.0));
        assert_eq!(rounds.ticks[0].stable_pods.len(), 2);
        assert_eq!(rounds.canary_requests_at_ms, Some(30_000));
    }

    #[test]
    fn inconsistent_increments_are_limited_as_for_single_series() {
        let older_series = SummedIncrement {
            new_errors: 400.0,
            ..increment("a", Arm::Stable, 1, 100.0, 0.0)
        };
        let rounds = rounds_from_sums(&[older_series, increment("b", Arm::Canary, 1, 5.0, 7.0)], 1);
        assert_eq!(rounds.ticks[0].counts, Counts::new(5.0, 5.0, 100.0, 0.0));
        assert_eq!(rounds.inconsistent_increments, 2);
        let rounds = rounds_from_sums(
            &[
                increment("a", Arm::Canary, 7, f64::NAN, 0.0),
                increment("b", Arm::Canary, 7, 5.0, -1.0),
            ],
            1,
        );
        assert_eq!(rounds.ticks[0].counts, Counts::default());
        assert_eq!(rounds.not_a_number_at_ms, Some(7));
    }
}
