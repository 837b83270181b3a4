//! The checks of a spec, and the watch after promotion: what they ask is read here, so that a
//! mistake is told at admission.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use serin_core::plan::{BakePlan, Canary};

use super::problem::{CANARY, Problems};
use super::values::{DAY, SECOND, count, duration_in};
use super::{pace, steps};
use crate::analysis::{AnalysisSpec, CheckPhase, CheckSpec};
use crate::check::{BUILT_IN_ARGS, Condition, is_arg_name, query};
use crate::rollout::RolloutSpec;
use crate::text::format_duration;

const PATH: &str = "spec.analysis";
const INTERVAL_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY;
const INITIAL_DELAY_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const BAKE_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY.saturating_mul(30);

/// The checks that must have succeeded before a release is promoted, by name.
pub(super) fn checks(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    max_duration: Duration,
    problems: &mut Problems,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, check) in analysis.checks.iter().enumerate() {
        let path = format!("{PATH}.checks[{index}]");
        if !names.insert(&check.name) {
            problems.invalid(
                format!("{path}.name"),
                &check.name,
                "another check has this name",
                "give each its own",
            );
        }
        check_one(&path, check, problems);
        check_initial_delay(&path, check, max_duration, problems);
        if check.phase == Some(CheckPhase::Bake) && analysis.bake_time.is_none() {
            let fix = "add spec.analysis.bakeTime, for example 10m";
            problems.invalid(
                format!("{path}.phase"),
                &check.phase,
                "nothing is watched after promotion",
                fix,
            );
        }
    }
    let required = decisive(analysis, |time| time != CheckPhase::Bake);
    if !required.is_empty() {
        check_traffic(spec, problems);
    }
    required
}

/// The bake of a release that has all of the traffic.
pub(super) fn bake(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    problems: &mut Problems,
) -> Option<BakePlan> {
    let text = analysis.bake_time.as_ref()?;
    let path = format!("{PATH}.bakeTime");
    if spec.strategy.canary.traffic_routing.is_none() {
        let problem =
            "without trafficRouting nothing takes the traffic back from a promoted release";
        problems.invalid(
            &path,
            text,
            problem,
            "add spec.strategy.canary.trafficRouting, or remove it",
        );
    }
    let duration = duration_in(&path, text, &BAKE_BOUNDS, problems)?;
    Some(BakePlan {
        duration,
        checks: decisive(analysis, |time| time == CheckPhase::Bake),
    })
}

fn decisive(analysis: &AnalysisSpec, at: impl Fn(CheckPhase) -> bool) -> BTreeSet<String> {
    let decides =
        |check: &&CheckSpec| check.dry_run != Some(true) && at(check.phase.unwrap_or_default());
    analysis
        .checks
        .iter()
        .filter(decides)
        .map(|check| check.name.clone())
        .collect()
}

fn check_one(path: &str, check: &CheckSpec, problems: &mut Problems) {
    if check.name.is_empty() {
        problems.required(
            format!("{path}.name"),
            "a check needs a name",
            "for example queue-length",
        );
    }
    let mut args: BTreeMap<&str, &str> = BUILT_IN_ARGS.iter().map(|name| (*name, "x")).collect();
    for (index, arg) in check.args.iter().enumerate() {
        let path = format!("{path}.args[{index}].name");
        if !is_arg_name(&arg.name) {
            let fix = "use letters, digits, dashes and underscores, beginning with a letter";
            problems.invalid(path, &arg.name, "it is not the name of an argument", fix);
        } else if args.insert(&arg.name, &arg.value).is_some() {
            let problem = "every query has this argument already, or it is written twice";
            problems.invalid(path, &arg.name, problem, "use another name");
        }
    }
    if let Err(problem) = query(&check.query, &args) {
        let fix =
            "write PromQL that gives a vector or a scalar, for example sum(rate(errors_total[5m]))";
        problems.invalid(format!("{path}.query"), &check.query, problem, fix);
    }
    if let Err(problem) = Condition::parse(&check.condition) {
        let fix = "write CEL over the list of numbers, for example result[0] < 0.05";
        problems.invalid(format!("{path}.condition"), &check.condition, problem, fix);
    }
    if let Some(interval) = &check.interval {
        duration_in(
            &format!("{path}.interval"),
            interval,
            &INTERVAL_BOUNDS,
            problems,
        );
    }
    count(
        &format!("{path}.failureLimit"),
        check.failure_limit,
        0,
        problems,
    );
}

/// A check that begins after the release has become inconclusive would never be queried.
fn check_initial_delay(
    path: &str,
    check: &CheckSpec,
    max_duration: Duration,
    problems: &mut Problems,
) {
    let Some(text) = &check.initial_delay else {
        return;
    };
    let path = format!("{path}.initialDelay");
    let Some(delay) = duration_in(&path, text, &INITIAL_DELAY_BOUNDS, problems) else {
        return;
    };
    if check.phase != Some(CheckPhase::Bake) && delay >= max_duration {
        let max_duration = format_duration(max_duration);
        let problem = format!(
            "it must be shorter than the maximum duration of the analysis, which is {max_duration}"
        );
        problems.invalid(
            path,
            text,
            problem,
            "use a shorter initialDelay, or a longer spec.analysis.maxDuration",
        );
    }
}

/// A check can only succeed while the canary has traffic, and promotion waits for it.
fn check_traffic(spec: &RolloutSpec, problems: &mut Problems) {
    let written = spec.strategy.canary.steps.as_deref();
    let has_traffic = match written {
        // The steps' own problems are told where they are read.
        Some(written) => {
            let routed = spec.strategy.canary.traffic_routing.is_some();
            let steps = steps::steps(spec, written, routed, &mut Problems::default());
            !Canary::weight_at(&steps, steps.len()).is_zero()
        }
        None => pace::has_evidence(spec, spec.strategy.canary.traffic_routing.is_some()),
    };
    if !has_traffic {
        let problem = "a check can only succeed while the canary has traffic, and at the end of the steps it has none";
        problems.required(
            format!("{CANARY}.steps"),
            problem,
            "end with a setWeight over 0, or let the checks be dryRun",
        );
    }
}
