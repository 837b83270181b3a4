//! A guardrail of the platform: a CEL expression.

use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::expression::{Dialect, Expression, JSON_FUNCTIONS};
use serin_crds::guardrails::CustomGuardrail;

use crate::evaluation::Report;
use crate::facts::Facts;

/// What the expression of a custom guardrail may use.
const DIALECT: Dialect = Dialect {
    variables: &["template", "rollout", "namespaceObject"],
    functions: JSON_FUNCTIONS,
    max_length: 1_024,
    max_depth: 40,
    max_height: 40,
};

/// Parses the expression of a custom guardrail.
///
/// # Errors
///
/// A message with the problem and its position.
pub(crate) fn parse_custom_expression(text: &str) -> Result<Expression, String> {
    Expression::parse(text, &DIALECT)
}

pub(crate) fn custom(guardrail: &CustomGuardrail, facts: &Facts, report: &mut Report) {
    let object = || format!("custom guardrail {}", guardrail.name);
    let expression = match parse_custom_expression(&guardrail.expression) {
        Ok(expression) => expression,
        Err(problem) => {
            return report.add(
                HoldCode::GuardrailInvalid,
                object(),
                format!("its expression cannot be used: {problem}"),
                "Correct the expression in the RolloutPolicy",
            );
        }
    };
    let namespace = match facts.namespace.known() {
        Ok(namespace) => json!({
            "metadata": {
                "name": facts.namespace_name,
                "labels": namespace.labels,
                "annotations": namespace.annotations,
            },
        }),
        Err(why) if guardrail.expression.contains("namespaceObject") => {
            return report.unknown("Namespace", &why);
        }
        Err(_) => Value::Null,
    };
    let rollout = json!({
        "metadata": {
            "name": facts.rollout_name,
            "namespace": facts.namespace_name,
            "labels": facts.rollout_labels,
        },
        "spec": {"replicas": facts.replicas},
    });
    let template = with_metadata(&facts.template);
    match expression.evaluate(&[&template, &rollout, &namespace]) {
        Ok(true) => {}
        Ok(false) => report.add(
            HoldCode::CustomGuardrail,
            object(),
            guardrail.message.trim_end_matches('.'),
            guardrail.fix.trim_end_matches('.'),
        ),
        Err(problem) => report.add(
            HoldCode::CustomGuardrail,
            object(),
            format!(
                "{} (the expression cannot be evaluated: {problem})",
                guardrail.message.trim_end_matches('.')
            ),
            guardrail.fix.trim_end_matches('.'),
        ),
    }
}

/// The template with the fields that an expression may expect of every template.
fn with_metadata(template: &Value) -> Value {
    let mut template = template.clone();
    if !template.is_object() {
        template = json!({});
    }
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    for field in ["labels", "annotations"] {
        if !template["metadata"][field].is_object() {
            template["metadata"][field] = json!({});
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use serin_core::guardrail::Finding;
    use serin_crds::guardrails::Guardrails;

    use super::super::test_facts::{NOW, facts};
    use super::*;
    use crate::evaluate;
    use crate::facts::Fact;

    fn run(expression: &str, facts: &Facts) -> Vec<Finding> {
        let guardrails: Guardrails = serde_json::from_value(json!({"custom": [{
            "name": "team-label", "mode": "Enforce", "expression": expression,
            "message": "The pods have no team.", "fix": "Add the label team.",
        }]}))
        .unwrap();
        evaluate(&guardrails, &[], facts, NOW.parse().unwrap()).findings
    }

    #[test]
    fn the_platform_writes_the_problem_and_the_fix() {
        let found = run("'team' in template.metadata.labels", &facts());
        assert_eq!(
            found[0].to_string(),
            "custom guardrail team-label: The pods have no team. Add the label team"
        );
        assert_eq!(found[0].guardrail_name(), "custom/team-label");
        assert!(
            run(
                "template.metadata.labels.app == rollout.metadata.name",
                &facts()
            )
            .is_empty()
        );
        assert!(run("namespaceObject.metadata.name == 'shop'", &facts()).is_empty());
        assert!(run("rollout.spec.replicas > 1", &facts()).is_empty());
        assert!(run("size(template.metadata.annotations) == 0", &facts()).is_empty());
    }

    #[test]
    fn an_expression_that_cannot_be_used_or_evaluated_is_no_pass() {
        assert_eq!(run("team(", &facts())[0].code, HoldCode::GuardrailInvalid);
        let failing = run("template.spec.securityContext.runAsNonRoot", &facts());
        assert_eq!(failing[0].code, HoldCode::CustomGuardrail);
        assert!(
            failing[0].problem.contains("securityContext"),
            "{failing:?}"
        );
        let mut facts = facts();
        facts.namespace = Fact::Failed("timeout".to_owned());
        let unknown = run("namespaceObject.metadata.labels.env == 'prod'", &facts);
        assert_eq!(unknown[0].code, HoldCode::GuardrailUnknown);
        assert!(run("true", &facts).is_empty());
    }
}
