//! Analyses of Argo Rollouts: templates, arguments and metrics.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Names, probes};
use crate::checks::{
    Argument, Arguments, Converted, cel_condition, insert_fixed, insert_into_query, seconds,
};
use crate::fields::Fields;
use crate::objects::Objects;
use crate::promql::{Sides, objective};
use crate::rollout::RolloutDraft;

/// Providers of Argo Rollouts that have no counterpart.
const OTHER_PROVIDERS: [&str; 9] = [
    "datadog",
    "newRelic",
    "wavefront",
    "kayenta",
    "cloudWatch",
    "graphite",
    "influxdb",
    "skywalking",
    "plugin",
];

/// The analysis that runs beside the steps. Returns whether a metric of it could not be converted.
pub(super) fn background(
    set: &Objects<'_>,
    analysis: Option<Fields>,
    names: &Names,
    draft: &mut RolloutDraft,
) -> bool {
    let Some(mut analysis) = analysis else {
        return false;
    };
    let starts_at = analysis.path("startingStep");
    if analysis
        .number("startingStep")
        .is_some_and(|step| step > 0.0)
    {
        draft.notes.changed(
            starts_at,
            "the checks run from the first canary traffic on",
            "set initialDelay in the checks if they need time",
        );
    }
    let path = analysis.path("templates");
    let converted = convert(set, &mut analysis, names, draft);
    if converted.seconds.is_some() {
        draft.notes.changed(
            path,
            "a count ends the analysis in Argo Rollouts; the checks run until the release ends",
            "",
        );
    }
    analysis.finish(&mut draft.notes);
    converted.is_incomplete
}

/// An analysis as a step at this weight.
pub(super) fn step(
    set: &Objects<'_>,
    mut analysis: Fields,
    names: &Names,
    weight: f64,
    draft: &mut RolloutDraft,
) {
    let path = analysis.path("templates");
    draft.analysis.probe_phase = Some("step");
    let converted = convert(set, &mut analysis, names, draft);
    draft.analysis.probe_phase = None;
    analysis.finish(&mut draft.notes);
    if converted.is_incomplete || converted.is_empty() {
        draft.notes.changed(
            path,
            "the step waits for a person, because not all of its metrics could be converted",
            "check the metrics that the other notes name, and promote by hand",
        );
        draft.steps.push(json!({"pause": {}}));
        return;
    }
    if !converted.probes.is_empty() {
        let checks = json!({"analysis": {"checks": converted.probes}});
        draft.steps.push(checks);
        if converted.objectives.is_empty() && converted.checks.is_empty() {
            return;
        }
    }
    if weight <= 0.0 || weight >= 100.0 {
        draft.notes.changed(
            path,
            "the step is left out: canary and stable can only be compared while both get traffic. \
             The checks run as soon as they do",
            "put the step behind a setWeight above 0 and below 100",
        );
        return;
    }
    draft.notes.changed(
        path,
        "the checks also run before and after this step, while the canary has traffic",
        "",
    );
    let step = match converted.seconds.filter(|seconds| *seconds > 0.0) {
        Some(seconds) => json!({"analysis": {"duration": format!("{seconds}s")}}),
        None => {
            let mut names = Map::new();
            if !converted.objectives.is_empty() {
                names.insert("objectives".to_owned(), json!(converted.objectives));
            }
            if !converted.checks.is_empty() {
                names.insert("checks".to_owned(), json!(converted.checks));
            }
            json!({"analysis": names})
        }
    };
    draft.steps.push(step);
}

pub(super) fn convert(
    set: &Objects<'_>,
    analysis: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) -> Converted {
    // A name of the AnalysisRun, which Serin does not have.
    analysis.ignore(&["name"]);
    let arguments = arguments(analysis, names);
    let mut dry_runs: BTreeSet<String> = dry_run_names(analysis);
    let mut result = Converted {
        seconds: Some(0.0),
        ..Converted::default()
    };
    for mut reference in analysis.objects("templates") {
        let path = reference.path("templateName");
        let Some(template) = reference.text("templateName") else {
            continue;
        };
        let is_cluster = reference.flag("clusterScope");
        let mut seen = BTreeSet::new();
        let target = Target { set, names };
        target.template(
            &template,
            is_cluster,
            &path,
            &arguments,
            &mut dry_runs,
            &mut seen,
            &mut result,
            draft,
        );
        reference.finish(&mut draft.notes);
    }
    if result.is_empty() {
        result.seconds = None;
    }
    result
}

/// The arguments that a Rollout passes to its templates.
fn arguments(analysis: &mut Fields, names: &Names) -> Arguments {
    let mut arguments = Arguments::new();
    for mut argument in analysis.objects("args") {
        let Some(name) = argument.text("name") else {
            continue;
        };
        let value = match argument.text("value") {
            Some(text) => Argument::Text(text),
            None => value_from(argument.object("valueFrom"), names),
        };
        arguments.insert(name, value);
    }
    arguments
}

fn value_from(source: Option<Fields>, names: &Names) -> Argument {
    let Some(mut source) = source else {
        return Argument::Unknown("it has no value".to_owned());
    };
    if let Some(hash) = source.text("podTemplateHashValue") {
        return match hash.as_str() {
            "Stable" => Argument::StableHash,
            _ => Argument::CanaryHash,
        };
    }
    let Some(mut field) = source.object("fieldRef") else {
        return Argument::Unknown("a secret cannot be a part of a query".to_owned());
    };
    let path = field.text("fieldPath").unwrap_or_default();
    let by_key = |object: &Value| {
        let key = path.split('\'').nth(1)?;
        object[key].as_str().map(ToOwned::to_owned)
    };
    let value = match path.as_str() {
        "metadata.name" => Some(names.rollout.clone()),
        "metadata.namespace" => match &names.namespace {
            Some(namespace) => Some(namespace.clone()),
            None => return Argument::BuiltIn("namespace"),
        },
        path if path.starts_with("metadata.labels[") => by_key(&names.labels),
        path if path.starts_with("metadata.annotations[") => by_key(&names.annotations),
        _ => None,
    };
    value.map_or_else(
        || Argument::Unknown(format!("field {path} is not available in Serin")),
        Argument::Text,
    )
}

/// The names of the metrics that decide nothing.
fn dry_run_names(fields: &mut Fields) -> BTreeSet<String> {
    let metrics = fields.objects("dryRun").into_iter();
    metrics
        .filter_map(|mut metric| metric.text("metricName"))
        .collect()
}

/// The Rollout that an analysis belongs to.
struct Target<'a> {
    set: &'a Objects<'a>,
    names: &'a Names,
}

impl Target<'_> {
    /// Converts the metrics of a template and of the templates that it refers to.
    #[expect(clippy::too_many_arguments, reason = "templates refer to templates")]
    fn template(
        &self,
        name: &str,
        is_cluster: bool,
        path: &str,
        given: &Arguments,
        dry_runs: &mut BTreeSet<String>,
        seen: &mut BTreeSet<String>,
        result: &mut Converted,
        draft: &mut RolloutDraft,
    ) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        let namespace = self.names.namespace.as_deref().filter(|_| !is_cluster);
        let kind = if is_cluster {
            "ClusterAnalysisTemplate"
        } else {
            "AnalysisTemplate"
        };
        let Some(template) = self.set.find(("argoproj.io", kind), namespace, name) else {
            result.is_incomplete = true;
            draft.notes.lost(
                path,
                format!("{kind} {name} is not part of the input"),
                "convert it together with its Rollouts",
            );
            return;
        };
        let mut spec = Fields::new(format!("{kind} {name}: spec"), template["spec"].clone());
        let mut arguments = given.clone();
        for mut argument in spec.objects("args") {
            let Some(name) = argument.text("name") else {
                continue;
            };
            let default = match argument.text("value") {
                Some(text) => Argument::Text(text),
                None => value_from(argument.object("valueFrom"), self.names),
            };
            arguments.entry(name).or_insert(default);
        }
        dry_runs.append(&mut dry_run_names(&mut spec));
        for metric in spec.objects("metrics") {
            self.metric(metric, &arguments, dry_runs, result, draft);
        }
        for mut reference in spec.objects("templates") {
            let path = reference.path("templateName");
            let Some(name) = reference.text("templateName") else {
                continue;
            };
            let is_cluster = reference.flag("clusterScope");
            self.template(
                &name, is_cluster, &path, &arguments, dry_runs, seen, result, draft,
            );
        }
        spec.finish(&mut draft.notes);
    }

    fn metric(
        &self,
        mut metric: Fields,
        arguments: &Arguments,
        dry_runs: &BTreeSet<String>,
        result: &mut Converted,
        draft: &mut RolloutDraft,
    ) {
        let name = metric.text("name").unwrap_or_default();
        let path = metric.path("provider");
        let converted = self.check(&mut metric, &name, arguments, draft);
        let mut check = match converted {
            Ok(check) => check,
            Err((why, fix)) => {
                result.is_incomplete = true;
                draft
                    .notes
                    .not_yet(path, format!("metric {name}: {why}"), fix);
                return;
            }
        };
        let is_objective = check.contains_key("objective");
        if dry_runs.contains(&name) || dry_runs.contains(".*") {
            if is_objective {
                draft.notes.changed(
                    path.as_str(),
                    format!("objective {name} decides, although it is a dry run"),
                    "remove it",
                );
            } else {
                check.insert("dryRun".to_owned(), json!(true));
            }
        }
        limits(&mut metric, &mut check, arguments, result, draft);
        metric.finish(&mut draft.notes);
        result.add(check, &mut draft.analysis, &path, &mut draft.notes);
    }

    /// The check or objective of a metric, or why there is none and what to do.
    fn check(
        &self,
        metric: &mut Fields,
        name: &str,
        arguments: &Arguments,
        draft: &mut RolloutDraft,
    ) -> Result<Map<String, Value>, (String, &'static str)> {
        let mut provider = metric.object("provider").unwrap_or_default();
        for other in OTHER_PROVIDERS {
            if provider.has(other) {
                let fix = "write it as a PromQL query, or check it by hand at a pause";
                return Err((format!("the provider {other} is not supported"), fix));
            }
        }
        let phase = draft.analysis.phase.or(draft.analysis.probe_phase);
        let probe = if let Some(web) = provider.object("web") {
            Some(probes::web(web, metric, arguments, &mut draft.notes)?)
        } else if let Some(job) = provider.object("job") {
            Some(probes::job(job, phase, arguments, &mut draft.notes)?)
        } else {
            None
        };
        if let Some(mut check) = probe {
            check.insert("name".to_owned(), json!(name));
            return Ok(check);
        }
        let Some(mut prometheus) = provider.object("prometheus") else {
            return Err(("it has no provider".to_owned(), "add a Prometheus query"));
        };
        let fix = "correct the query in the template, or write the check by hand";
        let condition = condition(metric, arguments, draft).map_err(|why| (why, fix))?;
        let query = prometheus.text("query").unwrap_or_default();
        let query =
            insert_into_query(&query, &self.names.rollout, arguments).map_err(|why| (why, fix))?;
        if let Some(address) = prometheus.text("address") {
            let Some(address) = insert_fixed(&address, arguments) else {
                return Err(("the address of Prometheus is not known".to_owned(), fix));
            };
            draft
                .analysis
                .set_address(&address)
                .map_err(|why| (why, fix))?;
        }
        connection(prometheus, draft);
        let sides = Sides {
            stable: self.names.stable.as_deref(),
            canary: self.names.canary.as_deref(),
        };
        let mut check = Map::new();
        check.insert("name".to_owned(), json!(name));
        if let Some((percent, counters)) = objective(&query, &condition, sides) {
            draft.notes.changed(
                metric.path("provider.prometheus.query"),
                format!(
                    "the ratio is an objective of {percent} % now: its counters of the canary are \
                     compared with those of stable"
                ),
                "set objective to the service level objective of the service",
            );
            check.insert("objective".to_owned(), json!(percent));
            check.insert("counters".to_owned(), counters);
            return Ok(check);
        }
        check.insert("query".to_owned(), json!(query));
        check.insert("condition".to_owned(), json!(condition));
        Ok(check)
    }
}

/// Interval, delay, count and failure limit.
fn limits(
    metric: &mut Fields,
    check: &mut Map<String, Value>,
    arguments: &Arguments,
    result: &mut Converted,
    draft: &mut RolloutDraft,
) {
    let is_objective = check.contains_key("objective");
    let text = |metric: &mut Fields, field: &str| {
        metric
            .text(field)
            .and_then(|text| insert_fixed(&text, arguments))
    };
    let interval = text(metric, "interval");
    let count = text(metric, "count").and_then(|count| count.parse::<f64>().ok());
    let delay = text(metric, "initialDelay");
    let limit = text(metric, "failureLimit").and_then(|limit| limit.parse::<i64>().ok());
    result.seconds = match (result.seconds, &interval, count) {
        (Some(longest), Some(interval), Some(count)) => {
            Some(longest.max(seconds(interval).unwrap_or(0.0) * count))
        }
        // Without an interval a metric is measured once.
        (Some(longest), None, _) => Some(longest),
        _ => None,
    };
    if is_objective {
        if limit.is_some_and(|limit| limit > 0) {
            draft.notes.changed(
                metric.path("failureLimit"),
                "the evidence of an objective decides, not a number of failures",
                "",
            );
        }
        return;
    }
    // A Job runs once.
    let interval = interval.filter(|_| !check.contains_key("job"));
    for (field, value) in [("interval", interval), ("initialDelay", delay)] {
        check.extend(value.map(|value| (field.to_owned(), json!(value))));
    }
    match limit {
        Some(limit) if limit < 0 => {
            draft.notes.kept(
                metric.path("failureLimit"),
                "no limit became the highest limit",
            );
            check.insert("failureLimit".to_owned(), json!(1_000_000));
        }
        Some(limit) if limit > 0 => {
            check.insert("failureLimit".to_owned(), json!(limit));
        }
        _ => {}
    }
}

/// How Prometheus is reached.
fn connection(mut prometheus: Fields, draft: &mut RolloutDraft) {
    let path = prometheus.path("insecure");
    if prometheus.flag("insecure") {
        draft.notes.lost(
            path,
            "Serin always verifies the certificate of Prometheus",
            "set spec.analysis.prometheus.tls.caFrom",
        );
    }
    for field in ["headers", "authentication"] {
        let path = prometheus.path(field);
        if prometheus.take(field).is_some() {
            draft.notes.lost(
                path,
                "headers of Prometheus come from a Secret",
                "create a Secret with a key for each header, and set \
                 spec.analysis.prometheus.headersFrom",
            );
        }
    }
    prometheus.ignore(&["timeout"]);
    prometheus.finish(&mut draft.notes);
}

/// The condition of a metric in CEL.
fn condition(
    metric: &mut Fields,
    arguments: &Arguments,
    draft: &mut RolloutDraft,
) -> Result<String, String> {
    let path = metric.path("failureCondition");
    let mut text = |field: &str| match metric.text(field) {
        None => Ok(None),
        Some(template) => match insert_fixed(&template, arguments) {
            Some(text) => Ok(Some(text)),
            None => Err(format!("an argument of {field} has no fixed value")),
        },
    };
    let (success, failure) = (text("successCondition")?, text("failureCondition")?);
    match (success, failure) {
        (Some(success), None) => cel_condition(&success),
        (None, Some(failure)) => cel_condition(&format!("!({failure})")),
        (Some(success), Some(failure)) => {
            let condition = cel_condition(&format!("({success}) && !({failure})"))?;
            draft.notes.changed(
                path,
                "a result that meets neither condition is a failure, not inconclusive",
                "raise failureLimit if such results are normal",
            );
            Ok(condition)
        }
        // Any result is a success.
        (None, None) => Err("it has no condition".to_owned()),
    }
}
