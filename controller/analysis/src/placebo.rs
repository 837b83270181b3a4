//! A placebo: the rule on stable's own pods before a release, as if each of them in turn were the
//! canary. All of them run the same version, so whatever the rule finds is a false alarm.

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, PodCounts, Tick};
use crate::evidence::{Bets, Evidence, TickContext};

/// At most this many pods take the part of the canary.
const MAX_PODS: usize = 16;
/// A placebo needs at least this many pods, so that the others can be compared with each other.
const MIN_PODS: usize = 3;

/// The result of a placebo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placebo {
    /// Duration of the ticks in which a pod was the canary, in hours.
    pub hours: f64,
    /// Number of pods that were the canary, one after the other.
    pub pods: u32,
    /// Number of these pods that the rule would have rolled back.
    pub would_have_rolled_back: u32,
    /// `ln E`: the strongest evidence against one of the pods.
    pub ln_e: f64,
}

/// Applies the rule with level `alpha` to each of stable's pods in turn. The first half of `history`,
/// in order of time, is the history of the placebo, and the second half its release.
pub fn placebo(history: &[Tick], bets: &Bets, alpha: f64) -> Placebo {
    let (before, during) = history.split_at(history.len() / 2);
    let Some(first) = during.first() else {
        return Placebo::default();
    };
    let mut canaries: Vec<u64> = Vec::new();
    for tick in during {
        for (position, pod) in tick.stable_pods.iter().enumerate() {
            let identity = pod.pod.or_position(position);
            if canaries.len() < MAX_PODS && !canaries.contains(&identity) {
                canaries.push(identity);
            }
        }
    }
    if canaries.len() < MIN_PODS {
        return Placebo::default();
    }
    let mut result = Placebo {
        hours: hours(during),
        ..Placebo::default()
    };
    for canary in canaries {
        let without: Vec<_> = before
            .iter()
            .map(|tick| with_canary(tick, canary))
            .collect();
        let mut evidence = Evidence::new(bets, first.started_ms);
        evidence.learn_dispersion(&without);
        let mut strongest = 0.0_f64;
        for tick in during {
            evidence.add(bets, &with_canary(tick, canary), &TickContext::default());
            strongest = strongest.max(evidence.ln_e(bets));
        }
        result.pods += 1;
        result.would_have_rolled_back += u32::from(strongest >= -alpha.ln());
        result.ln_e = result.ln_e.max(strongest);
    }
    result
}

fn hours(ticks: &[Tick]) -> f64 {
    let total_ms: i64 = ticks
        .iter()
        .map(|tick| tick.at_ms.saturating_sub(tick.started_ms).max(0))
        .sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let hours = total_ms as f64 / 3_600_000.0;
    hours
}

/// The tick with one of stable's pods as the canary.
fn with_canary(tick: &Tick, canary: u64) -> Tick {
    let mut counts = Counts::default();
    let (mut canary_pods, mut stable_pods) = (Vec::<PodCounts>::new(), Vec::<PodCounts>::new());
    for (position, pod) in tick.stable_pods.iter().enumerate() {
        if pod.pod.or_position(position) == canary {
            counts.canary_requests += pod.requests;
            counts.canary_errors += pod.errors;
            canary_pods.push(*pod);
        } else {
            counts.stable_requests += pod.requests;
            counts.stable_errors += pod.errors;
            stable_pods.push(*pod);
        }
    }
    Tick {
        started_ms: tick.started_ms,
        at_ms: tick.at_ms,
        counts,
        stable_pods,
        canary_pods,
        ..Tick::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EvidenceConfig;

    fn history(errors: impl Fn(i64, i64) -> f64) -> Vec<Tick> {
        (0..240)
            .map(|index| Tick {
                started_ms: index * 15_000,
                at_ms: (index + 1) * 15_000,
                stable_pods: (0..4)
                    .map(|pod| PodCounts {
                        requests: 500.0,
                        errors: errors(index, pod),
                        ..PodCounts::default()
                    })
                    .collect(),
                ..Tick::default()
            })
            .collect()
    }

    fn placebo_of(history: &[Tick]) -> Placebo {
        placebo(
            history,
            &Bets::new(EvidenceConfig::default()).unwrap(),
            0.01,
        )
    }

    #[test]
    fn pods_that_are_alike_are_not_rolled_back() {
        let result = placebo_of(&history(|index, pod| f64::from(u8::from(index % 4 == pod))));
        assert_eq!((result.pods, result.would_have_rolled_back), (4, 0));
        assert!((result.hours - 0.5).abs() < 0.01, "{}", result.hours);
    }

    #[test]
    fn a_pod_that_begins_to_fail_is_rolled_back() {
        let fails = |index, pod| if index > 150 && pod == 2 { 20.0 } else { 1.0 };
        assert_eq!(placebo_of(&history(fails)).would_have_rolled_back, 1);
    }

    #[test]
    fn too_few_pods_give_no_placebo() {
        let mut ticks = history(|_, _| 1.0);
        for tick in &mut ticks {
            tick.stable_pods.truncate(2);
        }
        assert_eq!(placebo_of(&ticks), Placebo::default());
        assert_eq!(placebo_of(&[]), Placebo::default());
    }
}
