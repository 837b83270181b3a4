//! `simulate` and `evaluate` with what RolloutPolicies contribute to a Rollout.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const ROLLOUT: &str = "
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: checkout, namespace: shop}
spec:
  workloadRef: {kind: Deployment, name: checkout}
  strategy: {canary: {trafficRouting: {gatewayAPI: {httpRoute: checkout}}}}
";

const POLICY: &str = "
apiVersion: serin.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: platform}
spec:
  defaults:
    strategy: {canary: {pace: {firstWeight: 2, maxWeight: 40}}}
    analysis:
      warmUp: 0s
      rollback: {falseRollbackProbability: ALPHA}
      objectives: [{ref: availability}]
  objectives:
    - {name: availability, objective: 99.9, indicator: traefik}
    - {name: latency, objective: 95, indicator: traefik, latency: {threshold: 300ms}}
";

const SIMULATE: [&str; 11] = [
    "simulate",
    "-f",
    "rollout.yaml",
    "--rps",
    "120",
    "--error-rate",
    "0.05%",
    "--canary-error-rate",
    "0.5%",
    "--runs",
    "16",
];

/// A folder with the Rollout and a policy with this bound on false rollbacks.
fn files(alpha: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rollout.yaml"), ROLLOUT).unwrap();
    let policy = POLICY.replace("ALPHA", alpha);
    std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    folder
}

/// Exit code, standard output and standard error.
fn run(folder: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-serin"))
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails before reading closes the pipe; the write error is expected.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let ended = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        ended.status.code().unwrap(),
        text(ended.stdout),
        text(ended.stderr),
    )
}

#[test]
fn the_effective_spec_is_simulated() {
    let folder = files("0.01");
    let (code, _, errors) = run(folder.path(), &SIMULATE, "");
    assert_eq!(code, 2);
    assert!(errors.contains("has no spec.analysis"), "{errors}");

    let with_policy = [&SIMULATE[..], &["--policy", "policy.yaml"]].concat();
    let (code, text, errors) = run(folder.path(), &with_policy, "");
    assert_eq!(code, 0, "{errors}");
    assert!(text.contains("availability"), "{text}");
    assert!(text.contains("40"), "the pace of the policy: {text}");

    // A policy in the file with the Rollout counts, too.
    let both = format!("{ROLLOUT}---{}", POLICY.replace("ALPHA", "0.01"));
    std::fs::write(folder.path().join("rollout.yaml"), both).unwrap();
    let (code, in_one_file, errors) = run(folder.path(), &SIMULATE, "");
    assert_eq!(code, 0, "{errors}");
    // The last line has the duration.
    let figures = |text: &str| text.lines().filter(|line| line.contains('%')).count();
    assert_eq!(figures(&in_one_file), figures(&text), "{in_one_file}");
}

#[test]
fn a_reference_that_no_policy_resolves_is_reported() {
    let folder = files("0.01");
    let unknown = format!("{ROLLOUT}  analysis: {{objectives: [{{ref: unknown}}]}}\n");
    std::fs::write(folder.path().join("rollout.yaml"), unknown).unwrap();
    let with_policy = [&SIMULATE[..], &["--policy", "policy.yaml"]].concat();
    let (code, _, errors) = run(folder.path(), &with_policy, "");
    assert_eq!(code, 2, "{errors}");
    assert!(
        errors.contains("Rollout checkout cannot be resolved with its policies"),
        "{errors}"
    );
    assert!(errors.contains("objectives[unknown].ref"), "{errors}");
    let none = [&SIMULATE[..], &["--policy", "rollout.yaml"]].concat();
    let (code, _, errors) = run(folder.path(), &none, "");
    assert_eq!(code, 2);
    assert!(errors.contains("contains no RolloutPolicy"), "{errors}");
}

/// The number of the first line with a rollback, under a policy with this bound.
fn first_rollback(alpha: &str, more: &[&str]) -> usize {
    let folder = files(alpha);
    let tick = |number: u32| {
        format!(
            "{{\"t\": {}, \"canary\": {{\"requests\": 150, \"errors\": 2}}, \
             \"stable\": {{\"requests\": 1350, \"errors\": 1}}}}\n",
            number * 15
        )
    };
    let ticks = (1..=40).map(tick).collect::<Vec<_>>().concat();
    let arguments = [
        &["evaluate", "-f", "rollout.yaml", "--policy", "policy.yaml"],
        more,
    ]
    .concat();
    let (code, text, errors) = run(folder.path(), &arguments, &ticks);
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 40);
    let is_rollback = |line: &Value| line["verdict"] == "rollBack";
    lines.iter().position(is_rollback).unwrap_or(lines.len())
}

#[test]
fn evaluate_applies_the_rule_of_an_objective_of_the_effective_spec() {
    let (strict, tolerant) = (first_rollback("0.1", &[]), first_rollback("0.001", &[]));
    assert!(
        strict < tolerant && tolerant < 40,
        "{strict} and {tolerant}"
    );
    // At 95 %, the same errors are no excess.
    let latency = r#"{"ref": "latency"}"#;
    let folder = files("0.1");
    let policy = POLICY
        .replace("ALPHA", "0.1")
        .replace("[{ref: availability}]", &format!("[{latency}]"));
    std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    let arguments = [
        "evaluate",
        "-f",
        "rollout.yaml",
        "--policy",
        "policy.yaml",
        "--objective",
        "availability",
    ];
    let (code, _, errors) = run(folder.path(), &arguments, "");
    assert_eq!(code, 2);
    assert!(
        errors.contains("it has no objective availability") && errors.contains("latency"),
        "{errors}"
    );
}
