//! Rollouts with what their RolloutPolicies and AnalysisTemplates contribute, and the policies
//! themselves.

use serde_json::Value;
use serin_crds::RolloutSpec;

use crate::effective::PolicySet;

/// A Rollout with its effective spec, or why it cannot be resolved. Other objects as they are.
pub(super) fn effective_object(object: &Value, policies: &PolicySet) -> Result<Value, Vec<String>> {
    if object["kind"] != "Rollout" {
        return Ok(object.clone());
    }
    // A spec that cannot be read is reported by other checks.
    let Ok(spec) = serde_json::from_value::<RolloutSpec>(object["spec"].clone()) else {
        return Ok(object.clone());
    };
    if policies.is_empty() {
        return Ok(object.clone());
    }
    let effective = policies.resolve(object, &spec);
    if !effective.problems.is_empty() {
        return Err(effective.problems.iter().map(ToString::to_string).collect());
    }
    let mut resolved = object.clone();
    if let Ok(spec) = serde_json::to_value(&effective.spec) {
        resolved["spec"] = spec;
    }
    Ok(resolved)
}

/// What is wrong with a RolloutPolicy, whatever Rollouts it matches.
pub(super) fn policy_errors(object: &Value, policies: &PolicySet) -> Vec<String> {
    if object["kind"] != "RolloutPolicy" {
        return Vec::new();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let problems = serin_policy::validate(name, &policies.inputs());
    let source = format!("RolloutPolicy {name}: ");
    // The object is already named by the finding.
    let text = |problem: String| match problem.strip_prefix(&source) {
        Some(text) => text.to_owned(),
        None => problem,
    };
    problems
        .iter()
        .map(|problem| text(problem.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::cli::TrafficArgs;
    use crate::documents::Documents;
    use crate::effective::PolicySet;
    use crate::lint::lint;

    const FILES: &str = "
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop}
spec:
  workloadRef: {kind: Deployment, name: shop}
  strategy: {canary: {trafficRouting: {gatewayAPI: {httpRoute: shop}}}}
  analysis: {objectives: [{ref: http-availability}]}
---
apiVersion: serin.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: platform}
spec:
  objectives: [{name: http-availability, objective: 99.9, indicator: traefik}]
";

    fn messages(files: &str) -> Vec<String> {
        let mut documents = Documents::default();
        documents.parse(files, "f.yaml");
        let policies = PolicySet::of_documents(&documents);
        let findings = lint(&documents, &policies, &TrafficArgs::default());
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_rollout_is_checked_with_what_its_policies_contribute() {
        assert_eq!(messages(FILES), Vec::<String>::new());
        let unknown = messages(&FILES.replace("name: http-availability", "name: other"));
        assert!(
            unknown.len() == 1 && unknown[0].contains("objectives[http-availability].ref"),
            "{unknown:?}"
        );
        let (alone, _) = FILES.split_once("---").unwrap();
        let without = messages(alone);
        assert!(
            without.len() == 1 && without[0].contains("add --policy FILE"),
            "{without:?}"
        );
    }

    #[test]
    fn a_policy_is_checked_on_its_own() {
        let broken = FILES.replace(
            "indicator: traefik}]",
            "indicator: traefik}, {name: b, extends: {name: c}}]",
        );
        let messages = messages(&broken);
        assert!(
            messages.len() == 1 && messages[0].contains("no objective with this name"),
            "{messages:?}"
        );
    }
}
