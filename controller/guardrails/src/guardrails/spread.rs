//! Topology spread constraints or pod anti-affinity spread the replicas.

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::SpreadGuardrail;

use crate::evaluation::Report;
use crate::facts::Facts;
use crate::label_selector;
use crate::template::{Template, items};

/// Number of replicas from which the guardrail applies by default.
const MIN_REPLICAS: i32 = 2;

pub(super) fn check(options: &SpreadGuardrail, facts: &Facts, report: &mut Report) {
    let min_replicas = options.min_replicas.unwrap_or(MIN_REPLICAS);
    if i64::from(facts.replicas) < i64::from(min_replicas) {
        return;
    }
    let host = ["kubernetes.io/hostname".to_owned()];
    let keys = options.topology_keys.as_deref().unwrap_or(&host);
    let template = Template(&facts.template);
    for key in keys.iter().filter(|key| !is_spread(template, key)) {
        report.add(
            HoldCode::NotSpread,
            "pod template",
            format!("nothing spreads its {} replicas over {key}", facts.replicas),
            format!(
                "Add topologySpreadConstraints with topologyKey {key} and a labelSelector that \
                 selects the pods"
            ),
        );
    }
}

fn is_spread(template: Template<'_>, key: &str) -> bool {
    let spec = template.spec();
    let selects_pods =
        |term: &Value| label_selector::selects(&term["labelSelector"], |key| template.label(key));
    let is_of = |term: &Value| term["topologyKey"] == key && selects_pods(term);
    let affinity = &spec["affinity"]["podAntiAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    let preferred = &affinity["preferredDuringSchedulingIgnoredDuringExecution"];
    items(&spec["topologySpreadConstraints"]).any(is_of)
        || items(required).any(is_of)
        || items(preferred).any(|term| is_of(&term["podAffinityTerm"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::Spread;

    use super::super::test_facts::{codes, facts, facts_of};
    use super::*;

    fn term(app: &str) -> Value {
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}})
    }

    #[test]
    fn replicas_are_spread_by_constraints_or_anti_affinity_that_select_them() {
        let by = |part: Value| {
            let mut spec = json!({"containers": []});
            spec.as_object_mut()
                .unwrap()
                .extend(part.as_object().unwrap().clone());
            codes(Spread, json!({}), &facts_of(spec))
        };
        let anti =
            |kind: &str, terms: Value| json!({"affinity": {"podAntiAffinity": {kind: terms}}});
        assert!(by(json!({"topologySpreadConstraints": [term("checkout")]})).is_empty());
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        assert!(by(anti(required, json!([term("checkout")]))).is_empty());
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let weighted = json!([{"weight": 100, "podAffinityTerm": term("checkout")}]);
        assert!(by(anti(preferred, weighted)).is_empty());
        let others = by(json!({"topologySpreadConstraints": [term("other")]}));
        assert_eq!(others, [HoldCode::NotSpread]);
        assert_eq!(codes(Spread, json!({}), &facts()), [HoldCode::NotSpread]);
    }

    #[test]
    fn one_replica_needs_no_spread_and_each_key_is_demanded() {
        let mut single = facts();
        single.replicas = 1;
        assert!(codes(Spread, json!({}), &single).is_empty());
        let keys =
            json!({"topologyKeys": ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]});
        assert_eq!(codes(Spread, keys, &facts()).len(), 2);
    }
}
