//! The guardrails of RolloutPolicies over the Rollouts of the files.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serin_core::guardrail::Finding as GuardrailFinding;
use serin_core::hold::HoldCode;
use serin_guardrails::evaluate;

use super::{Finding, Severity, describe};
use crate::audit::{Inventory, Policy, Workload};
use crate::documents::Documents;

/// What the guardrails find. Nothing if no policy matches: neither in `policies` nor in the files.
pub(super) fn findings(
    documents: &Documents,
    policies: Vec<Policy>,
    now: Timestamp,
) -> Vec<Finding> {
    let inventory = Inventory::from_documents(documents, policies);
    let objects: Vec<_> = documents.objects.iter().map(|one| &one.object).collect();
    let mut findings = Vec::new();
    for document in &documents.objects {
        let rollout = Workload::from_object(&document.object, &objects);
        let Some(rollout) = rollout.filter(|one| one.kind == "Rollout") else {
            continue;
        };
        let Some(guardrails) = inventory.guardrails_of(&rollout) else {
            continue;
        };
        let finding = |severity, check: &str, message: String| Finding {
            severity,
            check: check.to_owned(),
            source: document.source.clone(),
            object: describe(&document.object),
            message,
        };
        if let Err(name) = &rollout.template {
            let message = format!(
                "the guardrails were not checked: Deployment {name}, which has the pod template, is \
                 not in these files"
            );
            findings.push(finding(Severity::Warning, "guardrail", message));
            continue;
        }
        let facts = inventory.facts_of(&rollout);
        let found = evaluate(&guardrails, &rollout.exceptions, &facts, now).findings;
        let unknown: BTreeSet<String> = found
            .iter()
            .filter(|one| one.code == HoldCode::GuardrailUnknown)
            .map(GuardrailFinding::guardrail_name)
            .collect();
        for one in found.iter().filter(|one| !needs_cluster(one, &unknown)) {
            let severity = if one.is_holding() {
                Severity::Error
            } else {
                Severity::Warning
            };
            let name = one.guardrail_name();
            let message = format!("guardrail {name}: {one}{}", exception(one));
            findings.push(finding(severity, &format!("guardrail/{name}"), message));
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.into_iter().collect();
            let message = format!(
                "these guardrails need a cluster, or manifests that are not in these files: {}",
                names.join(", ")
            );
            findings.push(finding(Severity::Note, "guardrail", message));
        }
    }
    findings
}

/// Whether a finding says only that something is not in the files.
fn needs_cluster(finding: &GuardrailFinding, unknown: &BTreeSet<String>) -> bool {
    let is_consequence = matches!(
        finding.code,
        HoldCode::PolicyReportMissing | HoldCode::VulnerabilityReportMissing
    );
    finding.code == HoldCode::GuardrailUnknown
        || (is_consequence && unknown.contains(&finding.guardrail_name()))
}

fn exception(finding: &GuardrailFinding) -> String {
    match finding.expires {
        Some(end) => format!(" (an exception applies until {end})"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: serin.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: platform}
spec:
  guardrails:
    resources: {mode: Enforce}
    probes: {mode: Warn}
    networkPolicy: {mode: Enforce}
    vulnerabilities: {mode: Enforce}
    imagePinned: {mode: Enforce}
";
    const ROLLOUT: &str = "
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: market}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  strategy: {canary: {}}
  guardrailExceptions: [{guardrail: imagePinned, reason: test, expires: '2026-12-31'}]
  template: {metadata: {labels: {app: shop}}, spec: {containers: [{name: c, image: 'i'}]}}
";

    fn lint(texts: &[&str]) -> Vec<(Severity, String, String)> {
        let mut documents = Documents::default();
        documents.parse(&texts.join("---"), "f.yaml");
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let found = findings(&documents, Vec::new(), now);
        found
            .into_iter()
            .map(|one| (one.severity, one.check, one.message))
            .collect()
    }

    #[test]
    fn the_pull_request_fails_and_not_the_release() {
        let found = lint(&[POLICY, ROLLOUT]);
        let severities: Vec<_> = found
            .iter()
            .map(|(severity, check, _)| (*severity, check.as_str()))
            .collect();
        assert_eq!(
            severities,
            [
                (Severity::Error, "guardrail/resources"),
                (Severity::Warning, "guardrail/imagePinned"),
                (Severity::Warning, "guardrail/probes"),
                (Severity::Note, "guardrail"),
            ]
        );
        assert!(
            found[0].2.contains("container c: it has no cpu request"),
            "{found:?}"
        );
        assert!(
            found[1].2.contains("an exception applies until 2027-01-01"),
            "{found:?}"
        );
        assert!(
            found[3].2.ends_with("networkPolicy, vulnerabilities"),
            "{found:?}"
        );
    }

    #[test]
    fn objects_in_the_files_count() {
        let open = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: market}
spec: {podSelector: {}, ingress: [{}]}
";
        let found = lint(&[POLICY, ROLLOUT, open]);
        let of_network =
            |(_, check, _): &&(Severity, String, String)| check == "guardrail/networkPolicy";
        let (severity, _, message) = found.iter().find(of_network).unwrap();
        assert_eq!(*severity, Severity::Error);
        assert!(message.contains("NetworkPolicy open"), "{message}");
    }

    #[test]
    fn without_a_policy_nothing_is_checked() {
        assert!(lint(&[ROLLOUT]).is_empty());
    }
}
