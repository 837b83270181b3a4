//! The analysis of a spec, checked. The PromQL itself is parsed where it is used.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serin_core::plan::Analysis;

use super::checks;
use super::problem::Problems;
use super::values::{DAY, HOUR, MILLISECOND, SECOND, duration_in};
use crate::analysis::{
    AnalysisSpec, CountersSpec, Indicator, ObjectiveSpec, PrometheusSpec, VariantsSpec,
};
use crate::rollout::RolloutSpec;
use crate::text::parse_percentage;

const PATH: &str = "spec.analysis";
const DEFAULT_MAX_DURATION: Duration = HOUR;
pub(super) const MAX_DURATION_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY.saturating_mul(30);
const WARM_UP_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const STEP_DOWN_BOUNDS: RangeInclusive<Duration> =
    SECOND.saturating_mul(10)..=DAY.saturating_mul(30);
const SCRAPE_INTERVAL_BOUNDS: RangeInclusive<Duration> = MILLISECOND.saturating_mul(100)..=HOUR;
const THRESHOLD_BOUNDS: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const WINDOW_BOUNDS: RangeInclusive<Duration> = HOUR..=DAY.saturating_mul(366);
/// Above this a "bound on rolling back a good release" bounds nothing that anybody would want.
const FALSE_ROLLBACK_MOST: f64 = 0.1;

pub(super) fn analysis(spec: &RolloutSpec, problems: &mut Problems) -> Option<Analysis> {
    let analysis = spec.analysis.as_ref()?;
    if analysis.objectives.is_empty() && analysis.checks.is_empty() {
        let fix = "add one, for example {name: availability, objective: 99.9, indicator: traefik}";
        problems.required(
            format!("{PATH}.objectives"),
            "an analysis needs an objective or a check",
            fix,
        );
    }
    let routed = spec.strategy.canary.traffic_routing.is_some();
    let mut names = BTreeSet::new();
    for (index, objective) in analysis.objectives.iter().enumerate() {
        let path = format!("{PATH}.objectives[{index}]");
        if !names.insert(&objective.name) {
            problems.invalid(
                format!("{path}.name"),
                &objective.name,
                "another objective has this name",
                "give each its own",
            );
        }
        check_objective(&path, objective, routed, problems);
    }
    check_prometheus(analysis, problems);
    check_rollback_and_budget(analysis, problems);
    if let Some(text) = analysis
        .on_no_data
        .as_ref()
        .and_then(|on_no_data| on_no_data.step_down_after.as_ref())
    {
        duration_in(
            &format!("{PATH}.onNoData.stepDownAfter"),
            text,
            &STEP_DOWN_BOUNDS,
            problems,
        );
    }
    let warm_up = analysis.warm_up.as_ref();
    let warm_up = warm_up
        .and_then(|text| duration_in(&format!("{PATH}.warmUp"), text, &WARM_UP_BOUNDS, problems));
    let max_duration = max_duration(analysis, problems);
    let checks = checks::checks(spec, analysis, max_duration, problems);
    let bake = checks::bake(spec, analysis, problems);
    Some(Analysis {
        max_duration,
        warm_up: warm_up.unwrap_or(Analysis::DEFAULT_WARM_UP),
        checks,
        bake,
    })
}

fn max_duration(analysis: &AnalysisSpec, problems: &mut Problems) -> Duration {
    let text = analysis.max_duration.as_ref();
    text.and_then(|text| {
        duration_in(
            &format!("{PATH}.maxDuration"),
            text,
            &MAX_DURATION_BOUNDS,
            problems,
        )
    })
    .unwrap_or(DEFAULT_MAX_DURATION)
}

fn check_objective(path: &str, objective: &ObjectiveSpec, routed: bool, problems: &mut Problems) {
    if objective.name.is_empty() {
        problems.required(
            format!("{path}.name"),
            "an objective needs a name",
            "for example availability",
        );
    }
    if !(objective.objective > 0.0 && objective.objective < 100.0) {
        let problem =
            "it must be over 0 and under 100 percent: at 100 there is no error budget to spend";
        problems.invalid(
            format!("{path}.objective"),
            &objective.objective,
            problem,
            "for example 99.9",
        );
    }
    if let Some(window) = &objective.window {
        duration_in(&format!("{path}.window"), window, &WINDOW_BOUNDS, problems);
    }
    if let Some(latency) = &objective.latency {
        duration_in(
            &format!("{path}.latency.threshold"),
            &latency.threshold,
            &THRESHOLD_BOUNDS,
            problems,
        );
    }
    match (&objective.indicator, &objective.counters) {
        (Some(indicator @ Indicator::EnvoyGateway), None) => {
            let problem = "it counts all backends of a rule as one, so that canary and stable cannot be told apart";
            let fix = "use the indicator pod, or counters of your own";
            problems.invalid(format!("{path}.indicator"), indicator, problem, fix);
        }
        (Some(indicator), None) if routed || *indicator == Indicator::Pod => {}
        (Some(indicator), None) => {
            let fix = "add spec.strategy.canary.trafficRouting, or write counters that tell the pods apart";
            let problem = "it reads the router's counters of the two Services, and this Rollout has no router";
            problems.invalid(format!("{path}.indicator"), indicator, problem, fix);
        }
        (None, Some(counters)) => {
            let path = format!("{path}.counters");
            match &counters.errors {
                Some(errors) => check_errors(
                    &path,
                    counters,
                    errors,
                    objective.latency.is_some(),
                    problems,
                ),
                None if objective.latency.is_some() => check_histogram(&path, counters, problems),
                None => problems.required(
                    format!("{path}.errors"),
                    "nothing says which requests are bad",
                    "select them, or write latency",
                ),
            }
            check_counters(&path, counters, problems);
        }
        (None, None) => {
            problems.required(
                format!("{path}.indicator"),
                "nothing says where the counters are",
                "write indicator, or counters",
            );
        }
        (Some(indicator), Some(_)) => {
            let fix = "keep one of the two";
            problems.invalid(
                format!("{path}.indicator"),
                indicator,
                "counters are written beside it",
                fix,
            );
        }
    }
}

fn check_counters(path: &str, counters: &CountersSpec, problems: &mut Problems) {
    for (field, selector) in [
        ("total", Some(&counters.total)),
        ("errors", counters.errors.as_ref()),
    ] {
        if let Some(selector) = selector.filter(|selector| !is_bare_selector(selector)) {
            let fix = "write the counter itself without rate, sum or range, for example http_requests_total{job=\"shop\"}";
            problems.invalid(
                format!("{path}.{field}"),
                selector,
                "it is not a bare series selector",
                fix,
            );
        }
    }
    if let Some(variants) = &counters.variants {
        check_variants(&format!("{path}.variants"), variants, problems);
    }
}

fn check_errors(
    path: &str,
    counters: &CountersSpec,
    errors: &String,
    is_timed: bool,
    problems: &mut Problems,
) {
    if is_timed {
        let fix = "keep one of the two";
        problems.invalid(
            format!("{path}.errors"),
            errors,
            "latency says which requests are bad",
            fix,
        );
    }
    if counters.total == *errors {
        let problem = "it equals total, so that every request would count as bad";
        problems.invalid(
            format!("{path}.errors"),
            errors,
            problem,
            "select the bad ones, for example by code=~\"5..\"",
        );
    }
}

/// With a latency objective, total is the count of a histogram whose unit is known.
fn check_histogram(path: &str, counters: &CountersSpec, problems: &mut Problems) {
    let name = counters.total.split('{').next().unwrap_or_default();
    if !["_seconds_count", "_milliseconds_count"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
    {
        let problem = "with latency it is the count of a histogram whose name says its unit";
        let fix = "for example http_request_duration_seconds_count{namespace=\"shop\"}";
        problems.invalid(format!("{path}.total"), &counters.total, problem, fix);
    }
}

/// Whether a text has the outer form of a series selector; its matchers are parsed where they are
/// used.
fn is_bare_selector(text: &str) -> bool {
    let (name, matchers) = text.split_at(text.find('{').unwrap_or(text.len()));
    let name_is_plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    name_is_plain && !text.is_empty() && (matchers.is_empty() || matchers.ends_with('}'))
}

fn check_variants(path: &str, variants: &VariantsSpec, problems: &mut Problems) {
    let by_value = [&variants.label, &variants.canary, &variants.stable];
    match &variants.pod_label {
        Some(pod_label) if by_value.iter().any(|field| field.is_some()) => {
            let fix = "keep podLabel, or label, canary and stable";
            problems.invalid(
                format!("{path}.podLabel"),
                pod_label,
                "label, canary or stable are written beside it",
                fix,
            );
        }
        None if by_value.iter().any(|field| field.is_none()) => {
            let fix = "write podLabel, or all of label, canary and stable";
            problems.required(path, "nothing tells canary from stable", fix);
        }
        _ => {}
    }
    for (field, label) in [
        ("podLabel", &variants.pod_label),
        ("label", &variants.label),
    ] {
        if let Some(label) = label.as_ref().filter(|label| !is_label_name(label)) {
            let fix = "use letters, digits and underscores, for example pod";
            problems.invalid(
                format!("{path}.{field}"),
                label,
                "it is not the name of a Prometheus label",
                fix,
            );
        }
    }
    if variants.canary.is_some() && variants.canary == variants.stable {
        let fix = "give each side a value of its own";
        problems.invalid(
            format!("{path}.canary"),
            &variants.canary,
            "it equals stable, so the two sides cannot be told apart",
            fix,
        );
    }
}

fn is_label_name(text: &str) -> bool {
    let head = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    head && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_prometheus(analysis: &AnalysisSpec, problems: &mut Problems) {
    let Some(prometheus) = &analysis.prometheus else {
        return;
    };
    let path = format!("{PATH}.prometheus");
    if let Some(address) = &prometheus.address {
        let fix = "for example http://prometheus.monitoring:9090";
        let host = address
            .strip_prefix("http://")
            .or_else(|| address.strip_prefix("https://"));
        let authority = host.map(|rest| rest.split('/').next().unwrap_or_default());
        if authority
            .is_none_or(|authority| authority.is_empty() || address.contains(char::is_whitespace))
        {
            problems.invalid(
                format!("{path}.address"),
                address,
                "it is not an http or https URL",
                fix,
            );
        } else if authority.is_some_and(|authority| authority.contains('@')) {
            problems.invalid(
                format!("{path}.address"),
                &"...",
                "it holds a name or password that everyone can read here",
                fix,
            );
        } else if address.contains(['?', '#']) {
            problems.invalid(
                format!("{path}.address"),
                address,
                "a base URL has no query and no fragment",
                fix,
            );
        }
    }
    if let Some(interval) = &prometheus.scrape_interval {
        duration_in(
            &format!("{path}.scrapeInterval"),
            interval,
            &SCRAPE_INTERVAL_BOUNDS,
            problems,
        );
    }
    check_access(&path, prometheus, problems);
}

/// What opens a Prometheus is for one that the Rollout names, and TLS for one that speaks it.
fn check_access(path: &str, prometheus: &PrometheusSpec, problems: &mut Problems) {
    let PrometheusSpec {
        address,
        headers_from,
        tls,
        ..
    } = prometheus;
    if address.is_none() && (headers_from.is_some() || tls.is_some()) {
        let fix = "for example https://prometheus.monitoring:9090; the controller's default is asked in the controller's own name";
        problems.required(
            format!("{path}.address"),
            "headersFrom and tls are for a Prometheus that is named",
            fix,
        );
    }
    let Some(tls) = tls else { return };
    if let Some(address) = address
        .as_ref()
        .filter(|address| !address.starts_with("https://"))
    {
        problems.invalid(
            format!("{path}.address"),
            address,
            "tls is written beside it",
            "use https, or remove tls",
        );
    }
    if tls.ca_from.is_none() && tls.client_certificate_from.is_none() {
        let fix = "write caFrom, clientCertificateFrom or both, or remove tls";
        problems.required(format!("{path}.tls.caFrom"), "tls says nothing", fix);
    }
    if let Some(ca) = tls
        .ca_from
        .as_ref()
        .filter(|ca| ca.config_map_key_ref.is_some() == ca.secret_key_ref.is_some())
    {
        let fix = "write either configMapKeyRef or secretKeyRef";
        problems.invalid(format!("{path}.tls.caFrom"), ca, "one place is needed", fix);
    }
}

fn check_rollback_and_budget(analysis: &AnalysisSpec, problems: &mut Problems) {
    if let Some(probability) = analysis
        .rollback
        .as_ref()
        .and_then(|rollback| rollback.false_rollback_probability)
        && !(probability > 0.0 && probability <= FALSE_ROLLBACK_MOST)
    {
        let path = format!("{PATH}.rollback.falseRollbackProbability");
        problems.invalid(
            path,
            &probability,
            "it must be over 0 and at most 0.1",
            "0.01 rolls back at most one good release in a hundred",
        );
    }
    let Some(budget) = &analysis.budget else {
        return;
    };
    for (field, share) in [
        ("maxShareOfBudget", &budget.max_share_of_budget),
        ("maxShareOfRemaining", &budget.max_share_of_remaining),
    ] {
        let Some(text) = share else { continue };
        let path = format!("{PATH}.budget.{field}");
        match parse_percentage(text) {
            Ok(share) if share > 0.0 => {}
            Ok(_) => problems.invalid(
                path,
                text,
                "a release that may cost no error at all can never run",
                "use more than 0%, for example 2%",
            ),
            Err(error) => problems.invalid(path, text, error.to_string(), "for example 2%"),
        }
    }
}
