//! Validation of the pace, which is set by steps or by evidence.

use serin_core::plan::{EvidencePace, Pace};
use serin_core::units::Weight;

use super::problem::{CANARY as PATH, Problems};
use super::steps;
use super::values::parse_weight;
use crate::rollout::RolloutSpec;
use crate::strategy::PaceSpec;

const FIRST_WEIGHT_DEFAULT: Weight = Weight::percent(5);
const MAX_WEIGHT_DEFAULT: Weight = Weight::percent(50);

/// Steps set the pace if there are any, otherwise evidence if possible. Otherwise the release does
/// not wait.
pub(super) fn pace(spec: &RolloutSpec, routed: bool, problems: &mut Problems) -> Pace {
    let canary = spec.strategy.as_canary();
    if let (Some(pace), Some(_)) = (&canary.pace, &canary.steps) {
        problems.invalid(
            format!("{PATH}.pace"),
            pace,
            "it excludes steps, which are also set",
            "keep one of the two",
        );
    }
    if let Some(steps) = &canary.steps {
        return Pace::Steps(steps::steps(spec, steps, routed, problems));
    }
    if canary.pace.is_some() {
        let fix = "add it, or remove pace";
        if spec.analysis.is_none() {
            problems.required(
                "spec.analysis",
                format!("{PATH}.pace needs evidence, which only an analysis collects"),
                fix,
            );
        }
        if !routed {
            let problem = format!("{PATH}.pace sets weights, which requires a router");
            problems.required(format!("{PATH}.trafficRouting"), problem, fix);
        }
    }
    if canary.pace.is_some()
        && routed
        && spec.analysis.is_some()
        && !is_evidence_paced(spec, routed)
    {
        let problem = format!("{PATH}.pace needs evidence, which only objectives give");
        problems.required(
            "spec.analysis.objectives",
            problem,
            "add an objective, or replace pace with steps",
        );
    }
    if is_evidence_paced(spec, routed) {
        return Pace::Evidence(evidence_pace(
            &canary.pace.clone().unwrap_or_default(),
            problems,
        ));
    }
    Pace::Steps(Vec::new())
}

/// Whether evidence sets the pace of a spec without steps. It requires a router and an objective.
pub(super) fn is_evidence_paced(spec: &RolloutSpec, routed: bool) -> bool {
    routed
        && spec
            .analysis
            .as_ref()
            .is_some_and(|analysis| !analysis.objectives.is_empty())
}

fn evidence_pace(pace: &PaceSpec, problems: &mut Problems) -> EvidencePace {
    let mut weight_or_default = |field: &str, percent: Option<f64>, default: Weight| {
        let path = format!("{PATH}.pace.{field}");
        let weight = percent.map_or(Some(default), |percent| {
            parse_weight(&path, percent, problems)
        })?;
        if weight.is_zero() || weight == Weight::FULL {
            let problem = "canary and stable can only be compared while both receive traffic";
            problems.invalid(path, &percent, problem, "use more than 0 and less than 100");
        }
        Some(weight)
    };
    let first_weight = weight_or_default("firstWeight", pace.first_weight, FIRST_WEIGHT_DEFAULT)
        .unwrap_or(FIRST_WEIGHT_DEFAULT);
    let max_weight = weight_or_default("maxWeight", pace.max_weight, MAX_WEIGHT_DEFAULT)
        .unwrap_or(MAX_WEIGHT_DEFAULT);
    if first_weight > max_weight {
        let fix = format!(
            "use at most maxWeight, which is {}",
            max_weight.as_percent()
        );
        problems.invalid(
            format!("{PATH}.pace.firstWeight"),
            &first_weight,
            "it is greater than maxWeight",
            fix,
        );
    }
    EvidencePace {
        first_weight,
        max_weight,
    }
}
