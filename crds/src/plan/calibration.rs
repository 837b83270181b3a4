//! Validation of `spec.analysis.objectives[].calibration`.

use super::problem::Problems;
use crate::analysis::AnalysisSpec;
use crate::rollout::RolloutSpec;

/// False rollback probability unless the spec sets it.
const DEFAULT_FALSE_ROLLBACK_PROBABILITY: f64 = 0.01;
const MAX_TEMPER: f64 = 1_000.0;
/// Tolerance of a count that is computed from a fraction.
const ROUNDING: f64 = 1e-9;

pub(super) fn check(spec: &RolloutSpec, analysis: &AnalysisSpec, problems: &mut Problems) {
    let needed = needed_hours(analysis);
    for (index, objective) in analysis.objectives.iter().enumerate() {
        let Some(calibration) = &objective.calibration else {
            continue;
        };
        let path = format!("spec.analysis.objectives[{index}].calibration");
        if !(1.0..=MAX_TEMPER).contains(&calibration.temper) {
            problems.invalid(
                format!("{path}.temper"),
                &calibration.temper,
                "it must be from 1 to 1000",
                "use the temper that kubectl serin placebo reports",
            );
        }
        if f64::from(calibration.hours) < needed {
            let problem = format!(
                "the bound of these {} objectives needs at least {needed} placebo hours",
                analysis.objectives.len()
            );
            let fix = format!(
                "run kubectl serin placebo --hours {needed}, raise rollback.falseRollbackProbability, \
                 or remove calibration"
            );
            let path = format!("{path}.hours");
            problems.invalid(path, &calibration.hours, problem, fix);
        }
        let obstacle = if spec.strategy.blue_green.is_some() {
            Some((
                "with blue/green the two sides are never compared",
                "remove calibration",
            ))
        } else if !objective.distinguishes_pods() {
            Some((
                "placebo releases compare pods, which the series do not distinguish",
                "use the indicator pod, or counters with variants.podLabel, or remove calibration",
            ))
        } else if objective.endpoint_label.is_some() {
            Some((
                "placebo releases add up all endpoints",
                "remove endpointLabel or calibration",
            ))
        } else if analysis.baseline.is_some() {
            Some((
                "placebo releases compare with all other pods, not with a baseline",
                "remove spec.analysis.baseline or calibration",
            ))
        } else {
            None
        };
        if let Some((problem, fix)) = obstacle {
            problems.invalid(path, calibration, problem, fix);
        }
    }
}

/// Placebo hours with which the bound holds for all objectives together: each is calibrated at the
/// false rollback probability divided by their number.
fn needed_hours(analysis: &AnalysisSpec) -> f64 {
    let rollback = analysis.rollback.as_ref();
    let probability = rollback
        .and_then(|rollback| rollback.false_rollback_probability)
        .filter(|probability| *probability > 0.0)
        .unwrap_or(DEFAULT_FALSE_ROLLBACK_PROBABILITY);
    let objectives = u32::try_from(analysis.objectives.len()).unwrap_or(u32::MAX);
    (f64::from(objectives) / probability - 1.0 - ROUNDING)
        .ceil()
        .max(1.0)
}
