//! Every serving container has a readiness probe.

use serin_core::hold::HoldCode;
use serin_crds::guardrails::ProbesGuardrail;

use crate::evaluation::Report;
use crate::facts::Facts;
use crate::template::{Container, ContainerRole, Template, items};

pub(super) fn check(options: &ProbesGuardrail, facts: &Facts, report: &mut Report) {
    let probes = [
        ("readinessProbe", true),
        ("livenessProbe", options.liveness == Some(true)),
        ("startupProbe", options.startup == Some(true)),
    ];
    for container in serving(Template(&facts.template)) {
        if container.is_one_of(&options.exempt_containers) {
            continue;
        }
        let is_missing = |(probe, is_needed): &(&'static str, bool)| {
            *is_needed && !container.json[*probe].is_object()
        };
        let missing: Vec<&str> = probes
            .iter()
            .filter(|probe| is_missing(probe))
            .map(|(probe, _)| *probe)
            .collect();
        if !missing.is_empty() {
            report.add(
                HoldCode::ProbeMissing,
                container.label(),
                format!("it has no {}", missing.join(" and no ")),
                format!("Add {} to the container", missing.join(" and ")),
            );
        }
    }
}

/// The containers that declare a port, or all main containers if none does.
fn serving(template: Template<'_>) -> Vec<Container<'_>> {
    let running = template.containers().filter(Container::is_running);
    let with_ports: Vec<_> = running
        .filter(|container| items(&container.json["ports"]).next().is_some())
        .collect();
    if with_ports.is_empty() {
        let containers = template.containers();
        return containers
            .filter(|container| container.role == ContainerRole::Main)
            .collect();
    }
    with_ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::Probes;

    use super::super::test_facts::{facts_of, findings};

    #[test]
    fn only_containers_that_serve_need_a_probe() {
        let probe = json!({"httpGet": {"path": "/ready", "port": 8080}});
        let facts = facts_of(json!({
            "containers": [
                {"name": "app", "ports": [{"containerPort": 8080}], "readinessProbe": probe},
                {"name": "worker"},
            ],
            "initContainers": [
                {"name": "migrate"},
                {"name": "mesh", "restartPolicy": "Always", "ports": [{"containerPort": 1}]},
            ],
        }));
        let found = findings(Probes, json!({}), &facts);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "sidecar container mesh: it has no readinessProbe. Add readinessProbe to the container"
            ]
        );
    }

    #[test]
    fn without_ports_every_main_container_serves() {
        let facts = facts_of(json!({"containers": [{"name": "app"}, {"name": "proxy"}]}));
        let options = json!({"liveness": true, "exemptContainers": ["proxy"]});
        let found = findings(Probes, options, &facts);
        assert_eq!(found.len(), 1);
        assert!(found[0].problem.contains("no livenessProbe"), "{found:?}");
    }
}
