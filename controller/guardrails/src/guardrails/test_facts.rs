//! Facts and findings for the tests of the guardrails.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use serin_core::guardrail::{Finding, GuardrailKind};
use serin_core::hold::HoldCode;
use serin_crds::guardrails::Guardrails;

use crate::facts::{Fact, Facts, NamespaceFacts, PodFacts, RunningContainer, Source};
use crate::{Evaluation, evaluate};

/// The time of the tests.
pub const NOW: &str = "2026-06-01T12:00:00Z";

/// A revision of the Rollout shop/checkout with one container.
pub fn facts() -> Facts {
    facts_of(json!({"containers": [{"name": "app", "image": "registry.example.com/app:v1"}]}))
}

/// A revision with this pod spec.
pub fn facts_of(spec: Value) -> Facts {
    Facts {
        namespace_name: "shop".to_owned(),
        rollout_name: "checkout".to_owned(),
        replicas: 4,
        template: json!({"metadata": {"labels": {"app": "checkout"}}, "spec": spec}),
        namespace: Fact::Known(NamespaceFacts::default()),
        pods: Fact::Known(Vec::new()),
        ..Facts::default()
    }
}

/// Adds the objects of a source.
pub fn with(mut facts: Facts, source: Source, objects: Value) -> Facts {
    let objects = objects.as_array().cloned().unwrap_or_default();
    facts.objects.insert(source, Fact::Known(objects));
    facts
}

/// Says that the cluster has none of these kinds.
pub fn without(mut facts: Facts, sources: &[Source]) -> Facts {
    for source in sources {
        facts.objects.insert(*source, Fact::NotServed);
    }
    facts
}

/// A pod that runs these images.
pub fn pod(name: &str, images: &[(&str, &str)]) -> PodFacts {
    let container = |(name, image_id): &(&str, &str)| RunningContainer {
        name: (*name).to_owned(),
        image_id: (*image_id).to_owned(),
    };
    PodFacts {
        name: name.to_owned(),
        annotations: BTreeMap::new(),
        containers: images.iter().map(container).collect(),
    }
}

/// Evaluates one guardrail with these options, as a RolloutPolicy has them.
pub fn run(kind: GuardrailKind, options: Value, facts: &Facts) -> Evaluation {
    let mut options = options;
    if options.get("mode").is_none() {
        options["mode"] = json!("Enforce");
    }
    let guardrails: Guardrails = serde_json::from_value(json!({kind.as_str(): options})).unwrap();
    evaluate(&guardrails, &[], facts, NOW.parse().unwrap())
}

/// The findings of one guardrail.
pub fn findings(kind: GuardrailKind, options: Value, facts: &Facts) -> Vec<Finding> {
    run(kind, options, facts).findings
}

/// The codes of the findings of one guardrail.
pub fn codes(kind: GuardrailKind, options: Value, facts: &Facts) -> Vec<HoldCode> {
    let findings = findings(kind, options, facts);
    findings.iter().map(|finding| finding.code).collect()
}
