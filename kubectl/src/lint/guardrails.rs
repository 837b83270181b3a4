//! The guardrails of RolloutPolicies over the Rollouts of the files.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serin_core::guardrail::Finding as GuardrailFinding;
use serin_core::hold::HoldCode;
use serin_guardrails::evaluate;

use super::{Finding, Severity, describe};
use crate::audit::{Inventory, Policy, Workload};
use crate::documents::Documents;

/// What the guardrails find. Nothing if no policy matches: neither in the files of `policies`, whose
/// namespaces count as well, nor in those that are checked.
pub(super) fn findings(
    documents: &Documents,
    policies: &Documents,
    now: Timestamp,
) -> Vec<Finding> {
    let added = policies.objects.iter();
    let added = added.filter_map(|one| Policy::from_object(&one.object));
    let mut inventory = Inventory::from_documents(documents, added.collect());
    inventory.add_namespaces(policies);
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
        lint_with(texts, "")
    }

    /// The findings with the objects of another file, which has policies.
    fn lint_with(texts: &[&str], policy_file: &str) -> Vec<(Severity, String, String)> {
        let [mut documents, mut policies] = [Documents::default(), Documents::default()];
        documents.parse(&texts.join("\n---\n"), "f.yaml");
        policies.parse(policy_file, "p.yaml");
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let found = findings(&documents, &policies, now);
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

    /// What keeps the only guardrail from passing: the severity and the message. `None` if it passes.
    fn problem(guardrail: &str, texts: &[&str]) -> Option<(Severity, String)> {
        let (head, _) = POLICY.split_once("    resources").unwrap();
        let policy = format!("{head}    {guardrail}: {{mode: Enforce}}\n");
        let found = lint(&[&[policy.as_str()], texts].concat());
        let mut found = found.into_iter();
        found
            .next()
            .map(|(severity, _, message)| (severity, message))
    }

    /// A Rollout and its Deployment, which have the name of the objects beside them.
    const OF_DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: c, image: 'i:1', ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: market}
spec:
  workloadRef: {kind: Deployment, name: shop}
  strategy: {canary: {}}
";
    /// Objects that the guardrails look for, which do not name a namespace.
    const BESIDE: [(&str, &str); 5] = [
        (
            "networkPolicy",
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shop}\n\
             spec: {podSelector: {matchLabels: {app: shop}}, ingress: [{ports: [{port: 80}]}]}\n",
        ),
        (
            "disruptionBudget",
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: shop}\n\
             spec: {maxUnavailable: 1, selector: {matchLabels: {app: shop}}}\n",
        ),
        (
            "observability",
            "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: shop}\n\
             spec: {selector: {matchLabels: {app: shop}}, podMetricsEndpoints: [{port: http}]}\n",
        ),
        (
            "observability",
            "apiVersion: v1\nkind: Service\nmetadata: {name: shop, labels: {app: shop}}\n\
             spec: {selector: {app: shop}, ports: [{name: web, port: 80}]}\n---\n\
             apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: shop}\n\
             spec: {selector: {matchLabels: {app: shop}}, endpoints: [{port: web}]}\n",
        ),
        (
            "resources",
            "apiVersion: v1\nkind: LimitRange\nmetadata: {name: shop}\nspec: {limits: [{type: Container, \
             default: {memory: 1Gi}, defaultRequest: {cpu: '1', memory: 1Gi}}]}\n",
        ),
    ];

    #[test]
    fn objects_count_for_the_template_of_a_deployment_whatever_their_names() {
        for (guardrail, object) in BESIDE {
            // The order of the documents does not matter, nor does a namespace that is left out.
            for documents in [[object, OF_DEPLOYMENT], [OF_DEPLOYMENT, object]] {
                assert_eq!(problem(guardrail, &documents), None, "{object}");
            }
            let here = object.replace("{name: shop", "{namespace: market, name: shop");
            assert_eq!(problem(guardrail, &[&here, OF_DEPLOYMENT]), None, "{here}");
            let anywhere = OF_DEPLOYMENT.replace(", namespace: market", "");
            assert_eq!(problem(guardrail, &[&here, &anywhere]), None, "{here}");
            let elsewhere = object.replace("{name: shop", "{namespace: other, name: shop");
            let found = problem(guardrail, &[&elsewhere, OF_DEPLOYMENT]);
            assert!(found.is_some(), "{elsewhere}");
            let of_others = object.replace("app: shop", "app: other");
            let found = problem(guardrail, &[&of_others, OF_DEPLOYMENT]);
            assert_eq!(found.is_some(), guardrail != "resources", "{of_others}");
        }
    }

    #[test]
    fn objects_count_for_a_rollout_that_adopts_its_deployment() {
        let adopting = ROLLOUT
            .replace("  replicas: 2\n", "  adopt: {deployment: shop}\n")
            .replace("image: 'i'", "image: 'i:1', ports: [{name: http}]");
        let (deployment, _) = OF_DEPLOYMENT.split_once("---").unwrap();
        for (guardrail, object) in BESIDE {
            assert_eq!(problem(guardrail, &[object, deployment, &adopting]), None);
        }
        // The number of pods is that of the Deployment, so that a budget is needed.
        let of_others = BESIDE[1].1.replace("app: shop", "app: other");
        let found = problem("disruptionBudget", &[&of_others, deployment, &adopting]);
        assert_eq!(found.unwrap().0, Severity::Error);
    }

    #[test]
    fn a_deployment_that_is_not_in_the_files_is_named_although_another_object_has_its_name() {
        let (_, rollout) = OF_DEPLOYMENT.split_once("---").unwrap();
        let (severity, message) = problem("networkPolicy", &[BESIDE[0].1, rollout]).unwrap();
        assert_eq!(severity, Severity::Warning);
        assert!(message.contains("Deployment shop"), "{message}");
    }

    #[test]
    fn a_namespace_counts_in_the_checked_files_and_in_those_of_the_policies() {
        let policy = POLICY.replace("networkPolicy", "podSecurity");
        let namespace = "
apiVersion: v1
kind: Namespace
metadata: {name: market, labels: {pod-security.kubernetes.io/enforce: privileged}}
";
        let of_security = |found: Vec<(Severity, String, String)>| {
            let mut found = found.into_iter();
            found.any(|(_, check, _)| check == "guardrail/podSecurity")
        };
        assert!(!of_security(lint(&[policy.as_str(), ROLLOUT])));
        assert!(of_security(lint(&[policy.as_str(), ROLLOUT, namespace])));
        let with_policy = format!("{policy}---{namespace}");
        assert!(of_security(lint_with(&[ROLLOUT], &with_policy)));
        // The labels decide whether the policy applies.
        let selecting = with_policy.replace(
            "spec:\n  guardrails",
            "spec:\n  namespaceSelector: {matchLabels: {team: a}}\n  guardrails",
        );
        assert!(lint_with(&[ROLLOUT], &selecting).is_empty());
        let by_name = selecting.replace("team: a", "kubernetes.io/metadata.name: other");
        let (by_name, _) = by_name.split_once("---").unwrap();
        assert!(lint_with(&[ROLLOUT], by_name).is_empty());
    }

    #[test]
    fn a_policy_by_labels_of_a_namespace_that_is_not_in_the_files_is_not_known_to_select_it() {
        let baseline = "
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {team: a}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other, namespace: market}
spec: {podSelector: {matchLabels: {app: other}}}
";
        let found = problem("networkPolicy", &[baseline, ROLLOUT]);
        assert_eq!(found.unwrap().0, Severity::Note);
        let namespace = "
apiVersion: v1
kind: Namespace
metadata: {name: market, labels: {team: a}}
";
        let found = problem("networkPolicy", &[baseline, ROLLOUT, namespace]);
        assert_eq!(found, None);
        let unlabeled = namespace.replace("team: a", "team: b");
        let found = problem("networkPolicy", &[baseline, ROLLOUT, &unlabeled]);
        assert_eq!(found.unwrap().0, Severity::Error);
    }

    #[test]
    fn without_a_policy_nothing_is_checked() {
        assert!(lint(&[ROLLOUT]).is_empty());
    }
}
