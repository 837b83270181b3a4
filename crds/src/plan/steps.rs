//! Validation of the steps: each step by itself, and with regard to the steps before it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serin_core::plan::{CanaryScale, Requirements, Step};
use serin_core::units::Weight;

use super::gates;
use super::managed_routes::{self, ManagedRouteParser};
use super::problem::{CANARY as PATH, Problems};
use super::values::{DAY, MILLISECOND, non_negative, parse_duration_in, parse_weight};
use crate::analysis::{CheckPhase, CheckSpec};
use crate::rollout::RolloutSpec;
use crate::strategy::{AnalysisStepSpec, CanaryScaleSpec, PauseSpec, StepSpec};

const WAIT_BOUNDS: RangeInclusive<Duration> = MILLISECOND..=DAY.saturating_mul(365);

/// State of the canary after the steps so far.
struct CanaryState {
    weight: Weight,
    /// Whether `setCanaryScale` has set the canary to zero pods.
    has_no_pods: bool,
    /// The names of the rules for chosen requests.
    managed_routes: BTreeSet<String>,
}

pub(super) fn steps(
    spec: &RolloutSpec,
    specs: &[StepSpec],
    routed: bool,
    problems: &mut Problems,
) -> Vec<Step> {
    let mut canary = CanaryState {
        weight: Weight::ZERO,
        has_no_pods: false,
        managed_routes: BTreeSet::new(),
    };
    let canary_spec = spec.strategy.as_canary();
    let managed_routes = ManagedRouteParser::new(canary_spec.traffic_routing.as_ref());
    let mut steps = Vec::with_capacity(specs.len());
    for (index, step) in specs.iter().enumerate() {
        let path = format!("{PATH}.steps[{index}]");
        let Some(step) = parse_step(&path, step, &managed_routes, problems) else {
            continue;
        };
        check_step(&path, &step, spec, routed, &mut canary, problems);
        steps.push(step);
    }
    gates::check_count(&steps, problems);
    managed_routes::check_size(&steps, problems);
    steps
}

/// Converts a step, which must have exactly one field.
fn parse_step(
    path: &str,
    step: &StepSpec,
    managed_routes: &ManagedRouteParser<'_>,
    problems: &mut Problems,
) -> Option<Step> {
    let actions = [
        step.set_weight.is_some(),
        step.pause.is_some(),
        step.set_canary_scale.is_some(),
        step.analysis.is_some(),
        step.gate.is_some(),
        step.set_header_route.is_some(),
        step.set_mirror_route.is_some(),
    ];
    if actions.iter().filter(|is_set| **is_set).count() != 1 {
        let fix = "set exactly one of setWeight, pause, setCanaryScale, analysis, gate, \
                   setHeaderRoute, setMirrorRoute";
        problems.invalid(path, step, "a step must have exactly one action", fix);
        return None;
    }
    if let Some(percent) = step.set_weight {
        let weight = parse_weight(&format!("{path}.setWeight"), percent, problems)?;
        return Some(Step::SetWeight(weight));
    }
    if let Some(pause) = &step.pause {
        return pause_step(&format!("{path}.pause.duration"), pause, problems);
    }
    if let Some(scale) = &step.set_canary_scale {
        return scale_step(&format!("{path}.setCanaryScale"), scale, problems);
    }
    if let Some(analysis) = &step.analysis {
        return analysis_step(&format!("{path}.analysis"), analysis, problems);
    }
    if let Some(route) = &step.set_header_route {
        let path = format!("{path}.setHeaderRoute");
        let route = managed_routes.header_route(&path, route, problems);
        return Some(Step::SetManagedRoute(route));
    }
    if let Some(route) = &step.set_mirror_route {
        let path = format!("{path}.setMirrorRoute");
        let route = managed_routes.mirror_route(&path, route, problems);
        return Some(Step::SetManagedRoute(route));
    }
    let gate = step.gate.as_ref()?;
    gates::gate(&format!("{path}.gate"), gate, problems).map(Step::Gate)
}

/// Waits for a duration, for the named objectives and checks, or for all evidence.
fn analysis_step(path: &str, analysis: &AnalysisStepSpec, problems: &mut Problems) -> Option<Step> {
    let AnalysisStepSpec {
        duration,
        objectives,
        checks,
    } = analysis;
    match (duration, objectives, checks) {
        (None, None, None) => Some(Step::Analysis(None)),
        (Some(text), None, None) => {
            let duration =
                parse_duration_in(&format!("{path}.duration"), text, &WAIT_BOUNDS, problems)?;
            Some(Step::Analysis(Some(duration)))
        }
        (None, objectives, checks) => {
            let names = |names: &Option<Vec<String>>| names.iter().flatten().cloned().collect();
            let requirements = Requirements {
                objectives: names(objectives),
                checks: names(checks),
            };
            if requirements == Requirements::default() {
                problems.required(
                    path,
                    "it names no objective or check",
                    "name one, or use analysis: {} to wait for all evidence",
                );
                return None;
            }
            Some(Step::Require(requirements))
        }
        (Some(text), _, _) => {
            let fix = "keep duration, or objectives and checks";
            problems.invalid(
                format!("{path}.duration"),
                text,
                "it excludes objectives and checks, which are also set",
                fix,
            );
            None
        }
    }
}

/// A plain number is a number of seconds, as in Argo Rollouts.
fn pause_step(path: &str, pause: &PauseSpec, problems: &mut Problems) -> Option<Step> {
    let text = match &pause.duration {
        None => return Some(Step::Pause(None)),
        Some(IntOrString::Int(seconds)) => format!("{seconds}s"),
        Some(IntOrString::String(text))
            if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) =>
        {
            format!("{text}s")
        }
        Some(IntOrString::String(text)) => text.clone(),
    };
    parse_duration_in(path, &text, &WAIT_BOUNDS, problems)
        .map(|duration| Step::Pause(Some(duration)))
}

fn scale_step(path: &str, scale: &CanaryScaleSpec, problems: &mut Problems) -> Option<Step> {
    let scale = match scale {
        CanaryScaleSpec {
            replicas: Some(replicas),
            weight: None,
            match_traffic_weight: None,
        } => CanaryScale::Replicas(non_negative(
            &format!("{path}.replicas"),
            Some(*replicas),
            0,
            problems,
        )),
        CanaryScaleSpec {
            replicas: None,
            weight: Some(percent),
            match_traffic_weight: None,
        } => CanaryScale::Weight(parse_weight(&format!("{path}.weight"), *percent, problems)?),
        CanaryScaleSpec {
            replicas: None,
            weight: None,
            match_traffic_weight: Some(true),
        } => CanaryScale::MatchTrafficWeight,
        scale => {
            let fix = "set exactly one of replicas, weight, matchTrafficWeight: true";
            problems.invalid(path, scale, "it must define exactly one size", fix);
            return None;
        }
    };
    Some(Step::SetCanaryScale(scale))
}

/// Checks that a step is possible after the steps before it.
fn check_step(
    path: &str,
    step: &Step,
    spec: &RolloutSpec,
    routed: bool,
    canary: &mut CanaryState,
    problems: &mut Problems,
) {
    match step {
        Step::SetWeight(weight) => {
            canary.weight = *weight;
            if canary.has_no_pods && !weight.is_zero() {
                let fix = "add a setCanaryScale with at least one pod before it";
                problems.invalid(
                    format!("{path}.setWeight"),
                    weight,
                    "the canary has no pods at this step",
                    fix,
                );
            }
        }
        Step::Pause(_) | Step::Gate(_) => {}
        Step::SetManagedRoute(route) if route.is_removal() => {
            canary.managed_routes.remove(&route.name);
        }
        Step::SetManagedRoute(route) => {
            canary.managed_routes.insert(route.name.clone());
            if canary.has_no_pods {
                let path = format!("{path}.{}", route.action.step_name());
                let fix = "add a setCanaryScale with at least one pod before it";
                let problem = "the canary has no pods at this step";
                problems.invalid(path, &route.name, problem, fix);
            }
        }
        Step::SetCanaryScale(scale) => {
            let path = format!("{path}.setCanaryScale");
            canary.has_no_pods = matches!(
                scale,
                CanaryScale::Replicas(0) | CanaryScale::Weight(Weight::ZERO)
            );
            if !routed {
                let fix = "add trafficRouting, or use setWeight";
                problems.invalid(
                    path,
                    scale,
                    "without trafficRouting the replica counts determine the weights",
                    fix,
                );
            } else if canary.has_no_pods && !canary.managed_routes.is_empty() {
                let fix = "remove the rules of setHeaderRoute and setMirrorRoute before it";
                let problem = "the canary receives chosen requests at this step";
                problems.invalid(path, scale, problem, fix);
            } else if canary.has_no_pods && !canary.weight.is_zero() {
                let fix = format!(
                    "add setWeight: 0 before it, or keep pods for {}",
                    canary.weight
                );
                problems.invalid(path, scale, "the canary receives traffic at this step", fix);
            }
        }
        Step::Analysis(_) | Step::Require(_) => {
            let path = format!("{path}.analysis");
            check_analysis_step(&path, step, spec, canary.weight, problems);
        }
    }
}

/// Checks a step that waits for evidence at this weight.
fn check_analysis_step(
    path: &str,
    step: &Step,
    spec: &RolloutSpec,
    weight: Weight,
    problems: &mut Problems,
) {
    if let Step::Require(requirements) = step {
        check_requirements(path, requirements, spec, problems);
    }
    if spec.analysis.is_none() {
        problems.required(
            "spec.analysis",
            format!("{path} needs evidence, which only an analysis collects"),
            "add objectives to it, or remove the step",
        );
    } else if (weight.is_zero() || weight == Weight::FULL) && !waits_for_step_checks(step, spec) {
        let fix = "add a setWeight above 0 and below 100 before it";
        let problem = "canary and stable can only be compared while both receive traffic";
        problems.invalid(path, &weight, problem, fix);
    }
}

/// Whether a step waits for nothing but checks of its own, which need no traffic on both sides.
fn waits_for_step_checks(step: &Step, spec: &RolloutSpec) -> bool {
    let Step::Require(required) = step else {
        return false;
    };
    let checks = spec.analysis.iter().flat_map(|analysis| &analysis.checks);
    let of_steps: BTreeSet<&str> = checks
        .filter(|check| check.phase == Some(CheckPhase::Step))
        .map(|check| check.name.as_str())
        .collect();
    let mut names = required.checks.iter();
    required.objectives.is_empty() && names.all(|name| of_steps.contains(name.as_str()))
}

/// Checks that the objectives and checks of a step exist and can be evaluated during the step.
fn check_requirements(
    path: &str,
    requirements: &Requirements,
    spec: &RolloutSpec,
    problems: &mut Problems,
) {
    let Some(analysis) = &spec.analysis else {
        return;
    };
    for name in &requirements.objectives {
        if analysis
            .objectives
            .iter()
            .all(|objective| objective.name != *name)
        {
            let known: Vec<&str> = analysis
                .objectives
                .iter()
                .map(|objective| objective.name.as_str())
                .collect();
            let fix = format!("use one of spec.analysis.objectives: {}", known.join(", "));
            problems.invalid(
                format!("{path}.objectives"),
                name,
                "there is no such objective",
                fix,
            );
        }
    }
    let decides = |check: &&CheckSpec| {
        let phase = check.phase.unwrap_or_default();
        check.dry_run != Some(true) && matches!(phase, CheckPhase::Release | CheckPhase::Step)
    };
    for name in &requirements.checks {
        let path = format!("{path}.checks");
        let known: Vec<&str> = analysis
            .checks
            .iter()
            .filter(decides)
            .map(|check| check.name.as_str())
            .collect();
        let fix = format!(
            "use one of the checks with phase release or step: {}",
            known.join(", ")
        );
        match analysis.checks.iter().find(|check| check.name == *name) {
            None => problems.invalid(path, name, "there is no such check", fix),
            Some(check) if !decides(&check) => {
                problems.invalid(
                    path,
                    name,
                    "it is not queried during the release, or it is a dry run",
                    fix,
                );
            }
            Some(_) => {}
        }
    }
}
