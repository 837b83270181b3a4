//! The guardrails of several policies.

use std::collections::BTreeMap;

use serde_json::Value;
use serin_crds::guardrails::Guardrails;

use crate::document::{Fields, object};
use crate::select::PolicyInput;

/// The policy of each guardrail: `resources`, or `custom/NAME` for a custom one.
pub type GuardrailOrigins = BTreeMap<String, String>;

/// Combines the guardrails of policies in the order of their precedence. A guardrail is taken as a
/// whole from the first policy that sets it.
pub fn combine_guardrails(policies: &[PolicyInput<'_>]) -> (Guardrails, GuardrailOrigins) {
    let mut combined = Fields::new();
    let mut custom: Vec<Value> = Vec::new();
    let mut origins = GuardrailOrigins::new();
    for policy in policies {
        let guardrails = policy.spec.ok().and_then(|spec| spec.guardrails.as_ref());
        let fields = guardrails.and_then(|guardrails| serde_json::to_value(guardrails).ok());
        for (name, value) in fields.map(object).unwrap_or_default() {
            let Value::Array(entries) = value else {
                if !combined.contains_key(&name) {
                    origins.insert(name.clone(), policy.name.to_owned());
                    combined.insert(name, value);
                }
                continue;
            };
            for entry in entries {
                let key = format!("{name}/{}", entry["name"].as_str().unwrap_or_default());
                if let std::collections::btree_map::Entry::Vacant(vacant) = origins.entry(key) {
                    vacant.insert(policy.name.to_owned());
                    custom.push(entry);
                }
            }
        }
    }
    if !custom.is_empty() {
        combined.insert("custom".to_owned(), Value::Array(custom));
    }
    // The values were written by the type that reads them.
    let guardrails = serde_json::from_value(Value::Object(combined)).unwrap_or_default();
    (guardrails, origins)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_crds::RolloutPolicySpec;

    use super::*;

    #[test]
    fn a_guardrail_comes_as_a_whole_from_the_policy_with_the_highest_precedence() {
        let spec = |guardrails: Value| -> RolloutPolicySpec {
            serde_json::from_value(json!({"guardrails": guardrails})).unwrap()
        };
        let team = spec(json!({"resources": {"mode": "Warn"}}));
        let platform = spec(json!({
            "resources": {"mode": "Enforce", "limits": ["cpu"]},
            "probes": {"mode": "Enforce"},
        }));
        let policies = [
            PolicyInput::new("team", &team),
            PolicyInput::new("platform", &platform),
        ];
        let (guardrails, origins) = combine_guardrails(&policies);
        let resources = serde_json::to_value(guardrails.resources).unwrap();
        assert_eq!(resources, json!({"mode": "Warn"}));
        assert!(guardrails.probes.is_some());
        assert_eq!(origins["resources"], "team");
        assert_eq!(origins["probes"], "platform");
    }
}
