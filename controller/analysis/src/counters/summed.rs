//! Rounds of increments that somebody else has added up, where the series are too many to be read
//! one by one.
//!
//! The grid of steps is given, so that a round is one step: what each source counted between two
//! moments, by the last scrape before each of them. Successive steps of a series add up to what it
//! counted; nothing is in two of them.

use std::collections::BTreeMap;

use super::series::{Sums, settle};
use super::{Arm, Rounds};
use crate::counts::{Counts, PodCounts, Tick};

/// What one source counted for one arm in one step, or a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SummedIncrement {
    /// The scrape target, such as a pod's name or a gateway's instance.
    pub source: String,
    /// Which side it counts for.
    pub arm: Arm,
    /// When the step ends, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Requests.
    pub requests: f64,
    /// Bad requests of series that were known when the step began.
    pub errors: f64,
    /// Bad requests of series that have begun in it.
    pub new_errors: f64,
}

/// The rounds of these increments, in the order of time; each began `step_ms` before it closed. An
/// increment that is no number is left out, requests and errors alike, and told.
pub fn rounds_of_sums(increments: &[SummedIncrement], step_ms: i64) -> Rounds {
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
        let of_source = sums.entry((*at_ms, source, *arm)).or_default();
        of_source.requests += requests;
        of_source.errors += errors;
        of_source.new_errors += new_errors;
    }
    let mut steps: BTreeMap<i64, (Counts, Vec<PodCounts>)> = BTreeMap::new();
    for ((at_ms, _, arm), sums) in sums {
        let (counts, stable_pods) = steps.entry(at_ms).or_default();
        let is_count = |value: f64| value.is_finite() && value >= 0.0;
        if ![sums.requests, sums.errors, sums.new_errors]
            .into_iter()
            .all(is_count)
        {
            rounds.not_a_number_at_ms = rounds.not_a_number_at_ms.max(Some(at_ms));
            continue;
        }
        let (requests, errors) = settle(sums, &mut rounds.inconsistent);
        match arm {
            Arm::Canary => counts.add(&Counts::new(requests, errors, 0.0, 0.0)),
            Arm::Stable => {
                counts.add(&Counts::new(0.0, 0.0, requests, errors));
                stable_pods.push(PodCounts { requests, errors });
            }
        }
    }
    for (at_ms, (counts, pods)) in steps {
        if counts.canary_requests > 0.0 {
            rounds.canary_requests_at_ms = rounds.canary_requests_at_ms.max(Some(at_ms));
        }
        let stable_pods = if pods.len() > 1 { pods } else { Vec::new() };
        rounds.ticks.push(Tick {
            started_ms: at_ms.saturating_sub(step_ms),
            at_ms,
            counts,
            stable_pods,
        });
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, arm: Arm, at_ms: i64, requests: f64, errors: f64) -> SummedIncrement {
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
            of("a", Arm::Stable, 15_000, 100.0, 1.0),
            of("b", Arm::Stable, 15_000, 90.0, 0.0),
            of("c", Arm::Canary, 15_000, 10.0, 2.0),
            of("c", Arm::Canary, 30_000, 12.0, 0.0),
        ];
        let rounds = rounds_of_sums(&increments, 15_000);
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
    fn what_cannot_be_true_is_cut_as_it_is_of_single_series() {
        let stranger = SummedIncrement {
            new_errors: 400.0,
            ..of("a", Arm::Stable, 1, 100.0, 0.0)
        };
        let rounds = rounds_of_sums(&[stranger, of("b", Arm::Canary, 1, 5.0, 7.0)], 1);
        assert_eq!(rounds.ticks[0].counts, Counts::new(5.0, 5.0, 100.0, 0.0));
        assert_eq!(rounds.inconsistent, 2);
        let rounds = rounds_of_sums(
            &[
                of("a", Arm::Canary, 7, f64::NAN, 0.0),
                of("b", Arm::Canary, 7, 5.0, -1.0),
            ],
            1,
        );
        assert_eq!(rounds.ticks[0].counts, Counts::default());
        assert_eq!(rounds.not_a_number_at_ms, Some(7));
    }
}
