//! Serin obeys its own guardrails, and `lint` and `audit` say what does not.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The guardrails that the chart ships, all of them at Enforce.
const SHIPPED: &str = include_str!("../../charts/serin/files/guardrails.yaml");
/// Those that the files of a service cannot show.
const NEED_A_CLUSTER: [&str; 4] = [
    "imageSignature",
    "podSecurity",
    "vulnerabilities",
    "policyReports",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(arguments: &[&str]) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_kubectl-serin");
    let ended = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    let errors = String::from_utf8(ended.stderr).unwrap();
    (ended.status.code().unwrap(), text + &errors)
}

/// A RolloutPolicy with the shipped guardrails at Enforce, as a file.
fn policy(folder: &Path) -> String {
    let guardrails = SHIPPED.replace("mode: Warn", "mode: Enforce");
    let indented = format!("    {}\n", guardrails.trim_end().replace('\n', "\n    "));
    let text = format!(
        "apiVersion: serin.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {{name: platform}}\n\
         spec:\n  guardrails:\n{indented}"
    );
    let file = folder.join("policy.yaml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_examples_pass_every_shipped_guardrail_at_enforce() {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy(folder.path());
    for name in ["quickstart", "canary-full", "prometheus-with-tls"] {
        let file = root().join(format!("examples/{name}.yaml"));
        let file = file.to_str().unwrap();
        let (code, out) = run(&["lint", "-f", file, "--policy", &policy, "-o", "json"]);
        assert_eq!(code, 0, "{name}: {out}");
        let findings: Value = serde_json::from_str(&out).unwrap();
        for finding in findings.as_array().unwrap() {
            let check = finding["check"].as_str().unwrap();
            if !check.starts_with("guardrail") {
                continue;
            }
            assert_eq!(finding["severity"], "note", "{name}: {finding}");
            let message = finding["message"].as_str().unwrap();
            let (_, unchecked) = message.rsplit_once(": ").unwrap();
            for guardrail in unchecked.split(", ") {
                assert!(NEED_A_CLUSTER.contains(&guardrail), "{name}: {message}");
            }
        }
    }
}

/// The manifests of a product team: a Rollout of ten lines, and objects with its name.
const SHORT_ROLLOUT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shop}
spec:
  podSelector: {matchLabels: {app: shop}}
  ingress: [{ports: [{port: 8080}]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: shop}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
      annotations: {prometheus.io/scrape: 'true'}
    spec:
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: shop}}
      containers:
        - name: shop
          image: registry.example.com/shop:v1
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /readyz, port: http}}
          resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {memory: 64Mi}}
---
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata:
  name: shop
  namespace: market
spec:
  workloadRef: {kind: Deployment, name: shop}
  strategy:
    canary:
      trafficRouting: {gatewayAPI: {httpRoute: shop}}
";

#[test]
fn a_ten_line_rollout_beside_its_objects_passes_the_shipped_guardrails() {
    let folder = tempfile::tempdir().unwrap();
    let policy = policy(folder.path());
    let lint = |text: &str| {
        let file = folder.path().join("shop.yaml");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let (code, out) = run(&["lint", "-f", file, "--policy", &policy, "-o", "json"]);
        let findings: Vec<Value> = serde_json::from_str(&out).unwrap();
        (code, findings)
    };
    let (code, findings) = lint(SHORT_ROLLOUT);
    assert_eq!(code, 0, "{findings:#?}");
    for finding in &findings {
        assert_eq!(finding["severity"], "note", "{findings:#?}");
        let message = finding["message"].as_str().unwrap();
        let (_, unchecked) = message.rsplit_once(": ").unwrap();
        for guardrail in unchecked.split(", ") {
            assert!(NEED_A_CLUSTER.contains(&guardrail), "{message}");
        }
    }
    // They count only if they select the pods of the Deployment.
    for (selector, check) in [
        ("podSelector", "guardrail/networkPolicy"),
        ("selector", "guardrail/disruptionBudget"),
    ] {
        let wrong = format!("{selector}: {{matchLabels: {{app: other}}}}");
        let right = format!("{selector}: {{matchLabels: {{app: shop}}}}");
        let (code, findings) = lint(&SHORT_ROLLOUT.replacen(&right, &wrong, 1));
        let checks: Vec<&Value> = findings.iter().map(|finding| &finding["check"]).collect();
        assert_eq!(code, 1, "{findings:#?}");
        assert!(checks.iter().any(|found| *found == check), "{checks:?}");
    }
}

/// A Rollout with several problems, and a Deployment.
fn bad_workloads(folder: &Path) -> String {
    let text = "
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: market}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  strategy: {canary: {}}
  template: {metadata: {labels: {app: shop}}, spec: {containers: [{name: c, image: 'i'}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: legacy, namespace: market}
spec:
  selector: {matchLabels: {app: legacy}}
  template: {metadata: {labels: {app: legacy}}, spec: {containers: [{name: c, image: 'i:1'}]}}
";
    let file = folder.join("workloads.yaml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn lint_fails_the_pull_request_and_has_outputs_for_pipelines() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, file) = (policy(folder.path()), bad_workloads(folder.path()));
    let lint = |output: &str| run(&["lint", "-f", &file, "--policy", &policy, "-o", output]);
    let (code, text) = lint("text");
    assert_eq!(code, 1, "{text}");
    for expected in [
        "error: Rollout shop: guardrail resources: container c: it has no cpu request",
        "guardrail imagePinned: container c: its image i has no tag",
        "note: Rollout shop: these guardrails need a cluster",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let sarif: Value = serde_json::from_str(&lint("sarif").1).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let rules: Vec<&str> = results
        .iter()
        .filter_map(|one| one["ruleId"].as_str())
        .collect();
    assert!(rules.contains(&"guardrail/resources"), "{rules:?}");
    let (code, junit) = lint("junit");
    assert_eq!(code, 1);
    assert!(junit.contains("<testcase name=\"Rollout shop\""), "{junit}");
    assert!(junit.contains("failures=\"1\""), "{junit}");
}

#[test]
fn audit_reports_the_share_that_passes_and_every_workload() {
    let folder = tempfile::tempdir().unwrap();
    let file = bad_workloads(folder.path());
    let (code, table) = run(&["audit", "-f", &file, "--deployments"]);
    assert_eq!(code, 0, "{table}");
    for expected in [
        "GUARDRAIL",
        "imagePinned",
        "50 %",
        "Deployment",
        "legacy",
        "shop",
    ] {
        assert!(table.contains(expected), "{expected}: {table}");
    }
    let (_, json) = run(&["audit", "-f", &file, "--deployments", "-o", "json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["workloads"].as_array().unwrap().len(), 2);
    let shares = report["shares"].as_array().unwrap();
    let resources = shares
        .iter()
        .find(|share| share["guardrail"] == "resources")
        .unwrap();
    assert_eq!(resources["fail"], 2);
    let (_, only_rollouts) = run(&["audit", "-f", &file, "-o", "json"]);
    let report: Value = serde_json::from_str(&only_rollouts).unwrap();
    assert_eq!(report["workloads"].as_array().unwrap().len(), 1);
    let (_, page) = run(&["audit", "-f", &file, "-o", "html"]);
    assert!(page.starts_with("<!doctype html>") && page.contains("<td class=\"fail\">fail"));
    let (code, _) = run(&["audit", "-f", &file, "--strict"]);
    assert_eq!(code, 1);
}
