//! Validation of the checks and of the bake. Queries and conditions are parsed here, so that
//! mistakes are reported before a release begins.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use serin_core::plan::{BakePlan, Canary};

use super::analysis::{check_reference_fields, is_unresolved};
use super::problem::{CANARY, Problems};
use super::values::{DAY, SECOND, non_negative, parse_duration_in};
use super::{check_sources, pace, steps};
use crate::analysis::{AnalysisSpec, CheckPhase, CheckSpec};
use crate::check::{BUILT_IN_ARGS, Condition, is_arg_name, render_query};
use crate::literals::format_duration;
use crate::rollout::RolloutSpec;

const PATH: &str = "spec.analysis";
const INTERVAL_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY;
const INITIAL_DELAY_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const BAKE_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY.saturating_mul(30);

/// Names of the checks that must succeed before a release is promoted.
pub(super) fn required_checks(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    max_duration: Duration,
    problems: &mut Problems,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, check) in analysis.checks.iter().enumerate() {
        let path = format!("{PATH}.checks[{index}]");
        if is_unresolved(&format!("{path}.ref"), check.reference.as_ref(), problems) {
            continue;
        }
        let (template, parameters) = (&check.analysis_template, &check.parameters);
        check_reference_fields(&path, template.as_ref(), parameters, problems);
        if !names.insert(&check.name) {
            problems.invalid(
                format!("{path}.name"),
                &check.name,
                "another check has this name",
                "use a unique name",
            );
        }
        check_definition(&path, check, problems);
        check_initial_delay(&path, check, max_duration, problems);
        if check.phase == Some(CheckPhase::Bake) && analysis.bake_time.is_none() {
            let fix = "add spec.analysis.bakeTime, for example 10m";
            problems.invalid(
                format!("{path}.phase"),
                &check.phase,
                "there is no bake",
                fix,
            );
        }
    }
    let required = decisive_checks(analysis, |phase| {
        matches!(phase, CheckPhase::Release | CheckPhase::BeforePromotion)
    });
    // The checks of blue/green are about a preview without traffic.
    if !required.is_empty() && spec.strategy.blue_green.is_none() {
        check_traffic(spec, problems);
    }
    required
}

/// Names of the checks that must succeed before the first traffic.
pub(super) fn checks_before_traffic(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    problems: &mut Problems,
) -> BTreeSet<String> {
    let routed = spec.strategy.as_canary().traffic_routing.is_some();
    let is_blue_green = spec.strategy.blue_green.is_some();
    for (index, check) in analysis.checks.iter().enumerate() {
        let path = format!("{PATH}.checks[{index}].phase");
        let (problem, fix) = match check.phase.unwrap_or_default() {
            CheckPhase::Release if check.job.is_some() => (
                "a Job runs once, and this phase repeats its checks",
                "use step, beforeTraffic, beforePromotion or bake",
            ),
            CheckPhase::Step | CheckPhase::BeforeTraffic if is_blue_green => (
                "blueGreen has no steps, and its preview has no traffic",
                "use phase beforePromotion",
            ),
            CheckPhase::Step if !is_named_by_step(spec, &check.name) => (
                "no step names it, so it would never run",
                "add a step, for example analysis: {checks: [NAME]}, or use another phase",
            ),
            CheckPhase::BeforeTraffic if check.dry_run == Some(true) => (
                "the first traffic does not wait for a dry run, so it would never run",
                "remove dryRun, or use another phase",
            ),
            CheckPhase::BeforeTraffic if !pace::is_evidence_paced(spec, routed) => (
                "only a release whose pace is set by evidence has this phase",
                "use phase step, and a step analysis: {checks: [NAME]} before the first setWeight",
            ),
            _ => continue,
        };
        problems.invalid(path, &check.phase, problem, fix);
    }
    decisive_checks(analysis, |phase| phase == CheckPhase::BeforeTraffic)
}

fn is_named_by_step(spec: &RolloutSpec, name: &str) -> bool {
    let canary = spec.strategy.as_canary();
    let steps = canary.steps.iter().flatten();
    let mut checks = steps.filter_map(|step| step.analysis.as_ref()?.checks.as_ref());
    checks.any(|checks| checks.iter().any(|check| check == name))
}

/// The bake of a release that has all of the traffic.
pub(super) fn bake_plan(
    spec: &RolloutSpec,
    analysis: &AnalysisSpec,
    problems: &mut Problems,
) -> Option<BakePlan> {
    let text = analysis.bake_time.as_ref()?;
    let path = format!("{PATH}.bakeTime");
    let strategy = &spec.strategy;
    if strategy.blue_green.is_none() && strategy.as_canary().traffic_routing.is_none() {
        let problem = "without trafficRouting the traffic cannot move back after a breach";
        problems.invalid(
            &path,
            text,
            problem,
            "add spec.strategy.canary.trafficRouting, or remove it",
        );
    }
    let duration = parse_duration_in(&path, text, &BAKE_BOUNDS, problems)?;
    Some(BakePlan {
        duration,
        checks: decisive_checks(analysis, |phase| phase == CheckPhase::Bake),
    })
}

fn decisive_checks(
    analysis: &AnalysisSpec,
    includes: impl Fn(CheckPhase) -> bool,
) -> BTreeSet<String> {
    let decides = |check: &&CheckSpec| {
        check.dry_run != Some(true) && includes(check.phase.unwrap_or_default())
    };
    analysis
        .checks
        .iter()
        .filter(decides)
        .map(|check| check.name.clone())
        .collect()
}

fn check_definition(path: &str, check: &CheckSpec, problems: &mut Problems) {
    if check.name.is_empty() {
        problems.required(
            format!("{path}.name"),
            "a check needs a name",
            "set a name, for example queue-length",
        );
    }
    let mut args: BTreeMap<&str, &str> = BUILT_IN_ARGS.iter().map(|name| (*name, "x")).collect();
    for (index, arg) in check.args.iter().enumerate() {
        let path = format!("{path}.args[{index}].name");
        if !is_arg_name(&arg.name) {
            let fix = "use letters, digits, dashes and underscores, starting with a letter";
            problems.invalid(path, &arg.name, "it is not a valid argument name", fix);
        } else if args.insert(&arg.name, &arg.value).is_some() {
            let problem = "it is a built-in argument, or it is defined twice";
            problems.invalid(path, &arg.name, problem, "use another name");
        }
    }
    check_source(path, check, &args, problems);
    if let Some(interval) = &check.interval {
        parse_duration_in(
            &format!("{path}.interval"),
            interval,
            &INTERVAL_BOUNDS,
            problems,
        );
    }
    non_negative(
        &format!("{path}.failureLimit"),
        check.failure_limit,
        0,
        problems,
    );
}

/// Checks what a check queries, requests or runs.
fn check_source(
    path: &str,
    check: &CheckSpec,
    args: &BTreeMap<&str, &str>,
    problems: &mut Problems,
) {
    match (&check.http, &check.job) {
        (Some(http), None) if check.query.is_empty() => {
            check_sources::check_http(path, check, http, args, problems);
        }
        (None, Some(job)) if check.query.is_empty() => {
            check_sources::check_job(path, check, job, args, problems);
        }
        (None, None) => check_query(path, check, args, problems),
        _ => {
            let fix = "keep one of query, http and job";
            problems.invalid(path, &check.name, "a check has one source", fix);
        }
    }
}

fn check_query(
    path: &str,
    check: &CheckSpec,
    args: &BTreeMap<&str, &str>,
    problems: &mut Problems,
) {
    if let Err(problem) = render_query(&check.query, args) {
        let fix = "write PromQL that returns a vector or a scalar, for example sum(rate(errors_total[5m]))";
        problems.invalid(format!("{path}.query"), &check.query, problem, fix);
    }
    if let Err(problem) = Condition::parse(&check.condition) {
        let fix = "write a CEL expression over the list result, for example result[0] < 0.05";
        problems.invalid(format!("{path}.condition"), &check.condition, problem, fix);
    }
}

/// A check that starts after the release has become inconclusive would never be queried.
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
    let Some(delay) = parse_duration_in(&path, text, &INITIAL_DELAY_BOUNDS, problems) else {
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

/// Promotion waits for the checks, and a check can only succeed while the canary receives traffic.
fn check_traffic(spec: &RolloutSpec, problems: &mut Problems) {
    let canary = spec.strategy.as_canary();
    let routed = canary.traffic_routing.is_some();
    let has_traffic = match canary.steps.as_deref() {
        // Problems of the steps are reported elsewhere.
        Some(steps) => {
            let steps = steps::steps(spec, steps, routed, &mut Problems::default());
            !Canary::weight_at(&steps, steps.len()).is_zero()
        }
        None => pace::is_evidence_paced(spec, routed),
    };
    if !has_traffic {
        let problem = "a check can only succeed while the canary receives traffic, and at the end of the steps it receives none";
        problems.required(
            format!("{CANARY}.steps"),
            problem,
            "end with a setWeight above 0, or set dryRun on the checks",
        );
    }
}
