//! Policy reports and constraints have no violation by the objects of the revision.

use jiff::Timestamp;
use serde_json::Value;
use serin_core::guardrail::GuardrailKind;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{PolicyReportsGuardrail, PolicyResult, PolicySeverity};

use crate::evaluation::Report;
use crate::facts::{Fact, Facts, Source, Unknown};
use crate::template::{items, object_name};

pub(super) fn check(options: &PolicyReportsGuardrail, facts: &Facts, report: &mut Report) {
    let sources = Source::for_guardrail(GuardrailKind::PolicyReports);
    let is_absent = |source: &Source| *facts.objects_of(*source) == Fact::NotServed;
    if sources.iter().all(is_absent) {
        // Nobody reports violations, which is not the same as no violation.
        return report.unknown("policy reports or constraints", &Unknown::NotServed);
    }
    let objects = Objects::from_facts(facts);
    let (mut has_report, mut unaudited) = (false, None);
    for (source, what) in [
        (Source::PolicyReports, "PolicyReports"),
        (Source::OpenReports, "Reports of openreports.io"),
    ] {
        match facts.objects_of(source).objects() {
            Ok(reports) => {
                for policy_report in reports {
                    has_report |= check_report(policy_report, &objects, options, report);
                }
            }
            Err(why) => report.unknown(what, &why),
        }
    }
    match facts.objects_of(Source::Constraints).objects() {
        Ok(constraints) => {
            for constraint in constraints {
                check_constraint(constraint, &objects, options, report);
            }
            let missing = not_audited(constraints, facts);
            has_report |= missing.is_none() && !constraints.is_empty();
            unaudited = missing;
        }
        Err(why) => report.unknown("constraints of Gatekeeper", &why),
    }
    if options.require_report == Some(true) && !has_report {
        let audit = unaudited.map_or_else(String::new, |constraint| {
            format!(", and Gatekeeper has not audited {constraint} since its first pod exists")
        });
        report.add(
            HoldCode::PolicyReportMissing,
            format!("namespace {}", facts.namespace_name),
            format!("no policy report about the revision exists{audit}"),
            "Check that the policy engine runs and that its background scan includes the namespace",
        );
    }
}

/// The first constraint that Gatekeeper has not audited since the first pod of the revision exists:
/// a violation by the revision would not be reported yet. `None` if there is none. The time of an
/// audit is that of its start.
fn not_audited(constraints: &[Value], facts: &Facts) -> Option<String> {
    let is_audited = |constraint: &&Value| {
        let audited_at = constraint["status"]["auditTimestamp"].as_str();
        let audited_at = audited_at.and_then(|at| at.parse::<Timestamp>().ok());
        let first_pod = facts.pods_since;
        first_pod.is_some_and(|first| audited_at.is_some_and(|audited_at| audited_at > first))
    };
    let mut constraints = constraints.iter();
    let constraint = constraints.find(|constraint| !is_audited(constraint))?;
    let kind = constraint["kind"].as_str().unwrap_or("constraint");
    Some(format!("{kind} {}", object_name(constraint)))
}

/// The objects of a revision.
struct Objects<'a> {
    namespace: &'a str,
    names: Vec<(&'a str, &'a str)>,
}

impl<'a> Objects<'a> {
    fn from_facts(facts: &'a Facts) -> Self {
        let mut names = vec![("Rollout", facts.rollout_name.as_str())];
        names.extend(
            facts
                .replica_set
                .iter()
                .map(|name| ("ReplicaSet", name.as_str())),
        );
        let pods = facts.pods.known().map(Vec::as_slice).unwrap_or_default();
        names.extend(pods.iter().map(|pod| ("Pod", pod.name.as_str())));
        let related = facts.related_objects.iter();
        names.extend(related.map(|(kind, name)| (kind.as_str(), name.as_str())));
        Self {
            namespace: &facts.namespace_name,
            names,
        }
    }

    /// The label of a referenced object, if it is one of these.
    fn find(&self, reference: &Value) -> Option<String> {
        let (kind, name) = (reference["kind"].as_str()?, reference["name"].as_str()?);
        let namespace = reference["namespace"].as_str();
        let is_here = namespace.is_none_or(|namespace| namespace == self.namespace);
        let is_one = is_here && self.names.contains(&(kind, name));
        is_one.then(|| format!("{kind} {name}"))
    }
}

/// Adds the violations of one report. Returns whether it is about the revision.
fn check_report(
    policy_report: &Value,
    objects: &Objects<'_>,
    options: &PolicyReportsGuardrail,
    report: &mut Report,
) -> bool {
    let scope = objects.find(&policy_report["scope"]);
    let mut is_about = scope.is_some();
    for result in items(&policy_report["results"]) {
        // A result without objects of its own is about the scope of the report.
        let own = items(&result["resources"]).chain(items(&result["subjects"]));
        let mut own = own.peekable();
        let object = if own.peek().is_some() {
            own.find_map(|reference| objects.find(reference))
        } else {
            scope.clone()
        };
        let Some(object) = object else {
            continue;
        };
        is_about = true;
        let policy = result["policy"].as_str().unwrap_or_default();
        let outcome = result["result"].as_str().unwrap_or_default();
        let severity = result["severity"].as_str();
        if !counts(outcome, severity, policy, options) {
            continue;
        }
        let rule = result["rule"]
            .as_str()
            .map(|rule| format!("/{rule}"))
            .unwrap_or_default();
        let message = result["message"]
            .as_str()
            .or_else(|| result["description"].as_str());
        report.add(
            HoldCode::PolicyViolated,
            object,
            format!(
                "policy {policy}{rule} says {outcome}: {}",
                message.unwrap_or("no message")
            ),
            "Correct what the policy demands in the pod template",
        );
    }
    is_about
}

fn check_constraint(
    constraint: &Value,
    objects: &Objects<'_>,
    options: &PolicyReportsGuardrail,
    report: &mut Report,
) {
    let kind = constraint["kind"].as_str().unwrap_or("constraint");
    let name = object_name(constraint);
    for violation in items(&constraint["status"]["violations"]) {
        let Some(object) = objects.find(violation) else {
            continue;
        };
        let outcome = match violation["enforcementAction"].as_str() {
            Some("warn" | "dryrun") => "warn",
            _ => "fail",
        };
        if counts(outcome, None, name, options) {
            let message = violation["message"].as_str().unwrap_or("no message");
            report.add(
                HoldCode::PolicyViolated,
                object,
                format!("{kind} {name} of Gatekeeper is violated: {message}"),
                "Correct what the constraint demands in the pod template",
            );
        }
    }
}

/// Whether a result counts by the options.
fn counts(
    outcome: &str,
    severity: Option<&str>,
    policy: &str,
    options: &PolicyReportsGuardrail,
) -> bool {
    let result = match outcome {
        "fail" => PolicyResult::Fail,
        "error" => PolicyResult::Error,
        "warn" => PolicyResult::Warn,
        _ => return false,
    };
    let default = [PolicyResult::Fail, PolicyResult::Error];
    let results = options.results.as_deref().unwrap_or(&default);
    let is_severe = match severity {
        Some("critical") => Some(PolicySeverity::Critical),
        Some("high") => Some(PolicySeverity::High),
        Some("medium") => Some(PolicySeverity::Medium),
        Some("low") => Some(PolicySeverity::Low),
        Some("info") => Some(PolicySeverity::Info),
        _ => None,
    }
    .is_none_or(|severity| severity >= options.min_severity.unwrap_or_default());
    let is_ignored = options
        .ignored_policies
        .iter()
        .any(|ignored| ignored == policy);
    results.contains(&result) && is_severe && !is_ignored
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::PolicyReports;

    use super::super::test_facts::{codes, facts, findings, pod, with, without};
    use super::*;

    /// A revision in a cluster without any reports or constraints.
    fn revision() -> Facts {
        let facts = without(facts(), Source::for_guardrail(PolicyReports));
        let mut facts = with(facts, Source::PolicyReports, json!([]));
        facts.replica_set = Some("checkout-abc".to_owned());
        facts.pods = Fact::Known(vec![pod("checkout-abc-1", &[])]);
        facts.related_objects = vec![("Deployment".to_owned(), "checkout".to_owned())];
        facts
    }

    /// A report as Kyverno writes it: one for each object, which is its scope.
    fn report_of(kind: &str, name: &str, outcome: &str, severity: &str) -> Value {
        json!({
            "apiVersion": "wgpolicyk8s.io/v1alpha2",
            "kind": "PolicyReport",
            "metadata": {"namespace": "shop", "name": "0b1c"},
            "scope": {"apiVersion": "apps/v1", "kind": kind, "name": name, "namespace": "shop"},
            "results": [{
                "policy": "require-labels", "rule": "team", "result": outcome, "scored": true,
                "severity": severity, "source": "kyverno", "message": "the label team is required",
            }],
            "summary": {"fail": 1},
        })
    }

    fn codes_of(report: Value, options: Value) -> Vec<HoldCode> {
        let facts = with(revision(), Source::PolicyReports, json!([report]));
        codes(PolicyReports, options, &facts)
    }

    #[test]
    fn a_violation_by_an_object_of_the_revision_is_named() {
        let facts = with(
            revision(),
            Source::PolicyReports,
            json!([report_of("Pod", "checkout-abc-1", "fail", "medium")]),
        );
        let found = findings(PolicyReports, json!({}), &facts);
        assert_eq!(found[0].object, "Pod checkout-abc-1");
        assert_eq!(
            found[0].problem,
            "policy require-labels/team says fail: the label team is required"
        );
        for (kind, name, count) in [
            ("ReplicaSet", "checkout-abc", 1),
            ("Deployment", "checkout", 1),
            ("Rollout", "checkout", 1),
            ("ReplicaSet", "checkout-old", 0),
            ("Pod", "other", 0),
        ] {
            let found = codes_of(report_of(kind, name, "fail", "low"), json!({}));
            assert_eq!(found.len(), count, "{kind} {name}");
        }
    }

    #[test]
    fn results_severities_and_policies_are_selected_by_options() {
        let of = |outcome: &str, severity: &str, options: Value| {
            codes_of(
                report_of("Pod", "checkout-abc-1", outcome, severity),
                options,
            )
            .len()
        };
        assert_eq!(of("pass", "high", json!({})), 0);
        assert_eq!(of("skip", "high", json!({})), 0);
        assert_eq!(of("error", "high", json!({})), 1);
        assert_eq!(of("warn", "high", json!({})), 0);
        assert_eq!(of("warn", "high", json!({"results": ["Warn"]})), 1);
        let high = || json!({"minSeverity": "High"});
        assert_eq!(of("fail", "medium", high()), 0);
        assert_eq!(of("fail", "critical", high()), 1);
        assert_eq!(of("fail", "", high()), 1, "without a severity it counts");
        assert_eq!(
            of(
                "fail",
                "high",
                json!({"ignoredPolicies": ["require-labels"]})
            ),
            0
        );
    }

    #[test]
    fn reports_of_both_groups_with_objects_in_their_results_count() {
        let reference = json!([{"kind": "Pod", "name": "checkout-abc-1", "namespace": "shop"}]);
        for (source, field) in [
            (Source::PolicyReports, "resources"),
            (Source::OpenReports, "resources"),
            (Source::OpenReports, "subjects"),
        ] {
            let result = json!({"policy": "p", "result": "fail", field: reference});
            let report = json!({"metadata": {"name": "r"}, "results": [result]});
            let facts = with(revision(), source, json!([report]));
            assert_eq!(
                codes(PolicyReports, json!({}), &facts),
                [HoldCode::PolicyViolated]
            );
        }
    }

    #[test]
    fn constraints_of_gatekeeper_count_by_their_enforcement_action() {
        let constraint = |action: &str| {
            json!([{
                "apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "K8sRequiredLabels",
                "metadata": {"name": "must-have-team"},
                "status": {"totalViolations": 1, "violations": [{
                    "enforcementAction": action, "group": "", "kind": "Pod",
                    "name": "checkout-abc-1", "namespace": "shop", "version": "v1",
                    "message": "you must provide labels: {\"team\"}",
                }]},
            }])
        };
        let of = |action: &str, options: Value| {
            let facts = with(revision(), Source::Constraints, constraint(action));
            codes(PolicyReports, options, &facts).len()
        };
        assert_eq!(of("deny", json!({})), 1);
        assert_eq!(of("warn", json!({})), 0);
        assert_eq!(of("dryrun", json!({"results": ["Warn"]})), 1);
        assert_eq!(
            of("deny", json!({"ignoredPolicies": ["must-have-team"]})),
            0
        );
    }

    #[test]
    fn a_report_is_demanded_if_configured_and_unknown_is_no_pass() {
        let required = || json!({"requireReport": true});
        let missing = codes(PolicyReports, required(), &revision());
        assert_eq!(missing, [HoldCode::PolicyReportMissing]);
        let passed = report_of("Pod", "checkout-abc-1", "pass", "low");
        assert!(codes_of(passed, required()).is_empty());
        let mut unreadable = revision();
        let failed = Fact::Failed("timeout".to_owned());
        unreadable.objects.insert(Source::Constraints, failed);
        let found = codes(PolicyReports, json!({}), &unreadable);
        assert_eq!(found, [HoldCode::GuardrailUnknown]);
    }

    #[test]
    fn an_audit_of_every_constraint_since_the_first_pod_counts_as_a_report() {
        let constraint = |name: &str, audited_at: Value| {
            json!({
                "apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "K8sRequiredLabels",
                "metadata": {"name": name}, "status": {"auditTimestamp": audited_at},
            })
        };
        let of = |constraints: Value| {
            let mut facts = with(revision(), Source::Constraints, constraints);
            facts.pods_since = Some("2026-03-01T12:00:00Z".parse().unwrap());
            findings(PolicyReports, json!({"requireReport": true}), &facts)
        };
        let (before, since) = ("2026-03-01T12:00:00Z", "2026-03-01T12:00:01Z");
        assert!(of(json!([constraint("a", json!(since))])).is_empty());
        for second in [json!(before), json!("soon"), Value::Null] {
            let constraints = json!([constraint("a", json!(since)), constraint("b", second)]);
            let found = of(constraints);
            assert_eq!(found[0].code, HoldCode::PolicyReportMissing);
            assert!(
                found[0]
                    .problem
                    .contains("has not audited K8sRequiredLabels b"),
                "{found:?}"
            );
        }
        assert_eq!(of(json!([]))[0].code, HoldCode::PolicyReportMissing);
    }

    #[test]
    fn a_cluster_in_which_nothing_reports_violations_is_no_pass() {
        let absent = without(revision(), Source::for_guardrail(PolicyReports));
        for options in [json!({}), json!({"requireReport": true})] {
            let found = findings(PolicyReports, options, &absent);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].code, HoldCode::GuardrailUnknown);
        }
        for source in Source::for_guardrail(PolicyReports) {
            let served = with(absent.clone(), *source, json!([]));
            assert!(
                codes(PolicyReports, json!({}), &served).is_empty(),
                "{source:?}"
            );
        }
        let mut other = absent;
        let versions = "the cluster serves v2".to_owned();
        other
            .objects
            .insert(Source::PolicyReports, Fact::OtherVersion(versions));
        let found = findings(PolicyReports, json!({}), &other);
        assert_eq!(found[0].code, HoldCode::GuardrailUnknown);
        assert!(found[0].problem.contains("serves v2"), "{found:?}");
    }

    #[test]
    fn malformed_reports_are_ignored_without_a_panic() {
        for report in [
            json!(null),
            json!([]),
            json!({"results": {"a": 1}, "scope": 3}),
        ] {
            assert!(codes_of(report, json!({})).is_empty());
        }
    }
}
