//! Every image has a digest or a version tag, and all pods of a revision run the same one.

use std::collections::BTreeMap;

use serin_core::hold::HoldCode;
use serin_crds::guardrails::ImagePinnedGuardrail;

use crate::evaluation::Report;
use crate::facts::{Facts, PodFacts};
use crate::image::{ImageReference, registry_digest};
use crate::registry::{report_missing, resolves};
use crate::template::{Container, Template};

pub(super) fn check(options: &ImagePinnedGuardrail, facts: &Facts, report: &mut Report) {
    let latest = ["latest".to_owned()];
    let forbidden = options.forbidden_tags.as_deref().unwrap_or(&latest);
    let containers = Template(&facts.template).containers();
    for container in containers.filter(|container| !container.is_one_of(&options.exempt_containers))
    {
        let image = ImageReference::parse(container.image());
        if image.digest.is_some() {
            continue;
        }
        let problem = match image.tag {
            _ if options.require_digest == Some(true) => "has no digest".to_owned(),
            None | Some("") => "has no tag, which means latest".to_owned(),
            Some(tag) if forbidden.iter().any(|other| other == tag) => {
                format!("has the tag {tag}, which moves")
            }
            Some(_) => {
                check_running_digests(&container, facts, report);
                check_resolved_digest(options, &container, facts, report);
                continue;
            }
        };
        let fix = if options.require_digest == Some(true) {
            format!("Write {}@sha256:...", container.image())
        } else {
            format!("Write {}:VERSION or {}@sha256:...", image.name, image.name)
        };
        report.add(
            HoldCode::ImageNotPinned,
            container.label(),
            format!("its image {} {problem}", container.image()),
            fix,
        );
    }
}

/// Finds a tag whose digest is to be resolved, and is not. Without a cluster, nobody resolves it, and
/// the tag is enough.
fn check_resolved_digest(
    options: &ImagePinnedGuardrail,
    container: &Container<'_>,
    facts: &Facts,
    report: &mut Report,
) {
    if resolves(options, container) && !facts.images.is_empty() {
        let known = facts.images.get(container.image());
        report_missing(
            known.map(|known| &known.digest),
            "the digest",
            container,
            report,
        );
    }
}

/// Finds a tag that moved during the release: pods of the same revision run different digests.
fn check_running_digests(container: &Container<'_>, facts: &Facts, report: &mut Report) {
    let Ok(pods) = facts.pods.known() else {
        return;
    };
    let mut by_digest: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
    for pod in pods {
        let running = pod
            .containers
            .iter()
            .find(|running| running.name == container.name);
        if let Some(digest) = running.and_then(|running| registry_digest(&running.image_id)) {
            by_digest.entry(digest).or_default().push(pod);
        }
    }
    if by_digest.len() < 2 {
        return;
    }
    let groups = by_digest.iter().take(3).map(|(digest, pods)| {
        let count = pods.len();
        format!("{digest} in {count} ({})", pods[0].name)
    });
    let groups: Vec<String> = groups.collect();
    report.add(
        HoldCode::ImageChanged,
        container.label(),
        format!(
            "its pods run {} different images of {}: {}",
            by_digest.len(),
            container.image(),
            groups.join(", ")
        ),
        "Abort the release, and write the digest of the image that was tested",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use serin_core::guardrail::GuardrailKind::ImagePinned;

    use super::super::test_facts::{codes, facts_of, findings, pod};
    use super::*;
    use crate::facts::Fact;
    use crate::registry::{RegistryAnswer, RegistryFacts};

    const A: &str = "registry.example.com/app@sha256:aa";
    const B: &str = "registry.example.com/app@sha256:bb";

    fn of_image(image: &str) -> Facts {
        facts_of(json!({"containers": [{"name": "app", "image": image}]}))
    }

    fn codes_of(image: &str, options: Value) -> Vec<HoldCode> {
        codes(ImagePinned, options, &of_image(image))
    }

    #[test]
    fn an_image_needs_a_version_or_a_digest() {
        for image in ["app", "app:latest", "reg:5000/app", ""] {
            assert_eq!(
                codes_of(image, json!({})),
                [HoldCode::ImageNotPinned],
                "{image}"
            );
        }
        for image in [
            "app:v1.2",
            "reg:5000/app:3",
            "app@sha256:12",
            "app:latest@sha256:12",
        ] {
            assert!(codes_of(image, json!({})).is_empty(), "{image}");
        }
    }

    #[test]
    fn forbidden_tags_and_digests_are_configurable() {
        let options = json!({"forbiddenTags": ["main"]});
        assert_eq!(
            codes_of("app:main", options.clone()),
            [HoldCode::ImageNotPinned]
        );
        assert!(codes_of("app:latest", options).is_empty());
        let options = json!({"requireDigest": true});
        assert_eq!(
            codes_of("app:v1", options.clone()),
            [HoldCode::ImageNotPinned]
        );
        assert!(codes_of("app:v1@sha256:12", options).is_empty());
    }

    #[test]
    fn a_tag_that_is_to_be_resolved_needs_a_digest_from_the_registry() {
        let options = || json!({"resolveDigest": true});
        let image = "registry.example.com/app:v1";
        let with_digest = |digest: RegistryAnswer<String>| {
            let mut facts = of_image(image);
            let known = RegistryFacts {
                digest,
                ..RegistryFacts::default()
            };
            facts.images.insert(image.to_owned(), known);
            codes(ImagePinned, options(), &facts)
        };
        assert!(with_digest(RegistryAnswer::Known("sha256:12".to_owned())).is_empty());
        assert_eq!(
            with_digest(RegistryAnswer::Pending),
            [HoldCode::RegistryPending]
        );
        let failed = RegistryAnswer::Failed {
            problem: "the registry does not have it".to_owned(),
            fix: "Push it".to_owned(),
        };
        assert_eq!(with_digest(failed), [HoldCode::RegistryUnavailable]);
        // Nobody resolves it without a cluster.
        assert!(codes_of(image, options()).is_empty());
    }

    #[test]
    fn a_tag_that_moved_during_the_release_is_named_with_its_digests() {
        let mut facts = of_image("registry.example.com/app:v1");
        let pods = |ids: &[&str]| {
            let pods = ids.iter().enumerate();
            Fact::Known(
                pods.map(|(n, id)| pod(&format!("pod-{n}"), &[("app", id)]))
                    .collect(),
            )
        };
        facts.pods = pods(&[A, A]);
        assert!(findings(ImagePinned, json!({}), &facts).is_empty());
        facts.pods = pods(&[A, B, A]);
        let found = findings(ImagePinned, json!({}), &facts);
        assert_eq!(found[0].code, HoldCode::ImageChanged);
        let problem = &found[0].problem;
        assert!(problem.contains("sha256:aa in 2 (pod-0)"), "{problem}");
        assert!(problem.contains("sha256:bb in 1 (pod-1)"), "{problem}");
        // Identifiers of the container runtime differ by architecture.
        facts.pods = pods(&[A, "sha256:cc", ""]);
        assert!(findings(ImagePinned, json!({}), &facts).is_empty());
    }
}
