//! Every container has resource requests and limits.

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::ResourcesGuardrail;

use crate::evaluation::Report;
use crate::facts::{Facts, Source};
use crate::template::{Container, Template, items};

const DEFAULT_REQUESTS: [&str; 2] = ["cpu", "memory"];
const DEFAULT_LIMITS: [&str; 1] = ["memory"];

pub(super) fn check(options: &ResourcesGuardrail, facts: &Facts, report: &mut Report) {
    let template = Template(&facts.template);
    let ranges = facts.objects_of(Source::LimitRanges).objects();
    let defaults = Defaults {
        ranges: ranges.as_ref().copied().unwrap_or_default(),
        pod: &template.spec()["resources"],
    };
    let requests = names(options.requests.as_deref(), &DEFAULT_REQUESTS);
    let limits = names(options.limits.as_deref(), &DEFAULT_LIMITS);
    let containers = template.containers();
    for container in containers.filter(|container| !container.is_one_of(&options.exempt_containers))
    {
        let requests = missing(&requests, |name| defaults.has_request(&container, name));
        let limits = missing(&limits, |name| defaults.has_limit(&container, name));
        let parts = [("request", &requests), ("limit", &limits)].map(|(what, names)| {
            let names: Vec<String> = names.iter().map(|name| format!("{name} {what}")).collect();
            names
        });
        let all = parts.concat();
        if all.is_empty() {
            continue;
        }
        let mut problem = format!("it has no {}", all.join(" and no "));
        if let Err(why) = &ranges {
            problem.push_str(&format!(
                " (the LimitRanges of the namespace are not known: {why})"
            ));
        }
        report.add(
            HoldCode::ResourcesMissing,
            container.label(),
            problem,
            fix(&requests, &limits),
        );
    }
}

fn names<'a>(configured: Option<&'a [String]>, default: &[&'a str]) -> Vec<&'a str> {
    configured.map_or_else(
        || default.to_vec(),
        |names| names.iter().map(String::as_str).collect(),
    )
}

fn missing<'a>(names: &[&'a str], has: impl Fn(&str) -> bool) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !has(name)).collect()
}

fn fix(requests: &[&str], limits: &[&str]) -> String {
    let field = |kind: &str, names: &[&str]| {
        let fields: Vec<String> = names
            .iter()
            .map(|name| format!("resources.{kind}.{name}"))
            .collect();
        fields
    };
    let fields = [field("requests", requests), field("limits", limits)].concat();
    format!("Set {} of the container", fields.join(", "))
}

/// Where a container gets a request or a limit from.
struct Defaults<'a> {
    ranges: &'a [Value],
    /// `resources` of the pod as a whole, which its containers share.
    pod: &'a Value,
}

impl Defaults<'_> {
    fn has_request(&self, container: &Container<'_>, name: &str) -> bool {
        let resources = &container.json["resources"];
        // The API server sets a request that is missing to the limit.
        is_set(&resources["requests"], name)
            || is_set(&resources["limits"], name)
            || is_set(&self.pod["requests"], name)
            || is_set(&self.pod["limits"], name)
            || self.range_has(&["defaultRequest", "default"], name)
    }

    fn has_limit(&self, container: &Container<'_>, name: &str) -> bool {
        is_set(&container.json["resources"]["limits"], name)
            || is_set(&self.pod["limits"], name)
            || self.range_has(&["default"], name)
    }

    /// Whether a LimitRange has a default for containers.
    fn range_has(&self, fields: &[&str], name: &str) -> bool {
        let limits = self
            .ranges
            .iter()
            .flat_map(|range| items(&range["spec"]["limits"]));
        let mut of_containers = limits.filter(|limit| limit["type"] == "Container");
        of_containers.any(|limit| fields.iter().any(|field| is_set(&limit[*field], name)))
    }
}

/// Whether a quantity is set and not 0, which means no request or limit.
fn is_set(quantities: &Value, name: &str) -> bool {
    match &quantities[name] {
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::Resources;

    use super::super::test_facts::{codes, facts_of, findings, with, without};
    use super::*;
    use crate::facts::Fact;

    fn set() -> Value {
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}})
    }

    fn facts(spec: Value) -> Facts {
        without(facts_of(spec), &[Source::LimitRanges])
    }

    #[test]
    fn a_container_without_resources_is_named_with_all_that_it_lacks() {
        let facts = facts(json!({
            "containers": [
                {"name": "app", "resources": set()},
                {"name": "log", "resources": {"requests": {"cpu": "1"}}},
            ],
            "initContainers": [{"name": "migrate"}, {"name": "mesh", "restartPolicy": "Always"}],
        }));
        let found = findings(Resources, json!({}), &facts);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "container log: it has no memory request and no memory limit. Set \
                 resources.requests.memory, resources.limits.memory of the container",
                "init container migrate: it has no cpu request and no memory request and no memory \
                 limit. Set resources.requests.cpu, resources.requests.memory, \
                 resources.limits.memory of the container",
                "sidecar container mesh: it has no cpu request and no memory request and no memory \
                 limit. Set resources.requests.cpu, resources.requests.memory, \
                 resources.limits.memory of the container",
            ]
        );
    }

    #[test]
    fn what_is_demanded_and_of_whom_is_configurable() {
        let facts = facts(json!({"containers": [
            {"name": "app", "resources": {"limits": {"cpu": "1"}}}, {"name": "istio-proxy"},
        ]}));
        let options = json!({
            "requests": ["cpu"], "limits": ["cpu"], "exemptContainers": ["istio-proxy"],
        });
        assert!(findings(Resources, options, &facts).is_empty());
    }

    #[test]
    fn defaults_of_a_limit_range_count() {
        let spec = json!({"containers": [{"name": "app"}]});
        let range = json!([{"spec": {"limits": [
            {"type": "Pod", "max": {"memory": "1Gi"}},
            {"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}},
        ]}}]);
        let facts = with(facts_of(spec), Source::LimitRanges, range);
        assert!(findings(Resources, json!({}), &facts).is_empty());
    }

    #[test]
    fn resources_of_the_pod_as_a_whole_count() {
        let facts = facts(json!({"containers": [{"name": "app"}], "resources": set()}));
        assert!(findings(Resources, json!({}), &facts).is_empty());
    }

    #[test]
    fn a_limit_range_that_cannot_be_read_is_no_pass() {
        let mut facts = facts(json!({"containers": [{"name": "app"}]}));
        let forbidden = Fact::Forbidden("list limitranges".to_owned());
        facts.objects.insert(Source::LimitRanges, forbidden);
        let found = findings(Resources, json!({}), &facts);
        assert!(found[0].problem.contains("list limitranges"), "{found:?}");
    }

    #[test]
    fn a_quantity_of_0_and_malformed_resources_do_not_count() {
        for resources in [
            json!({"requests": {"cpu": "0", "memory": 0}, "limits": {"memory": "0"}}),
            json!({"requests": [], "limits": "all"}),
            json!(3),
        ] {
            let facts = facts(json!({"containers": [{"name": "app", "resources": resources}]}));
            assert_eq!(
                codes(Resources, json!({}), &facts),
                [HoldCode::ResourcesMissing]
            );
        }
    }
}
