use serde_json::json;
use serin_core::guardrail::GuardrailKind::Vulnerabilities;

use super::super::test_facts::{facts, findings, pod, run, with};
use super::*;
use crate::facts::Fact;

const DIGEST: &str = "sha256:1234";

/// A report as the Trivy operator writes it about a container of a ReplicaSet.
fn report_of(labels: Value, updated: &str, vulnerabilities: Value) -> Value {
    let critical = items(&vulnerabilities)
        .filter(|v| v["severity"] == "CRITICAL")
        .count();
    json!({
        "apiVersion": "aquasecurity.github.io/v1alpha1",
        "kind": "VulnerabilityReport",
        "metadata": {"name": "replicaset-checkout-abc-app", "namespace": "shop", "labels": labels},
        "report": {
            "updateTimestamp": updated,
            "artifact": {"repository": "app", "tag": "v1", "digest": DIGEST},
            "registry": {"server": "registry.example.com"},
            "scanner": {"name": "Trivy", "vendor": "Aqua Security", "version": "0.60.0"},
            "summary": {"criticalCount": critical, "highCount": 0, "mediumCount": 0},
            "vulnerabilities": vulnerabilities,
        },
    })
}

fn labels() -> Value {
    json!({
        "trivy-operator.container.name": "app",
        "trivy-operator.resource.kind": "ReplicaSet",
        "trivy-operator.resource.name": "checkout-abc",
        "trivy-operator.resource.namespace": "shop",
    })
}

fn vulnerability(id: &str, severity: &str, fixed: &str) -> Value {
    json!({
        "vulnerabilityID": id, "severity": severity, "resource": "openssl",
        "installedVersion": "3.0.1", "fixedVersion": fixed,
    })
}

fn with_reports(reports: Value) -> Facts {
    let mut facts = with(facts(), Source::VulnerabilityReports, reports);
    facts.replica_set = Some("checkout-abc".to_owned());
    facts
}

fn with_report(vulnerabilities: Value) -> Facts {
    with_reports(json!([report_of(
        labels(),
        "2026-06-01T11:00:00Z",
        vulnerabilities
    )]))
}

fn codes(options: Value, facts: &Facts) -> Vec<HoldCode> {
    super::super::test_facts::codes(Vulnerabilities, options, facts)
}

#[test]
fn a_known_critical_vulnerability_is_named_with_its_fix() {
    let facts = with_report(json!([vulnerability("CVE-1", "CRITICAL", "3.0.2")]));
    let found = findings(Vulnerabilities, json!({}), &facts);
    assert_eq!(found[0].code, HoldCode::Vulnerable);
    assert!(
        found[0]
            .problem
            .contains("CVE-1 (openssl 3.0.1, fixed in 3.0.2)")
    );
    assert!(codes(json!({"maxCritical": 1}), &facts).is_empty());
    assert!(codes(json!({}), &with_report(json!([]))).is_empty());
}

#[test]
fn limits_unfixed_vulnerabilities_and_exceptions_are_configurable() {
    let facts = with_report(json!([
        vulnerability("CVE-1", "CRITICAL", ""),
        vulnerability("CVE-2", "HIGH", "3.1"),
        vulnerability("CVE-3", "LOW", ""),
    ]));
    let unfixed = json!({"ignoreUnfixed": true});
    assert!(codes(unfixed, &facts).is_empty());
    let high = json!({"maxCritical": 5, "maxHigh": 0});
    assert_eq!(codes(high, &facts), [HoldCode::Vulnerable]);
    let exception = |expires: &str| {
        let exception = json!({"id": "CVE-1", "reason": "not reachable", "expires": expires});
        json!({"exceptions": [exception]})
    };
    let until = run(Vulnerabilities, exception("2026-06-03"), &facts);
    assert!(until.findings.is_empty());
    assert_eq!(
        until.next_change,
        Some("2026-06-04T00:00:00Z".parse().unwrap())
    );
    assert_eq!(
        codes(exception("2026-05-31"), &facts),
        [HoldCode::Vulnerable]
    );
    let invalid = codes(exception("soon"), &facts);
    assert_eq!(invalid, [HoldCode::GuardrailInvalid, HoldCode::Vulnerable]);
}

#[test]
fn a_report_belongs_to_the_revision_by_its_replica_set_its_pod_or_the_digest() {
    let of = |kind: &str, name: &str| {
        json!({
            "trivy-operator.container.name": "app",
            "trivy-operator.resource.kind": kind, "trivy-operator.resource.name": name,
        })
    };
    let fresh = "2026-06-01T11:00:00Z";
    let bad = json!([vulnerability("CVE-1", "CRITICAL", "")]);
    let other = || {
        with_reports(json!([report_of(
            of("ReplicaSet", "other"),
            fresh,
            bad.clone()
        )]))
    };
    assert_eq!(
        codes(json!({}), &other()),
        [HoldCode::VulnerabilityReportMissing]
    );
    let mut same_digest = other();
    same_digest.pods = Fact::Known(vec![pod(
        "checkout-abc-1",
        &[("app", "reg/app@sha256:1234")],
    )]);
    assert_eq!(codes(json!({}), &same_digest), [HoldCode::Vulnerable]);
    let of_pod = json!([report_of(of("Pod", "checkout-abc-1"), fresh, bad)]);
    let mut of_pod = with_reports(of_pod);
    of_pod.pods = Fact::Known(vec![pod("checkout-abc-1", &[])]);
    assert_eq!(codes(json!({}), &of_pod), [HoldCode::Vulnerable]);
}

#[test]
fn a_missing_or_old_report_holds_up_to_a_deadline_and_then_as_configured() {
    let mut facts = with_reports(json!([]));
    let missing = [HoldCode::VulnerabilityReportMissing];
    assert_eq!(codes(json!({}), &facts), missing, "no pod yet");
    facts.pods_since = Some("2026-06-01T11:55:00Z".parse().unwrap());
    let waiting = run(Vulnerabilities, json!({}), &facts);
    assert!(waiting.findings[0].is_holding());
    assert_eq!(
        waiting.next_change,
        Some("2026-06-01T12:05:00Z".parse().unwrap())
    );
    facts.pods_since = Some("2026-06-01T11:00:00Z".parse().unwrap());
    assert!(run(Vulnerabilities, json!({}), &facts).findings[0].is_holding());
    let options = json!({"onMissingReport": "Continue"});
    assert!(!run(Vulnerabilities, options, &facts).findings[0].is_holding());
    let old = json!([report_of(labels(), "2026-05-01T00:00:00Z", json!([]))]);
    assert_eq!(codes(json!({}), &with_reports(old.clone())), missing);
    assert!(codes(json!({"maxAge": "60d"}), &with_reports(old)).is_empty());
}

#[test]
fn vulnerabilities_that_a_report_only_counts_are_not_overlooked() {
    let mut report = report_of(labels(), "2026-06-01T11:00:00Z", json!([]));
    report["report"]["summary"]["criticalCount"] = json!(3);
    assert_eq!(
        codes(json!({}), &with_reports(json!([report]))),
        [HoldCode::Vulnerable]
    );
}

#[test]
fn without_the_trivy_operator_nothing_passes() {
    let mut facts = facts();
    facts
        .objects
        .insert(Source::VulnerabilityReports, Fact::NotServed);
    let found = findings(Vulnerabilities, json!({}), &facts);
    assert_eq!(found[0].code, HoldCode::GuardrailUnknown);
    assert!(found[0].fix.contains("Install"), "{found:?}");
}

#[test]
fn malformed_reports_and_options_are_no_pass() {
    let missing = [HoldCode::VulnerabilityReportMissing];
    for report in [
        json!(null),
        json!({}),
        report_of(labels(), "yesterday", json!([])),
    ] {
        assert_eq!(codes(json!({}), &with_reports(json!([report]))), missing);
    }
    let invalid = json!({"maxAge": "old"});
    assert_eq!(
        codes(invalid, &with_report(json!([]))),
        [HoldCode::GuardrailInvalid]
    );
}
