//! The workload can be observed: its metrics are scraped, and it sends logs and traces as demanded.

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{ObservabilityGuardrail, TelemetrySource};

use crate::evaluation::Report;
use crate::facts::{Facts, Source, Unknown};
use crate::label_selector;
use crate::template::{Template, items, object_name, object_namespace};

pub(super) fn check(options: &ObservabilityGuardrail, facts: &Facts, report: &mut Report) {
    if options.metrics != Some(false) {
        check_metrics(facts, report);
    }
    let template = Template(&facts.template);
    for (what, source) in [("logs", &options.logs), ("traces", &options.traces)] {
        let Some(source) = source else { continue };
        if !is_met(source, template) {
            report.add(
                HoldCode::NotObserved,
                "pod template",
                format!("nothing shows that the pods send {what}"),
                format!("Add one of: {}", describe(source)),
            );
        }
    }
}

fn check_metrics(facts: &Facts, report: &mut Report) {
    let template = Template(&facts.template);
    // Data that the analysis receives proves it.
    let is_measured = matches!(facts.is_measured.known(), Ok(true));
    if is_measured || template.annotation("prometheus.io/scrape") == Some("true") {
        return;
    }
    let mut unknown = Vec::new();
    let mut wrong_ports = Vec::new();
    for monitors in [of_pod_monitors(facts), of_service_monitors(facts)] {
        match monitors {
            Ok(monitors) if monitors.iter().any(|(_, has_port)| *has_port) => return,
            Ok(monitors) => wrong_ports.extend(monitors.into_iter().map(|(name, _)| name)),
            Err(why) => unknown.push(why),
        }
    }
    if let Some((what, why)) = unknown.first() {
        return report.unknown(what, why);
    }
    let fix = "Add a PodMonitor or a ServiceMonitor that selects the pods, or the annotation \
               prometheus.io/scrape: \"true\"";
    match wrong_ports.first() {
        Some(monitor) => report.add(
            HoldCode::NotObserved,
            monitor.clone(),
            "it selects the pods, but none of its endpoints names a port that they have",
            "Name a port of the container or of the Service in its endpoints",
        ),
        None => report.add(
            HoldCode::NotObserved,
            "pod template",
            "nothing scrapes the metrics of the pods",
            fix,
        ),
    }
}

/// Monitors that select the pods, with whether one of their endpoints exists.
type Monitors = Result<Vec<(String, bool)>, (&'static str, Unknown)>;

fn of_pod_monitors(facts: &Facts) -> Monitors {
    let monitors = facts
        .objects_of(Source::PodMonitors)
        .objects()
        .map_err(|why| ("PodMonitors", why))?;
    let template = Template(&facts.template);
    let selecting = monitors.iter().filter(|monitor| {
        is_of_namespace(monitor, &facts.namespace_name)
            && label_selector::selects(&monitor["spec"]["selector"], |key| template.label(key))
    });
    let ports = pod_ports(template);
    Ok(selecting
        .map(|monitor| {
            let mut endpoints = items(&monitor["spec"]["podMetricsEndpoints"]);
            let has_port = endpoints.any(|endpoint| names_port(endpoint, &ports, "portNumber"));
            (format!("PodMonitor {}", object_name(monitor)), has_port)
        })
        .collect())
}

fn of_service_monitors(facts: &Facts) -> Monitors {
    let monitors = facts
        .objects_of(Source::ServiceMonitors)
        .objects()
        .map_err(|why| ("ServiceMonitors", why))?;
    if monitors.is_empty() {
        return Ok(Vec::new());
    }
    let services = facts
        .objects_of(Source::Services)
        .known()
        .map_err(|why| ("Services", why))?;
    let template = Template(&facts.template);
    let of_pods: Vec<&Value> = services
        .iter()
        .filter(|service| selects(service, template))
        .collect();
    let pod_ports = pod_ports(template);
    let mut found = Vec::new();
    for monitor in monitors {
        let spec = &monitor["spec"];
        let selected = of_pods.iter().filter(|service| {
            let labels = &service["metadata"]["labels"];
            label_selector::selects(&spec["selector"], |key| labels[key].as_str())
        });
        let selected: Vec<_> = selected.collect();
        if selected.is_empty() || !is_of_namespace(monitor, &facts.namespace_name) {
            continue;
        }
        let ports: Vec<Port> = selected
            .iter()
            .flat_map(|service| items(&service["spec"]["ports"]))
            .map(|port| Port {
                name: port["name"].as_str().unwrap_or_default(),
                number: port["port"].as_u64(),
            })
            .collect();
        let mut endpoints = items(&spec["endpoints"]);
        let has_port = endpoints.any(|endpoint| {
            if endpoint["port"].is_string() {
                names_port(endpoint, &ports, "portNumber")
            } else {
                names_port(endpoint, &pod_ports, "targetPort")
            }
        });
        found.push((format!("ServiceMonitor {}", object_name(monitor)), has_port));
    }
    Ok(found)
}

/// Whether a monitor looks into the namespace: its own one, unless it names others.
fn is_of_namespace(monitor: &Value, namespace: &str) -> bool {
    let selector = &monitor["spec"]["namespaceSelector"];
    if selector["any"] == true {
        return true;
    }
    let mut names = items(&selector["matchNames"]).peekable();
    if names.peek().is_none() {
        return object_namespace(monitor) == namespace;
    }
    names.any(|name| name == namespace)
}

/// Whether a Service selects the pods. Serin adds its own key to the selector.
fn selects(service: &Value, template: Template<'_>) -> bool {
    let Some(selector) = service["spec"]["selector"].as_object() else {
        return false;
    };
    let mut keys = selector
        .iter()
        .filter(|(key, _)| !key.starts_with("serin.dev/"))
        .peekable();
    keys.peek().is_some() && keys.all(|(key, value)| template.label(key) == value.as_str())
}

struct Port<'a> {
    name: &'a str,
    number: Option<u64>,
}

fn pod_ports(template: Template<'_>) -> Vec<Port<'_>> {
    let ports = template
        .containers()
        .flat_map(|container| items(&container.json["ports"]));
    ports
        .map(|json| Port {
            name: json["name"].as_str().unwrap_or_default(),
            number: json["containerPort"].as_u64(),
        })
        .collect()
}

/// Whether an endpoint of a monitor names one of the ports: by `port`, or by the `other` field.
fn names_port(endpoint: &Value, ports: &[Port<'_>], other: &str) -> bool {
    if let Some(name) = endpoint["port"].as_str() {
        return ports.iter().any(|port| port.name == name);
    }
    // `targetPort` is a name or a number.
    for field in [other, "targetPort"] {
        if let Some(number) = endpoint[field].as_u64() {
            // A container may listen on a port that it does not declare.
            return ports.is_empty() || ports.iter().any(|port| port.number == Some(number));
        }
        if let Some(name) = endpoint[field].as_str() {
            return ports.iter().any(|port| port.name == name);
        }
    }
    false
}

fn is_met(source: &TelemetrySource, template: Template<'_>) -> bool {
    let has_annotation = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => template.annotation(key) == Some(value),
        None => template.annotation(wanted).is_some(),
    };
    let has_env = |wanted: &String| {
        template.containers().any(|container| {
            items(&container.json["env"]).any(|env| env["name"] == wanted.as_str())
        })
    };
    let has_container = |wanted: &String| {
        template
            .containers()
            .any(|container| container.name == wanted)
    };
    source.annotations.iter().any(has_annotation)
        || source.containers.iter().any(has_container)
        || source.env.iter().any(has_env)
}

fn describe(source: &TelemetrySource) -> String {
    let parts = [
        ("annotation", &source.annotations),
        ("container", &source.containers),
        ("environment variable", &source.env),
    ];
    let named = parts.iter().flat_map(|(what, names)| {
        let what = *what;
        names.iter().map(move |name| format!("{what} {name}"))
    });
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::Observability;

    use super::super::test_facts::{codes, facts_of, findings, with, without};
    use super::*;
    use crate::facts::Fact;

    fn facts() -> Facts {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let spec = json!({"containers": [{"name": "app", "ports": ports,
            "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4317"}]}]});
        without(facts_of(spec), Source::for_guardrail(Observability))
    }

    fn passes(facts: &Facts) -> bool {
        codes(Observability, json!({}), facts).is_empty()
    }

    #[test]
    fn metrics_must_be_scraped() {
        assert_eq!(
            codes(Observability, json!({}), &facts()),
            [HoldCode::NotObserved]
        );
        assert!(codes(Observability, json!({"metrics": false}), &facts()).is_empty());
        let mut annotated = facts();
        annotated.template["metadata"]["annotations"] = json!({"prometheus.io/scrape": "true"});
        assert!(passes(&annotated));
        let mut measured = facts();
        measured.is_measured = Fact::Known(true);
        assert!(passes(&measured));
    }

    fn pod_monitor(namespace: &str, spec: Value) -> Value {
        json!([{"metadata": {"name": "m", "namespace": namespace}, "spec": spec}])
    }

    #[test]
    fn a_pod_monitor_must_select_the_pods_and_one_of_their_ports() {
        let selector = json!({"matchLabels": {"app": "checkout"}});
        let with_port =
            |port: &str| json!({"selector": selector, "podMetricsEndpoints": [{"port": port}]});
        let of = |namespace: &str, spec: Value| {
            let monitors = pod_monitor(namespace, spec);
            with(facts(), Source::PodMonitors, monitors)
        };
        assert!(passes(&of("shop", with_port("http"))));
        let mistyped = findings(Observability, json!({}), &of("shop", with_port("metrics")));
        assert_eq!(mistyped[0].object, "PodMonitor m");
        assert!(!passes(&of("monitoring", with_port("http"))));
        let mut anywhere = with_port("http");
        anywhere["namespaceSelector"] = json!({"any": true});
        assert!(passes(&of("monitoring", anywhere)));
        let mut named = with_port("http");
        named["namespaceSelector"] = json!({"matchNames": ["shop"]});
        assert!(passes(&of("monitoring", named)));
    }

    #[test]
    fn a_service_monitor_must_select_a_service_of_the_pods() {
        let service = json!([{
            "metadata": {"name": "checkout", "labels": {"app": "checkout"}},
            "spec": {"selector": {"app": "checkout", "serin.dev/revision": "abc"},
                "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
        }]);
        let monitor = |port: Value| {
            let selector = json!({"matchLabels": {"app": "checkout"}});
            pod_monitor("shop", json!({"selector": selector, "endpoints": [port]}))
        };
        let of = |port: Value| {
            let facts = with(facts(), Source::Services, service.clone());
            with(facts, Source::ServiceMonitors, monitor(port))
        };
        assert!(passes(&of(json!({"port": "web"}))));
        assert!(passes(&of(json!({"targetPort": 8080}))));
        assert!(passes(&of(json!({"targetPort": "http"}))));
        assert!(!passes(&of(json!({"port": "metrics"}))));
        let without_service = with(facts(), Source::Services, json!([]));
        let port = json!({"port": "web"});
        assert!(!passes(&with(
            without_service,
            Source::ServiceMonitors,
            monitor(port)
        )));
    }

    #[test]
    fn logs_and_traces_are_demanded_by_annotation_container_or_variable() {
        let traces = |source: Value| json!({"metrics": false, "traces": source});
        let env = traces(json!({"env": ["OTEL_EXPORTER_OTLP_ENDPOINT"]}));
        assert!(codes(Observability, env, &facts()).is_empty());
        let sidecar = traces(json!({"containers": ["otel-agent"], "annotations": ["otel=yes"]}));
        let found = findings(Observability, sidecar.clone(), &facts());
        assert_eq!(
            found[0].fix,
            "Add one of: annotation otel=yes, container otel-agent"
        );
        let mut annotated = facts();
        annotated.template["metadata"]["annotations"] = json!({"otel": "yes"});
        assert!(codes(Observability, sidecar, &annotated).is_empty());
    }

    #[test]
    fn a_monitor_that_cannot_be_read_is_no_pass() {
        let mut facts = facts();
        let fact = Fact::Forbidden("list podmonitors".to_owned());
        facts.objects.insert(Source::PodMonitors, fact);
        assert_eq!(
            codes(Observability, json!({}), &facts),
            [HoldCode::GuardrailUnknown]
        );
    }
}
