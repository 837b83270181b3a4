//! Metrics of a Canary: the two built-in ones become objectives, the others checks.

use serde_json::{Map, Value, json};
use serin_crds::check::Condition;

use super::Names;
use crate::checks::{Argument, Arguments, Converted, insert_into_query};
use crate::fields::Fields;
use crate::objects::Objects;
use crate::promql::{Sides, objective};
use crate::rollout::RolloutDraft;

/// Pattern by which queries for Flagger select the pods of the canary.
const FLAGGER_PODS: [&str; 2] = [
    "{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)",
    "{{target}}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)",
];

/// The indicator of Serin that reads the same metrics as Flagger's built-in queries.
fn indicator<'a>(set: &'a Objects<'_>, provider: Option<&str>) -> Option<&'a str> {
    if let Some(indicator) = set.options.indicator.as_deref() {
        return Some(indicator);
    }
    match provider? {
        "istio" => Some("istio"),
        "linkerd" => Some("linkerd"),
        "traefik" => Some("traefik"),
        _ => None,
    }
}

/// Converts `analysis.metrics`. Returns whether one of them could not be converted.
pub(super) fn convert(
    set: &Objects<'_>,
    analysis: &mut Fields,
    provider: Option<&str>,
    names: &Names,
    interval: &str,
    threshold: Option<f64>,
    draft: &mut RolloutDraft,
) -> bool {
    let mut result = Converted::default();
    for mut metric in analysis.objects("metrics") {
        let name = metric.text("name").unwrap_or_default();
        let path = metric.path("name");
        let window = metric
            .text("interval")
            .unwrap_or_else(|| interval.to_owned());
        let mut range = metric.object("thresholdRange").unwrap_or_default();
        let bounds = match metric.number("threshold") {
            Some(bound) if name == "request-success-rate" => (Some(bound), None),
            Some(bound) => (None, Some(bound)),
            None => (range.number("min"), range.number("max")),
        };
        let entry = match name.as_str() {
            "request-success-rate" | "request-duration" if !metric.has("templateRef") => {
                built_in(set, &name, provider, bounds)
            }
            _ => custom(set, &mut metric, &name, names, &window, bounds, draft),
        };
        metric.finish(&mut draft.notes);
        match entry {
            Ok(mut entry) => {
                if !entry.contains_key("objective") {
                    entry.insert("interval".to_owned(), json!(interval));
                    limit(&mut entry, threshold);
                }
                result.add(entry, &mut draft.analysis, &path, &mut draft.notes);
            }
            Err((why, fix)) => {
                result.is_incomplete = true;
                draft
                    .notes
                    .not_yet(path, format!("metric {name}: {why}"), fix);
            }
        }
    }
    if !result.objectives.is_empty() {
        draft.notes.changed(
            "spec.analysis.threshold",
            "the evidence of an objective decides, not a number of failed intervals",
            "set objective to the service level objective of the service",
        );
    }
    if result.checks.len() > 1 {
        draft.notes.changed(
            "spec.analysis.threshold",
            "each check has its own number of failures; Flagger counts those of all metrics together",
            "",
        );
    }
    result.is_incomplete
}

/// Flagger rolls back at `threshold` failures, Serin at one more than `failureLimit`.
fn limit(entry: &mut Map<String, Value>, threshold: Option<f64>) {
    if let Some(threshold) = threshold.filter(|threshold| *threshold >= 1.0) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a small number of failures"
        )]
        let limit = threshold as i64 - 1;
        if limit > 0 {
            entry.insert("failureLimit".to_owned(), json!(limit));
        }
    }
}

type Entry = Result<Map<String, Value>, (String, &'static str)>;

/// The success rate in percent, or the 99th percentile of the duration in milliseconds.
fn built_in(
    set: &Objects<'_>,
    name: &str,
    provider: Option<&str>,
    (min, max): (Option<f64>, Option<f64>),
) -> Entry {
    let Some(indicator) = indicator(set, provider) else {
        return Err((
            "the metrics of the router are not known".to_owned(),
            "convert with --indicator NAME, for example traefik, istio, linkerd or pod",
        ));
    };
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(name));
    entry.insert("indicator".to_owned(), json!(indicator));
    let fix = "set a threshold between 0 and 100";
    if name == "request-duration" {
        let bound = max
            .filter(|bound| *bound > 0.0)
            .ok_or(("it has no maximum".to_owned(), fix))?;
        entry.insert("objective".to_owned(), json!(99));
        entry.insert(
            "latency".to_owned(),
            json!({"threshold": format!("{bound}ms")}),
        );
        return Ok(entry);
    }
    let bound = min.filter(|bound| *bound > 0.0 && *bound < 100.0);
    let bound = bound.ok_or(("its minimum leaves no error budget".to_owned(), fix))?;
    entry.insert("objective".to_owned(), json!(bound));
    Ok(entry)
}

/// A metric with a query, inline or from a MetricTemplate.
fn custom(
    set: &Objects<'_>,
    metric: &mut Fields,
    name: &str,
    names: &Names,
    window: &str,
    bounds: (Option<f64>, Option<f64>),
    draft: &mut RolloutDraft,
) -> Entry {
    let fix = "correct the query in the template, or write the check by hand";
    let mut arguments = arguments(names, window);
    if let Some(Value::Object(variables)) = metric.take("templateVariables") {
        for (key, value) in variables {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            arguments.insert(format!("variables.{key}"), Argument::Text(text));
        }
    }
    let query = match metric.object("templateRef") {
        Some(mut reference) => {
            let template = reference.text("name").unwrap_or_default();
            let namespace = reference
                .text("namespace")
                .or_else(|| names.namespace.clone());
            template_query(set, namespace.as_deref(), &template, draft)?
        }
        None => metric.text("query").ok_or((
            "it is not a metric that Flagger has built in, and has no query".to_owned(),
            fix,
        ))?,
    };
    let mut query = query.trim().to_owned();
    for pattern in FLAGGER_PODS {
        query = query.replace(pattern, "{{ pods }}-[0-9a-zA-Z]+");
    }
    let query = insert_into_query(&query, &names.target, &arguments).map_err(|why| (why, fix))?;
    if query.contains(&format!("{}-primary", names.target)) {
        return Err((
            "the query selects the pods of Flagger's primary Deployment".to_owned(),
            "select the pods of stable by name: {{args.stableReplicaSet}}",
        ));
    }
    let condition = condition(bounds).ok_or(("it has no threshold".to_owned(), fix))?;
    Condition::parse(&condition).map_err(|why| (why, fix))?;
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(name));
    let canary = format!("{}-canary", names.apex);
    let sides = Sides {
        stable: Some(&names.apex),
        canary: Some(&canary),
    };
    if let Some((percent, counters)) = objective(&query, &condition, sides) {
        entry.insert("objective".to_owned(), json!(percent));
        entry.insert("counters".to_owned(), counters);
    } else {
        entry.insert("query".to_owned(), json!(query));
        entry.insert("condition".to_owned(), json!(condition));
    }
    Ok(entry)
}

fn condition((min, max): (Option<f64>, Option<f64>)) -> Option<String> {
    let min = min.map(|min| format!("result[0] >= {}", double(min)));
    let max = max.map(|max| format!("result[0] <= {}", double(max)));
    let parts: Vec<String> = min.into_iter().chain(max).collect();
    (!parts.is_empty()).then(|| parts.join(" && "))
}

/// A number as CEL reads a double.
fn double(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.1}")
    } else {
        value.to_string()
    }
}

/// The variables of Flagger's templates.
fn arguments(names: &Names, window: &str) -> Arguments {
    let unknown = |why: &str| Argument::Unknown(why.to_owned());
    let text = |text: &Option<String>| {
        text.clone()
            .map_or_else(|| unknown("the Canary does not name it"), Argument::Text)
    };
    let variables = [
        ("name", Argument::Text(names.canary.clone())),
        (
            "namespace",
            names
                .namespace
                .clone()
                .map_or(Argument::BuiltIn("namespace"), Argument::Text),
        ),
        ("target", Argument::Text(names.target.clone())),
        ("service", Argument::Text(names.apex.clone())),
        ("ingress", text(&names.ingress)),
        ("route", text(&names.route)),
        ("interval", Argument::Text(window.to_owned())),
        ("pods", Argument::BuiltIn("canaryReplicaSet")),
    ];
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The query of a MetricTemplate, and its Prometheus.
fn template_query(
    set: &Objects<'_>,
    namespace: Option<&str>,
    name: &str,
    draft: &mut RolloutDraft,
) -> Result<String, (String, &'static str)> {
    let Some(template) = set.find(("flagger.app", "MetricTemplate"), namespace, name) else {
        return Err((
            format!("MetricTemplate {name} is not part of the input"),
            "convert it together with its Canaries",
        ));
    };
    let mut spec = Fields::new(
        format!("MetricTemplate {name}: spec"),
        template["spec"].clone(),
    );
    let query = spec.text("query").unwrap_or_default();
    let mut provider = spec.object("provider").unwrap_or_default();
    let kind = provider.text("type").unwrap_or_default();
    if kind != "prometheus" {
        return Err((
            format!("the provider {kind} is not supported"),
            "write it as a PromQL query, or check it by hand at a pause",
        ));
    }
    if let Some(address) = provider.text("address") {
        let fix = "combine the metrics in one Prometheus";
        draft
            .analysis
            .set_address(&address)
            .map_err(|why| (why, fix))?;
    }
    let path = provider.path("secretRef");
    if provider.take("secretRef").is_some() || provider.take("headers").is_some() {
        draft.notes.lost(
            path,
            "headers of Prometheus come from a Secret",
            "create a Secret with a key for each header, and set spec.analysis.prometheus.headersFrom",
        );
    }
    let path = provider.path("insecureSkipVerify");
    if provider.flag("insecureSkipVerify") {
        draft.notes.lost(
            path,
            "Serin always verifies the certificate of Prometheus",
            "set spec.analysis.prometheus.tls.caFrom",
        );
    }
    provider.finish(&mut draft.notes);
    spec.finish(&mut draft.notes);
    Ok(query)
}
