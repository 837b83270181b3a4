//! Validation of `spec.analysis`. The PromQL of the counters is parsed when they are queried.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serin_core::plan::Analysis;

use super::problem::Problems;
use super::values::{DAY, HOUR, MILLISECOND, SECOND, parse_duration_in};
use super::{baseline, calibration, checkpoint_size, checks};
use crate::analysis::{
    AnalysisSpec, CountersSpec, Indicator, ObjectiveSpec, PrometheusSpec, VariantsSpec,
};
use crate::analysis_template::ParameterValue;
use crate::comparison::CountedUnit;
use crate::literals::parse_percentage;
use crate::rollout::RolloutSpec;
use crate::status::{RELEASE_ANALYSIS_BYTES, serialized_bytes};

const PATH: &str = "spec.analysis";
const DEFAULT_MAX_DURATION: Duration = HOUR;
pub(super) const MAX_DURATION_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY.saturating_mul(30);
const WARM_UP_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const STEP_DOWN_BOUNDS: RangeInclusive<Duration> =
    SECOND.saturating_mul(10)..=DAY.saturating_mul(30);
const SCRAPE_INTERVAL_BOUNDS: RangeInclusive<Duration> = MILLISECOND.saturating_mul(100)..=HOUR;
const THRESHOLD_BOUNDS: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const WINDOW_BOUNDS: RangeInclusive<Duration> = HOUR..=DAY.saturating_mul(366);
/// A higher false rollback probability would not be a useful bound.
const MAX_FALSE_ROLLBACK_PROBABILITY: f64 = 0.1;

pub(super) fn analysis(spec: &RolloutSpec, problems: &mut Problems) -> Option<Analysis> {
    let analysis = spec.analysis.as_ref()?;
    check_size(analysis, problems);
    checkpoint_size::check(analysis, problems);
    if analysis.objectives.is_empty() && analysis.checks.is_empty() {
        let fix = "add one, for example {name: availability, objective: 99.9, indicator: traefik}";
        problems.required(
            format!("{PATH}.objectives"),
            "an analysis needs at least one objective or check",
            fix,
        );
    }
    let routed = spec.strategy.as_canary().traffic_routing.is_some();
    let mut names = BTreeSet::new();
    for (index, objective) in analysis.objectives.iter().enumerate() {
        let path = format!("{PATH}.objectives[{index}]");
        if is_unresolved(
            &format!("{path}.ref"),
            objective.reference.as_ref(),
            problems,
        ) {
            continue;
        }
        let (template, parameters) = (&objective.analysis_template, &objective.parameters);
        check_reference_fields(&path, template.as_ref(), parameters, problems);
        if !names.insert(&objective.name) {
            problems.invalid(
                format!("{path}.name"),
                &objective.name,
                "another objective has this name",
                "use a unique name",
            );
        }
        check_objective(&path, objective, routed, problems);
    }
    calibration::check(spec, analysis, problems);
    check_prometheus(analysis, problems);
    check_rollback_and_budget(analysis, problems);
    if let Some(text) = analysis
        .on_no_data
        .as_ref()
        .and_then(|on_no_data| on_no_data.step_down_after.as_ref())
    {
        parse_duration_in(
            &format!("{PATH}.onNoData.stepDownAfter"),
            text,
            &STEP_DOWN_BOUNDS,
            problems,
        );
    }
    let warm_up = analysis.warm_up.as_ref();
    let warm_up = warm_up.and_then(|text| {
        parse_duration_in(&format!("{PATH}.warmUp"), text, &WARM_UP_BOUNDS, problems)
    });
    let max_duration = max_duration(analysis, problems);
    let checks = checks::required_checks(spec, analysis, max_duration, problems);
    let checks_before_traffic = checks::checks_before_traffic(spec, analysis, problems);
    let bake = checks::bake_plan(spec, analysis, problems);
    Some(Analysis {
        max_duration,
        warm_up: warm_up.unwrap_or(Analysis::DEFAULT_WARM_UP),
        checks,
        checks_before_traffic,
        bake,
        baseline_pods: baseline::baseline_pods(spec, analysis, problems),
    })
}

/// The status of a release contains its analysis.
fn check_size(analysis: &AnalysisSpec, problems: &mut Problems) {
    if serialized_bytes(analysis) > RELEASE_ANALYSIS_BYTES {
        let value = format!("more than {RELEASE_ANALYSIS_BYTES} bytes of JSON");
        let fix = "shorten the queries and their arguments, or use recording rules";
        problems.invalid(
            PATH,
            &value,
            "it does not fit into the status of a release",
            fix,
        );
    }
}

/// Fields of a reference without one.
pub(super) fn check_reference_fields(
    path: &str,
    analysis_template: Option<&String>,
    parameters: &[ParameterValue],
    problems: &mut Problems,
) {
    let problem = "it belongs to a reference, but ref is not set";
    let fix = "add ref, or remove it";
    if let Some(template) = analysis_template {
        problems.invalid(format!("{path}.analysisTemplate"), template, problem, fix);
    }
    if !parameters.is_empty() {
        problems.invalid(format!("{path}.parameters"), &parameters, problem, fix);
    }
}

/// Whether an objective or a check is still a reference. The controller resolves references before
/// it makes a plan.
pub(super) fn is_unresolved(
    path: &str,
    reference: Option<&String>,
    problems: &mut Problems,
) -> bool {
    let Some(name) = reference else { return false };
    let problem = "it refers to a RolloutPolicy or an AnalysisTemplate, which is not known here";
    let fix = "add --policy FILE to kubectl serin lint or effective, or write it out";
    problems.invalid(path, name, problem, fix);
    true
}

fn max_duration(analysis: &AnalysisSpec, problems: &mut Problems) -> Duration {
    let text = analysis.max_duration.as_ref();
    text.and_then(|text| {
        parse_duration_in(
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
            "set a name, for example availability",
        );
    }
    if !(objective.objective > 0.0 && objective.objective < 100.0) {
        let problem = "it must be above 0 and below 100 percent: at 100 there is no error budget";
        problems.invalid(
            format!("{path}.objective"),
            &objective.objective,
            problem,
            "use for example 99.9",
        );
    }
    if let Some(window) = &objective.window {
        parse_duration_in(&format!("{path}.window"), window, &WINDOW_BOUNDS, problems);
    }
    if let Some(latency) = &objective.latency {
        parse_duration_in(
            &format!("{path}.latency.threshold"),
            &latency.threshold,
            &THRESHOLD_BOUNDS,
            problems,
        );
    }
    check_source(path, objective, routed, problems);
    check_unit(path, objective, problems);
}

/// A histogram counts requests.
fn check_unit(path: &str, objective: &ObjectiveSpec, problems: &mut Problems) {
    let unit = objective.counted_unit();
    if objective.latency.is_some() && unit != CountedUnit::Request {
        let problem = "a latency objective counts requests, because its histogram does";
        let fix = "remove unit, or replace latency with counters of slow sessions";
        problems.invalid(format!("{path}.counters.unit"), &unit, problem, fix);
    }
}

/// Checks that there is exactly one source of counters, and that it can be used.
fn check_source(path: &str, objective: &ObjectiveSpec, routed: bool, problems: &mut Problems) {
    if let Some(reference) = &objective.indicator_ref {
        let path = format!("{path}.indicatorRef.name");
        is_unresolved(&path, Some(&reference.name), problems);
        return;
    }
    match (&objective.indicator, &objective.counters) {
        (Some(indicator), None) if routed || *indicator == Indicator::Pod => {}
        (Some(indicator), None) => {
            let fix = "add spec.strategy.canary.trafficRouting, or use the indicator pod or custom counters";
            let problem = "it reads the router's metrics, but this Rollout has no router";
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
                    "it defines which requests are bad",
                    "add a selector of the bad requests, or set latency",
                ),
            }
            check_counters(&path, counters, problems);
        }
        (None, None) => {
            problems.required(
                format!("{path}.indicator"),
                "the source of the counters is missing",
                "set indicator or counters",
            );
        }
        (Some(indicator), Some(_)) => {
            let fix = "keep one of the two";
            problems.invalid(
                format!("{path}.indicator"),
                indicator,
                "it excludes counters, which are also set",
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
            let fix = "write the counter without rate, sum or range, for example http_requests_total{job=\"shop\"}";
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
    has_latency: bool,
    problems: &mut Problems,
) {
    if has_latency {
        let fix = "keep one of the two";
        problems.invalid(
            format!("{path}.errors"),
            errors,
            "it excludes latency, which is also set",
            fix,
        );
    }
    if counters.total == *errors {
        let problem = "it equals total, so every request would count as bad";
        problems.invalid(
            format!("{path}.errors"),
            errors,
            problem,
            "select only the bad requests, for example with code=~\"5..\"",
        );
    }
}

/// With a latency objective, `total` must be the count series of a histogram with a known unit.
fn check_histogram(path: &str, counters: &CountersSpec, problems: &mut Problems) {
    let name = counters.total.split('{').next().unwrap_or_default();
    if !["_seconds_count", "_milliseconds_count"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
    {
        let problem =
            "with latency it must be the count series of a histogram with its unit in the name";
        let fix = "use for example http_request_duration_seconds_count{namespace=\"shop\"}";
        problems.invalid(format!("{path}.total"), &counters.total, problem, fix);
    }
}

/// Whether the text has the outer form of a series selector. Its matchers are parsed when it is
/// used.
fn is_bare_selector(text: &str) -> bool {
    let (name, matchers) = text.split_at(text.find('{').unwrap_or(text.len()));
    let name_is_plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    name_is_plain && !text.is_empty() && (matchers.is_empty() || matchers.ends_with('}'))
}

fn check_variants(path: &str, variants: &VariantsSpec, problems: &mut Problems) {
    let value_fields = [&variants.label, &variants.canary, &variants.stable];
    match &variants.pod_label {
        Some(pod_label) if value_fields.iter().any(|field| field.is_some()) => {
            let fix = "keep podLabel, or label, canary and stable";
            problems.invalid(
                format!("{path}.podLabel"),
                pod_label,
                "it excludes label, canary and stable, which are also set",
                fix,
            );
        }
        None if value_fields.iter().any(|field| field.is_none()) => {
            let fix = "set podLabel, or all of label, canary and stable";
            problems.required(
                path,
                "there is no rule to distinguish canary from stable",
                fix,
            );
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
                "it is not a valid Prometheus label name",
                fix,
            );
        }
    }
    if variants.canary.is_some() && variants.canary == variants.stable {
        let fix = "use two different values";
        problems.invalid(
            format!("{path}.canary"),
            &variants.canary,
            "it equals stable, so canary and stable cannot be distinguished",
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
        let fix = "use for example http://prometheus.monitoring:9090";
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
                "it contains a user name or password, which everyone who can read the Rollout can see",
                fix,
            );
        } else if address.contains(['?', '#']) {
            problems.invalid(
                format!("{path}.address"),
                address,
                "a base URL must not have a query or fragment",
                fix,
            );
        }
    }
    if let Some(interval) = &prometheus.scrape_interval {
        parse_duration_in(
            &format!("{path}.scrapeInterval"),
            interval,
            &SCRAPE_INTERVAL_BOUNDS,
            problems,
        );
    }
    check_credentials(&path, prometheus, problems);
}

/// Headers and TLS settings require an address, TLS settings require https, and so do headers unless
/// the spec allows otherwise.
fn check_credentials(path: &str, prometheus: &PrometheusSpec, problems: &mut Problems) {
    let PrometheusSpec {
        address,
        headers_from,
        allow_insecure_headers,
        tls,
        scrape_interval: _,
    } = prometheus;
    if address.is_none() && (headers_from.is_some() || tls.is_some()) {
        let fix = "add it, for example https://prometheus.monitoring:9090: the controller's default Prometheus is queried with the controller's own credentials";
        problems.required(
            format!("{path}.address"),
            "headersFrom and tls require it",
            fix,
        );
    }
    let insecure_address = address
        .as_ref()
        .filter(|address| !address.starts_with("https://"));
    if let Some(address) = insecure_address
        && headers_from.is_some()
        && *allow_insecure_headers != Some(true)
    {
        problems.invalid(
            format!("{path}.address"),
            address,
            "headersFrom would be sent unencrypted, because the address is not https",
            "use https, or set allowInsecureHeaders: true",
        );
    }
    let Some(tls) = tls else { return };
    if let Some(address) = insecure_address {
        problems.invalid(
            format!("{path}.address"),
            address,
            "tls is set, but the address is not https",
            "use https, or remove tls",
        );
    }
    if tls.ca_from.is_none() && tls.client_certificate_from.is_none() {
        let fix = "set caFrom, clientCertificateFrom or both, or remove tls";
        problems.required(format!("{path}.tls.caFrom"), "tls is empty", fix);
    }
    if let Some(ca) = tls
        .ca_from
        .as_ref()
        .filter(|ca| ca.config_map_key_ref.is_some() == ca.secret_key_ref.is_some())
    {
        let fix = "set either configMapKeyRef or secretKeyRef";
        problems.invalid(
            format!("{path}.tls.caFrom"),
            ca,
            "it must have exactly one source",
            fix,
        );
    }
}

fn check_rollback_and_budget(analysis: &AnalysisSpec, problems: &mut Problems) {
    if let Some(probability) = analysis
        .rollback
        .as_ref()
        .and_then(|rollback| rollback.false_rollback_probability)
        && !(probability > 0.0 && probability <= MAX_FALSE_ROLLBACK_PROBABILITY)
    {
        let path = format!("{PATH}.rollback.falseRollbackProbability");
        problems.invalid(
            path,
            &probability,
            "it must be above 0 and at most 0.1",
            "use for example 0.01, which rolls back at most one good release in a hundred",
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
                "a release that may not cause any error can never run",
                "use more than 0%, for example 2%",
            ),
            Err(error) => problems.invalid(path, text, error.to_string(), "use for example 2%"),
        }
    }
}
