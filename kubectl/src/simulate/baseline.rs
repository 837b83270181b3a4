//! The part of stable that a simulated canary is compared with.

use serin_analysis::explain::percent;
use serin_core::baseline::compared_part_of_stable;
use serin_core::plan::{Canary, CanaryScale, Pace, Plan, Step};
use serin_core::units::Weight;

/// Part of stable's requests that the canary is compared with, by the weight from which it applies.
/// Empty if the Rollout has no baseline pods.
pub(super) fn compared_stable(plan: &Plan) -> Vec<(f64, f64)> {
    let analysis = plan.canary().analysis.as_ref();
    if analysis.is_none_or(|analysis| analysis.baseline_pods.is_none()) {
        return Vec::new();
    }
    let mut weights: Vec<(Weight, CanaryScale)> = match &plan.canary().pace {
        Pace::Evidence(pace) => {
            let weights = 1..=pace.max_weight.thousandths();
            weights
                .map(|weight| {
                    let weight = Weight::from_thousandths(weight);
                    (weight, CanaryScale::MatchTrafficWeight)
                })
                .collect()
        }
        Pace::Steps(steps) => {
            let scaled = steps.iter().enumerate().filter_map(|(index, step)| {
                let Step::SetWeight(weight) = step else {
                    return None;
                };
                Some((*weight, Canary::scale_at(steps, index)))
            });
            scaled.filter(|(weight, _)| !weight.is_zero()).collect()
        }
    };
    weights.sort_by_key(|(weight, _)| *weight);
    let mut parts: Vec<(f64, f64)> = weights
        .into_iter()
        .map(|(weight, scale)| {
            let part = compared_part_of_stable(plan, scale, weight);
            (weight.as_percent() / 100.0, part)
        })
        .collect();
    parts.dedup_by(|(_, next), (_, part)| next.to_bits() == part.to_bits());
    parts
}

/// A sentence about the comparison with baseline pods. `None` without them.
pub(super) fn note(compared_stable: &[(f64, f64)]) -> Option<String> {
    let parts = || compared_stable.iter().map(|(_, part)| *part);
    let (least, most) = (parts().reduce(f64::min)?, parts().reduce(f64::max)?);
    let range = if least < most {
        format!("{} to {}", percent(least), percent(most))
    } else {
        percent(most)
    };
    Some(format!(
        "With baseline pods, the canary is compared with {range} of stable's requests. That young \
         pods fail more often is not simulated."
    ))
}
