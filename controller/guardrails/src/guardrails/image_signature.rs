//! Every image is signed, by the verdict of the policy engine of the cluster or with keys.
//!
//! Without keys, Serin verifies no signature itself. It reads what the policy engine that verified
//! them left: the annotations that Kyverno writes on the pods, or the policies of sigstore's
//! policy-controller, which lets no unsigned image into the namespaces that are labeled for it.

use std::collections::BTreeMap;

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{ImageSignatureGuardrail, SignatureVerifier};

use super::signature_keys;
use crate::evaluation::Report;
use crate::facts::{
    Fact, Facts, POD_ANNOTATIONS, PodFacts, Source, Unknown, VERIFICATION_OUTCOMES, VERIFIED_IMAGES,
};
use crate::image::ImageReference;
use crate::image_glob::matches_glob;
use crate::template::{Template, items, object_name};

/// Label of a namespace whose images the policy-controller verifies.
const SIGSTORE_LABEL: &str = "policy.sigstore.dev/include";

pub(super) fn check(options: &ImageSignatureGuardrail, facts: &Facts, report: &mut Report) {
    if !options.keys.is_empty() {
        return signature_keys::check(options, facts, report);
    }
    let template = Template(&facts.template);
    if let Some(key) = POD_ANNOTATIONS
        .iter()
        .find(|key| template.annotation(key).is_some())
    {
        report.add(
            HoldCode::ImageNotSigned,
            "pod template",
            format!("it has the annotation {key} itself, which only the policy engine may write"),
            "Remove the annotation",
        );
        return;
    }
    let is_not_asked = facts.pods == Fact::NotAsked
        && *facts.objects_of(Source::ClusterImagePolicies) == Fact::NotAsked;
    if is_not_asked {
        return report.unknown("verdicts on signatures", &Unknown::NotAsked);
    }
    let both = [
        SignatureVerifier::Kyverno,
        SignatureVerifier::PolicyController,
    ];
    let verifiers = options.verifiers.as_deref().unwrap_or(&both);
    let images: Vec<&str> = template
        .containers()
        .map(|container| container.image())
        .collect();
    let mut reasons = Vec::new();
    for verifier in verifiers {
        let verdict = match verifier {
            SignatureVerifier::Kyverno => by_kyverno(&images, facts),
            SignatureVerifier::PolicyController => by_policy_controller(&images, facts),
        };
        match verdict {
            Ok(()) => return,
            Err(reason) => reasons.push(reason),
        }
    }
    report.add(
        HoldCode::ImageNotSigned,
        "pod template",
        format!("its images are not verified: {}", reasons.join("; ")),
        "Sign the images, and let the policy engine verify them in this namespace",
    );
}

/// Whether the pods of the revision carry the verdict of Kyverno for every image.
fn by_kyverno(images: &[&str], facts: &Facts) -> Result<(), String> {
    let pods = facts
        .pods
        .known()
        .map_err(|why| format!("Kyverno: {why}"))?;
    if pods.is_empty() {
        return Err("Kyverno: no pod of the revision exists yet".to_owned());
    }
    pods.iter()
        .try_for_each(|pod| has_kyverno_verdict(images, pod))
}

fn has_kyverno_verdict(images: &[&str], pod: &PodFacts) -> Result<(), String> {
    let name = &pod.name;
    if let Some(text) = pod.annotations.get(VERIFICATION_OUTCOMES) {
        return has_outcomes(text, name);
    }
    let Some(text) = pod.annotations.get(VERIFIED_IMAGES) else {
        return Err(format!(
            "Kyverno: pod {name} has no annotation {VERIFIED_IMAGES}"
        ));
    };
    let verdicts: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| {
        format!("Kyverno: the annotation {VERIFIED_IMAGES} of pod {name} is not JSON")
    })?;
    let passed: Vec<String> = verdicts
        .iter()
        .filter(|(_, verdict)| **verdict == "pass" || **verdict == true)
        .map(|(image, _)| ImageReference::parse(image).canonical_name())
        .collect();
    for image in images {
        if !passed.contains(&ImageReference::parse(image).canonical_name()) {
            return Err(format!(
                "Kyverno: pod {name} runs {image}, which no policy has verified"
            ));
        }
    }
    Ok(())
}

fn has_outcomes(text: &str, pod: &str) -> Result<(), String> {
    let outcomes: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| {
        format!("Kyverno: the annotation {VERIFICATION_OUTCOMES} of pod {pod} is not JSON")
    })?;
    let failed = outcomes
        .iter()
        .find(|(_, outcome)| outcome["status"] != "pass");
    match failed {
        Some((policy, outcome)) => {
            let status = outcome["status"].as_str().unwrap_or("unknown");
            Err(format!(
                "Kyverno: the policy {policy} says {status} for pod {pod}"
            ))
        }
        None if outcomes.is_empty() => Err(format!("Kyverno: no policy applies to pod {pod}")),
        None => Ok(()),
    }
}

/// Whether the policy-controller verifies every image before a pod is admitted.
fn by_policy_controller(images: &[&str], facts: &Facts) -> Result<(), String> {
    const NAME: &str = "policy-controller";
    let policies = facts
        .objects_of(Source::ClusterImagePolicies)
        .known()
        .map_err(|why| format!("{NAME}: ClusterImagePolicies: {why}"))?;
    let namespace = facts
        .namespace
        .known()
        .map_err(|why| format!("{NAME}: the namespace: {why}"))?;
    if namespace.labels.get(SIGSTORE_LABEL).map(String::as_str) != Some("true") {
        return Err(format!(
            "{NAME}: namespace {} lacks the label {SIGSTORE_LABEL}: \"true\"",
            facts.namespace_name
        ));
    }
    for image in images {
        let name = ImageReference::parse(image).canonical_name();
        let mut enforcing = policies
            .iter()
            .filter(|policy| policy["spec"]["mode"] != "warn");
        let is_covered = enforcing.any(|policy| {
            let mut globs = items(&policy["spec"]["images"]);
            // A policy that passes everything statically verifies nothing.
            let mut authorities = items(&policy["spec"]["authorities"]);
            let is_static = authorities.any(|authority| authority["static"]["action"] == "pass");
            !is_static && globs.any(|glob| matches_glob(glob["glob"].as_str().unwrap_or(""), &name))
        });
        if !is_covered {
            let known: Vec<&str> = policies.iter().map(object_name).take(5).collect();
            return Err(format!(
                "{NAME}: no enforcing ClusterImagePolicy matches {image} (there are: {})",
                known.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::guardrail::GuardrailKind::ImageSignature;

    use super::super::test_facts::{facts, findings, pod, with};
    use super::*;
    use crate::facts::NamespaceFacts;

    fn with_pod(annotations: &[(&str, &str)]) -> Facts {
        let mut pod = pod("checkout-1", &[]);
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pod.annotations = annotations.iter().map(owned).collect();
        let mut facts = facts();
        facts.pods = Fact::Known(vec![pod]);
        facts
    }

    fn problem(facts: &Facts, verifier: &str) -> Option<String> {
        let options = json!({"verifiers": [verifier]});
        let found = findings(ImageSignature, options, facts);
        found.first().map(|finding| finding.problem.to_string())
    }

    #[test]
    fn the_verdict_of_kyverno_must_name_every_image() {
        let pass = r#"{"registry.example.com/app@sha256:12": "pass"}"#;
        assert_eq!(
            problem(&with_pod(&[(VERIFIED_IMAGES, pass)]), "Kyverno"),
            None
        );
        for (annotations, expected) in [
            (vec![], "has no annotation"),
            (vec![(VERIFIED_IMAGES, "{}")], "no policy has verified"),
            (vec![(VERIFIED_IMAGES, "nonsense")], "is not JSON"),
            (
                vec![(
                    VERIFIED_IMAGES,
                    r#"{"registry.example.com/app:v1": "fail"}"#,
                )],
                "no policy has verified",
            ),
            (
                vec![(VERIFICATION_OUTCOMES, r#"{"p": {"status": "fail"}}"#)],
                "says fail",
            ),
            (vec![(VERIFICATION_OUTCOMES, "{}")], "no policy applies"),
        ] {
            let problem = problem(&with_pod(&annotations), "Kyverno").unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
        let outcomes = r#"{"signed": {"name": "signed", "status": "pass"}}"#;
        let facts = with_pod(&[(VERIFICATION_OUTCOMES, outcomes)]);
        assert_eq!(problem(&facts, "Kyverno"), None);
    }

    #[test]
    fn a_template_that_forges_the_verdict_is_refused() {
        let pass = r#"{"registry.example.com/app@sha256:12": "pass"}"#;
        let mut facts = with_pod(&[(VERIFIED_IMAGES, pass)]);
        facts.template["metadata"]["annotations"] = json!({VERIFIED_IMAGES: pass});
        assert!(problem(&facts, "Kyverno").unwrap().contains("itself"));
    }

    #[test]
    fn no_pod_is_no_verdict() {
        let found = problem(&facts(), "Kyverno").unwrap();
        assert!(
            found.contains("no pod of the revision exists yet"),
            "{found}"
        );
    }

    fn with_policy(spec: Value, label: &str) -> Facts {
        let policies = json!([{"metadata": {"name": "signed"}, "spec": spec}]);
        let mut facts = with(facts(), Source::ClusterImagePolicies, policies);
        facts.namespace = Fact::Known(NamespaceFacts {
            labels: BTreeMap::from([(SIGSTORE_LABEL.to_owned(), label.to_owned())]),
            ..NamespaceFacts::default()
        });
        facts
    }

    #[test]
    fn the_policy_controller_must_enforce_a_policy_for_every_image() {
        let images = json!([{"glob": "registry.example.com/**"}]);
        let key = json!([{"key": {"data": "..."}}]);
        let spec = json!({"images": images, "authorities": key});
        assert_eq!(
            problem(&with_policy(spec.clone(), "true"), "PolicyController"),
            None
        );
        for (spec, label, expected) in [
            (spec, "false", "lacks the label"),
            (
                json!({"images": images, "mode": "warn"}),
                "true",
                "no enforcing",
            ),
            (
                json!({"images": [{"glob": "ghcr.io/**"}]}),
                "true",
                "no enforcing",
            ),
            (
                json!({"images": images, "authorities": [{"static": {"action": "pass"}}]}),
                "true",
                "no enforcing",
            ),
        ] {
            let problem = problem(&with_policy(spec, label), "PolicyController").unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
        let unknown = problem(&facts(), "PolicyController").unwrap();
        assert!(
            unknown.contains("ClusterImagePolicies: needs a cluster"),
            "{unknown}"
        );
    }
}
