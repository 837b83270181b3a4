//! A PodDisruptionBudget selects the pods, and it lets at least one of them be evicted.

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::DisruptionBudgetGuardrail;

use crate::evaluation::Report;
use crate::facts::{Facts, Source};
use crate::label_selector;
use crate::template::{Template, object_name};

/// Number of replicas from which the guardrail applies by default.
const MIN_REPLICAS: i32 = 2;

pub(super) fn check(options: &DisruptionBudgetGuardrail, facts: &Facts, report: &mut Report) {
    let min_replicas = options.min_replicas.unwrap_or(MIN_REPLICAS);
    if i64::from(facts.replicas) < i64::from(min_replicas) {
        return;
    }
    let budgets = match facts.objects_of(Source::DisruptionBudgets).known() {
        Ok(budgets) => budgets,
        Err(why) => return report.unknown("PodDisruptionBudgets", &why),
    };
    let template = Template(&facts.template);
    let selects = |budget: &&Value| {
        label_selector::selects(&budget["spec"]["selector"], |key| template.label(key))
    };
    let selecting: Vec<&Value> = budgets.iter().filter(selects).collect();
    if selecting.is_empty() {
        report.add(
            HoldCode::DisruptionBudgetMissing,
            "pod template",
            format!(
                "no PodDisruptionBudget in namespace {} selects its pods",
                facts.namespace_name
            ),
            "Add a PodDisruptionBudget with maxUnavailable: 1 and the labels of the pods",
        );
    }
    if selecting.len() > 1 {
        let names: Vec<&str> = selecting.iter().map(|budget| object_name(budget)).collect();
        report.add(
            HoldCode::DisruptionBudgetBlocks,
            format!("PodDisruptionBudgets {}", names.join(", ")),
            "all of them select the pods, and the API server evicts no pod that several select",
            "Keep one of them",
        );
    }
    for budget in selecting {
        if evictable(budget, facts.replicas) == Some(0) {
            report.add(
                HoldCode::DisruptionBudgetBlocks,
                format!("PodDisruptionBudget {}", object_name(budget)),
                format!(
                    "it never lets one of the {} pods be evicted",
                    facts.replicas
                ),
                "Set maxUnavailable: 1 instead, so that nodes can be drained",
            );
        }
    }
}

/// How many of the pods may be evicted at the same time. `None` if the budget is malformed.
fn evictable(budget: &Value, replicas: u32) -> Option<u64> {
    let spec = &budget["spec"];
    let replicas = u64::from(replicas);
    if !spec["maxUnavailable"].is_null() {
        return pods(&spec["maxUnavailable"], replicas);
    }
    let min_available = match &spec["minAvailable"] {
        // The default of a PodDisruptionBudget.
        Value::Null => 1,
        value => pods(value, replicas)?,
    };
    Some(replicas.saturating_sub(min_available))
}

/// A number of pods or a percentage, which Kubernetes rounds up.
fn pods(value: &Value, replicas: u64) -> Option<u64> {
    if let Some(count) = value.as_u64() {
        return Some(count);
    }
    let text = value.as_str()?;
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: u64 = percent.parse().ok()?;
            Some(percent.min(100).saturating_mul(replicas).div_ceil(100))
        }
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::DisruptionBudget;

    use super::super::test_facts::{codes, facts, with};
    use super::*;

    fn codes_with(spec: Value) -> Vec<HoldCode> {
        let budget = json!([{"metadata": {"name": "checkout"}, "spec": spec}]);
        let facts = with(facts(), Source::DisruptionBudgets, budget);
        codes(DisruptionBudget, json!({}), &facts)
    }

    #[test]
    fn a_budget_must_select_the_pods_and_let_a_drain_proceed() {
        let selector = json!({"matchLabels": {"app": "checkout"}});
        for (spec, expected) in [
            (json!({"selector": selector, "maxUnavailable": 1}), vec![]),
            (json!({"selector": selector, "minAvailable": 3}), vec![]),
            (
                json!({"selector": selector, "maxUnavailable": "1%"}),
                vec![],
            ),
            (json!({"selector": {}, "minAvailable": "50%"}), vec![]),
            (json!({"selector": selector}), vec![]),
            (
                json!({"selector": selector, "maxUnavailable": 0}),
                vec![HoldCode::DisruptionBudgetBlocks],
            ),
            (
                json!({"selector": selector, "minAvailable": "100%"}),
                vec![HoldCode::DisruptionBudgetBlocks],
            ),
            (
                json!({"selector": selector, "minAvailable": 4}),
                vec![HoldCode::DisruptionBudgetBlocks],
            ),
            (
                json!({"selector": {"matchLabels": {"app": "other"}}}),
                vec![HoldCode::DisruptionBudgetMissing],
            ),
        ] {
            assert_eq!(codes_with(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn two_budgets_for_the_same_pods_block_every_eviction() {
        let budget = |name: &str| json!({"metadata": {"name": name}, "spec": {"selector": {}}});
        let budgets = json!([budget("a"), budget("b")]);
        let facts = with(facts(), Source::DisruptionBudgets, budgets);
        let found = codes(DisruptionBudget, json!({}), &facts);
        assert_eq!(found, [HoldCode::DisruptionBudgetBlocks]);
    }

    #[test]
    fn a_single_replica_needs_no_budget_and_unknown_is_no_pass() {
        assert_eq!(
            codes(DisruptionBudget, json!({}), &facts()),
            [HoldCode::GuardrailUnknown]
        );
        let mut single = facts();
        single.replicas = 1;
        assert!(codes(DisruptionBudget, json!({}), &single).is_empty());
    }
}
