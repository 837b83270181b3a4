//! The pace of a spec, checked: its steps, or the evidence.

use serin_core::plan::{EvidencePace, Pace};
use serin_core::units::Weight;

use super::problem::{CANARY as PATH, Problems};
use super::steps;
use super::values::weight;
use crate::rollout::RolloutSpec;
use crate::strategy::PaceSpec;

const FIRST_WEIGHT_DEFAULT: Weight = Weight::percent(5);
const MAX_WEIGHT_DEFAULT: Weight = Weight::percent(50);

/// What sets the pace: the steps where there are any, else the evidence where it can, else nothing
/// holds it back.
pub(super) fn pace(spec: &RolloutSpec, routed: bool, problems: &mut Problems) -> Pace {
    let canary = &spec.strategy.canary;
    if let (Some(pace), Some(_)) = (&canary.pace, &canary.steps) {
        problems.invalid(
            format!("{PATH}.pace"),
            pace,
            "steps are written beside it",
            "keep one of the two",
        );
    }
    if let Some(written) = &canary.steps {
        return Pace::Steps(steps::steps(spec, written, routed, problems));
    }
    if canary.pace.is_some() {
        let fix = "add it, or remove pace";
        if spec.analysis.is_none() {
            problems.required(
                "spec.analysis",
                format!("{PATH}.pace lets evidence set the pace, and nothing gathers any"),
                fix,
            );
        }
        if !routed {
            let problem = format!("{PATH}.pace lets evidence set the weight, and no router can");
            problems.required(format!("{PATH}.trafficRouting"), problem, fix);
        }
    }
    if canary.pace.is_some() && routed && spec.analysis.is_some() && !has_evidence(spec, routed) {
        let problem =
            format!("{PATH}.pace lets evidence set the weight, and checks alone are none");
        problems.required(
            "spec.analysis.objectives",
            problem,
            "add an objective, or write steps",
        );
    }
    if has_evidence(spec, routed) {
        return Pace::Evidence(evidence_pace(
            &canary.pace.clone().unwrap_or_default(),
            problems,
        ));
    }
    Pace::Steps(Vec::new())
}

/// Whether evidence sets the pace where no steps are written: there is a router, and an objective
/// to gather it for.
pub(super) fn has_evidence(spec: &RolloutSpec, routed: bool) -> bool {
    routed
        && spec
            .analysis
            .as_ref()
            .is_some_and(|analysis| !analysis.objectives.is_empty())
}

fn evidence_pace(pace: &PaceSpec, problems: &mut Problems) -> EvidencePace {
    let mut read = |field: &str, percent: Option<f64>, default: Weight| {
        let path = format!("{PATH}.pace.{field}");
        let weight = percent.map_or(Some(default), |percent| weight(&path, percent, problems))?;
        if weight.is_zero() || weight == Weight::FULL {
            let problem = "canary and stable can only be compared while both have traffic";
            problems.invalid(path, &percent, problem, "use more than 0 and less than 100");
        }
        Some(weight)
    };
    let first_weight = read("firstWeight", pace.first_weight, FIRST_WEIGHT_DEFAULT)
        .unwrap_or(FIRST_WEIGHT_DEFAULT);
    let max_weight =
        read("maxWeight", pace.max_weight, MAX_WEIGHT_DEFAULT).unwrap_or(MAX_WEIGHT_DEFAULT);
    if first_weight > max_weight {
        let fix = format!(
            "use at most maxWeight, which is {}",
            max_weight.as_percent()
        );
        problems.invalid(
            format!("{PATH}.pace.firstWeight"),
            &first_weight,
            "it is over maxWeight",
            fix,
        );
    }
    EvidencePace {
        first_weight,
        max_weight,
    }
}
