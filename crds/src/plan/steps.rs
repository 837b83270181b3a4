//! The steps of a spec, checked: each by itself, and each against those before it.

use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serin_core::plan::{CanaryScale, Requirements, Step};
use serin_core::units::Weight;

use super::problem::{CANARY as PATH, Problems};
use super::values::{DAY, MILLISECOND, count, duration_in, weight};
use crate::analysis::{CheckPhase, CheckSpec};
use crate::rollout::RolloutSpec;
use crate::strategy::{AnalysisStepSpec, CanaryScaleSpec, PauseSpec, StepSpec};

const WAIT_BOUNDS: RangeInclusive<Duration> = MILLISECOND..=DAY.saturating_mul(365);

/// What the steps so far have brought about.
struct SoFar {
    weight: Weight,
    /// The canary was told to have no pods at all.
    empty: bool,
}

pub(super) fn steps(
    spec: &RolloutSpec,
    written: &[StepSpec],
    routed: bool,
    problems: &mut Problems,
) -> Vec<Step> {
    let mut so_far = SoFar {
        weight: Weight::ZERO,
        empty: false,
    };
    let mut steps = Vec::with_capacity(written.len());
    for (index, step) in written.iter().enumerate() {
        let path = format!("{PATH}.steps[{index}]");
        let Some(step) = one(&path, step, problems) else {
            continue;
        };
        check(&path, &step, spec, routed, &mut so_far, problems);
        steps.push(step);
    }
    steps
}

/// A step is exactly one of its fields.
fn one(path: &str, step: &StepSpec, problems: &mut Problems) -> Option<Step> {
    match step {
        StepSpec {
            set_weight: Some(percent),
            pause: None,
            set_canary_scale: None,
            analysis: None,
        } => weight(&format!("{path}.setWeight"), *percent, problems).map(Step::SetWeight),
        StepSpec {
            set_weight: None,
            pause: Some(pause),
            set_canary_scale: None,
            analysis: None,
        } => pause_step(&format!("{path}.pause.duration"), pause, problems),
        StepSpec {
            set_weight: None,
            pause: None,
            set_canary_scale: Some(scale),
            analysis: None,
        } => scale_step(&format!("{path}.setCanaryScale"), scale, problems),
        StepSpec {
            set_weight: None,
            pause: None,
            set_canary_scale: None,
            analysis: Some(analysis),
        } => analysis_step(&format!("{path}.analysis"), analysis, problems),
        step => {
            let fix = "write exactly one of setWeight, pause, setCanaryScale, analysis";
            problems.invalid(path, step, "a step does one thing", fix);
            None
        }
    }
}

/// For a duration, for what is named, or for all of it.
fn analysis_step(path: &str, analysis: &AnalysisStepSpec, problems: &mut Problems) -> Option<Step> {
    let AnalysisStepSpec {
        duration,
        objectives,
        checks,
    } = analysis;
    match (duration, objectives, checks) {
        (None, None, None) => Some(Step::Analysis(None)),
        (Some(text), None, None) => {
            let duration = duration_in(&format!("{path}.duration"), text, &WAIT_BOUNDS, problems)?;
            Some(Step::Analysis(Some(duration)))
        }
        (None, objectives, checks) => {
            let names = |names: &Option<Vec<String>>| names.iter().flatten().cloned().collect();
            let questions = Requirements {
                objectives: names(objectives),
                checks: names(checks),
            };
            if questions == Requirements::default() {
                problems.required(
                    path,
                    "it waits for nothing",
                    "name an objective or a check, or write analysis: {}",
                );
                return None;
            }
            Some(Step::Require(questions))
        }
        (Some(text), _, _) => {
            let fix = "keep duration, or objectives and checks";
            problems.invalid(
                format!("{path}.duration"),
                text,
                "objectives or checks are named beside it",
                fix,
            );
            None
        }
    }
}

/// A bare number is a number of seconds, as it is in Argo Rollouts.
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
    duration_in(path, &text, &WAIT_BOUNDS, problems).map(|duration| Step::Pause(Some(duration)))
}

fn scale_step(path: &str, scale: &CanaryScaleSpec, problems: &mut Problems) -> Option<Step> {
    let scale = match scale {
        CanaryScaleSpec {
            replicas: Some(replicas),
            weight: None,
            match_traffic_weight: None,
        } => CanaryScale::Replicas(count(
            &format!("{path}.replicas"),
            Some(*replicas),
            0,
            problems,
        )),
        CanaryScaleSpec {
            replicas: None,
            weight: Some(percent),
            match_traffic_weight: None,
        } => CanaryScale::Weight(weight(&format!("{path}.weight"), *percent, problems)?),
        CanaryScaleSpec {
            replicas: None,
            weight: None,
            match_traffic_weight: Some(true),
        } => CanaryScale::MatchTrafficWeight,
        scale => {
            let fix = "write exactly one of replicas, weight, matchTrafficWeight: true";
            problems.invalid(path, scale, "the canary has one size", fix);
            return None;
        }
    };
    Some(Step::SetCanaryScale(scale))
}

/// What a step asks for must be possible where the steps before it have led.
fn check(
    path: &str,
    step: &Step,
    spec: &RolloutSpec,
    routed: bool,
    so_far: &mut SoFar,
    problems: &mut Problems,
) {
    match step {
        Step::SetWeight(weight) => {
            so_far.weight = *weight;
            if so_far.empty && !weight.is_zero() {
                let fix = "put a setCanaryScale with pods before it";
                problems.invalid(
                    format!("{path}.setWeight"),
                    weight,
                    "the canary has no pods here to take traffic",
                    fix,
                );
            }
        }
        Step::Pause(_) => {}
        Step::SetCanaryScale(scale) => {
            let path = format!("{path}.setCanaryScale");
            so_far.empty = matches!(
                scale,
                CanaryScale::Replicas(0) | CanaryScale::Weight(Weight::ZERO)
            );
            if !routed {
                let fix = "add trafficRouting, or use setWeight";
                problems.invalid(
                    path,
                    scale,
                    "without trafficRouting the replica counts are the weights already",
                    fix,
                );
            } else if so_far.empty && !so_far.weight.is_zero() {
                let fix = format!(
                    "put setWeight: 0 before it, or keep pods for {}",
                    so_far.weight
                );
                problems.invalid(path, scale, "the canary has traffic here", fix);
            }
        }
        Step::Analysis(_) | Step::Require(_) => {
            let path = format!("{path}.analysis");
            if let Step::Require(questions) = step {
                check_names(&path, questions, spec, problems);
            }
            if spec.analysis.is_none() {
                problems.required(
                    "spec.analysis",
                    format!("{path} waits for evidence, and nothing gathers any"),
                    "add objectives there, or remove the step",
                );
            } else if so_far.weight.is_zero() || so_far.weight == Weight::FULL {
                let fix = "put a setWeight over 0 and under 100 before it";
                let problem = "canary and stable can only be compared while both have traffic";
                problems.invalid(path, &so_far.weight, problem, fix);
            }
        }
    }
}

/// What a step names is there, and can be answered while the step is at hand.
fn check_names(path: &str, questions: &Requirements, spec: &RolloutSpec, problems: &mut Problems) {
    let Some(analysis) = &spec.analysis else {
        return;
    };
    for name in &questions.objectives {
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
        check.dry_run != Some(true) && check.phase.unwrap_or_default() == CheckPhase::Release
    };
    for name in &questions.checks {
        let path = format!("{path}.checks");
        let known: Vec<&str> = analysis
            .checks
            .iter()
            .filter(decides)
            .map(|check| check.name.as_str())
            .collect();
        let fix = format!(
            "use one of spec.analysis.checks during the release: {}",
            known.join(", ")
        );
        match analysis.checks.iter().find(|check| check.name == *name) {
            None => problems.invalid(path, name, "there is no such check", fix),
            Some(check) if !decides(&check) => {
                problems.invalid(
                    path,
                    name,
                    "it is not asked during the release, or decides nothing",
                    fix,
                );
            }
            Some(_) => {}
        }
    }
}
