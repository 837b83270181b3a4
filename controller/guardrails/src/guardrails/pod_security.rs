//! The namespace enforces a Pod Security Standard, and the API server accepts the template under it.
//!
//! Serin does not implement the standard. The label of the namespace says what the API server
//! enforces, and the API server says by its warnings to a dry run what the template violates.

use serin_core::hold::HoldCode;
use serin_crds::guardrails::{PodSecurityGuardrail, PodSecurityLevel};

use crate::evaluation::Report;
use crate::facts::Facts;

const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// How a warning of the admission controller begins.
const WARNING: &str = "would violate PodSecurity";

pub(super) fn check(options: &PodSecurityGuardrail, facts: &Facts, report: &mut Report) {
    let wanted = options.level.unwrap_or_default();
    match facts.namespace.known() {
        Err(why) => report.unknown("Namespace", &why),
        Ok(namespace) => {
            let label = namespace.labels.get(ENFORCE_LABEL).map(String::as_str);
            if level(label) < wanted {
                let name = &facts.namespace_name;
                let (wanted, found) = (wanted.as_str(), label.unwrap_or("no level"));
                report.add(
                    HoldCode::PodSecurityTooLow,
                    format!("namespace {name}"),
                    format!("it enforces {found}, and the guardrail demands {wanted}"),
                    format!("Run kubectl label namespace {name} {ENFORCE_LABEL}={wanted}"),
                );
            }
        }
    }
    // Without an answer nothing passes: the API server refuses the pods themselves.
    let Ok(answer) = facts.dry_run.known() else {
        return;
    };
    let violations = answer.warnings.iter().filter_map(|warning| {
        let at = warning.find(WARNING)?;
        Some(warning[at..].trim_end_matches('.'))
    });
    for violation in violations {
        report.add(
            HoldCode::PodSecurityViolated,
            "pod template",
            format!("it {violation}"),
            "Correct the fields that the API server names",
        );
    }
}

/// The level of a label. An unknown one is not enforced.
fn level(label: Option<&str>) -> PodSecurityLevel {
    match label {
        Some("restricted") => PodSecurityLevel::Restricted,
        Some("baseline") => PodSecurityLevel::Baseline,
        _ => PodSecurityLevel::Privileged,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::PodSecurity;

    use super::super::test_facts::{codes, facts, findings};
    use super::*;
    use crate::facts::{DryRun, Fact, NamespaceFacts};

    fn enforcing(label: &str) -> Facts {
        let mut facts = facts();
        facts.namespace = Fact::Known(NamespaceFacts {
            labels: BTreeMap::from([(ENFORCE_LABEL.to_owned(), label.to_owned())]),
            ..NamespaceFacts::default()
        });
        facts
    }

    #[test]
    fn the_namespace_must_enforce_the_level_or_a_higher_one() {
        let restricted = || json!({"level": "restricted"});
        for label in ["baseline", "restricted"] {
            assert!(
                codes(PodSecurity, json!({}), &enforcing(label)).is_empty(),
                "{label}"
            );
        }
        assert!(codes(PodSecurity, restricted(), &enforcing("restricted")).is_empty());
        let too_low = [HoldCode::PodSecurityTooLow];
        assert_eq!(
            codes(PodSecurity, restricted(), &enforcing("baseline")),
            too_low
        );
        assert_eq!(codes(PodSecurity, json!({}), &enforcing("strict")), too_low);
        assert_eq!(codes(PodSecurity, json!({}), &facts()), too_low);
    }

    #[test]
    fn what_the_api_server_warns_of_is_reported() {
        let mut facts = enforcing("restricted");
        facts.dry_run = Fact::Known(DryRun {
            warnings: vec![
                "unknown field \"spec.x\"".to_owned(),
                "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
                 (container \"app\" must set securityContext.allowPrivilegeEscalation=false)"
                    .to_owned(),
            ],
        });
        let found = findings(PodSecurity, json!({}), &facts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].code, HoldCode::PodSecurityViolated);
        assert!(
            found[0].problem.contains("allowPrivilegeEscalation"),
            "{found:?}"
        );
    }

    #[test]
    fn a_namespace_that_cannot_be_read_is_no_pass() {
        let mut facts = facts();
        facts.namespace = Fact::Forbidden("get namespaces".to_owned());
        assert_eq!(
            codes(PodSecurity, json!({}), &facts),
            [HoldCode::GuardrailUnknown]
        );
    }
}
