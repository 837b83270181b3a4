//! What guardrails ask image registries, and the answers.

use std::collections::BTreeMap;

use serde_json::Value;
use serin_core::guardrail::GuardrailKind;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::{Guardrails, ImagePinnedGuardrail, ImageSignatureGuardrail};

use crate::evaluation::Report;
use crate::image::ImageReference;
use crate::image_glob::matches_glob;
use crate::template::{Container, Template};

/// Maximum number of images of a pod template about which registries are asked.
const MAX_IMAGES: usize = 16;
/// Tag of an image without a tag.
const DEFAULT_TAG: &str = "latest";

/// An answer of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RegistryAnswer<T> {
    /// Nobody has asked: no guardrail needs it, or there is no cluster.
    #[default]
    NotAsked,
    /// The registry is being asked.
    Pending,
    /// It is known.
    Known(T),
    /// The registry did not answer the question.
    Failed {
        /// Why, in a sentence without its end.
        problem: String,
        /// How to correct it, in a sentence without its end.
        fix: String,
    },
}

impl<T> RegistryAnswer<T> {
    /// The answer, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::NotAsked | Self::Pending | Self::Failed { .. } => None,
        }
    }
}

/// What is known about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryFacts {
    /// The digest that the pods run: that of the tag.
    pub digest: RegistryAnswer<String>,
    /// The names of the keys of the guardrail that have signed this digest.
    pub signed_by: RegistryAnswer<Vec<String>>,
}

/// What is known about the images of a pod template, by the image as it is written there.
pub type ImageFacts = BTreeMap<String, RegistryFacts>;

/// What guardrails need to know about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryQuestion {
    /// The image as it is written in the pod template.
    pub image: String,
    /// Registry and path, for example `docker.io/library/nginx`.
    pub name: String,
    /// The tag whose digest is needed. `None` if the image has a digest.
    pub tag: Option<String>,
    /// The digest in the pod template.
    pub digest: Option<String>,
    /// Names of the containers that run the image.
    pub containers: Vec<String>,
    /// Whether signatures are needed.
    pub needs_signatures: bool,
}

/// What the guardrails need to know from registries about the images of a pod template, once for
/// each image and at most [`MAX_IMAGES`].
pub fn registry_questions(guardrails: &Guardrails, template: &Value) -> Vec<RegistryQuestion> {
    let pinned = guardrails.image_pinned.as_ref();
    let pinned = pinned.filter(|_| guardrails.is_on(GuardrailKind::ImagePinned));
    let signature = guardrails.image_signature.as_ref();
    let signature = signature.filter(|_| guardrails.is_on(GuardrailKind::ImageSignature));
    let mut questions: Vec<RegistryQuestion> = Vec::new();
    for container in Template(template).containers() {
        let needs_signatures =
            signature.is_some_and(|options| needs_signature(options, container.image()));
        let needs_digest = pinned.is_some_and(|options| resolves(options, &container));
        let reference = ImageReference::parse(container.image());
        if !needs_signatures && (!needs_digest || reference.digest.is_some()) {
            continue;
        }
        let known = questions
            .iter_mut()
            .find(|question| question.image == container.image());
        if let Some(question) = known {
            question.containers.push(container.name.to_owned());
        } else if questions.len() < MAX_IMAGES {
            questions.push(RegistryQuestion {
                image: container.image().to_owned(),
                name: reference.canonical_name(),
                tag: match reference.digest {
                    Some(_) => None,
                    None => Some(reference.tag.unwrap_or(DEFAULT_TAG).to_owned()),
                },
                digest: reference.digest.map(ToOwned::to_owned),
                containers: vec![container.name.to_owned()],
                needs_signatures,
            });
        }
    }
    questions
}

/// Whether the digest of the tag of a container is resolved.
pub(crate) fn resolves(options: &ImagePinnedGuardrail, container: &Container<'_>) -> bool {
    options.resolve_digest == Some(true) && !container.is_one_of(&options.exempt_containers)
}

/// Whether an image needs a signature that is checked in the registry.
pub(crate) fn needs_signature(options: &ImageSignatureGuardrail, image: &str) -> bool {
    let name = ImageReference::parse(image).canonical_name();
    let is_exempt = |glob: &String| matches_glob(glob, &name);
    !options.keys.is_empty() && !options.exempt_images.iter().any(is_exempt)
}

/// Reports an answer that is missing. `what` is what the registry was asked for, for example `the
/// digest`.
pub(crate) fn report_missing<T>(
    answer: Option<&RegistryAnswer<T>>,
    what: &str,
    container: &Container<'_>,
    report: &mut Report,
) {
    let image = container.image();
    match answer {
        Some(RegistryAnswer::Known(_) | RegistryAnswer::NotAsked) => {}
        Some(RegistryAnswer::Pending) => report.add(
            HoldCode::RegistryPending,
            container.label(),
            format!("the registry is being asked for {what} of its image {image}"),
            "No action is needed",
        ),
        Some(RegistryAnswer::Failed { problem, fix }) => report.add(
            HoldCode::RegistryUnavailable,
            container.label(),
            format!("{what} of its image {image} is not known: {problem}"),
            fix,
        ),
        None => report.add(
            HoldCode::RegistryUnavailable,
            container.label(),
            format!(
                "{what} of its image {image} is not known: registries are asked about the first \
                 {MAX_IMAGES} images of a pod template"
            ),
            "Write the image with its digest, NAME@sha256:...",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn questions(guardrails: Value, images: &[&str]) -> Vec<(String, Option<String>, bool)> {
        let containers = images.iter().enumerate();
        let containers: Vec<Value> = containers
            .map(|(number, image)| json!({"name": format!("c{number}"), "image": image}))
            .collect();
        let template = json!({"spec": {"containers": containers}});
        let guardrails: Guardrails = serde_json::from_value(guardrails).unwrap();
        let questions = registry_questions(&guardrails, &template);
        let parts =
            |question: RegistryQuestion| (question.name, question.tag, question.needs_signatures);
        questions.into_iter().map(parts).collect()
    }

    fn tag(name: &str, tag: &str, signed: bool) -> (String, Option<String>, bool) {
        (name.to_owned(), Some(tag.to_owned()), signed)
    }

    #[test]
    fn registries_are_asked_only_for_what_a_guardrail_needs() {
        let images = ["nginx", "reg:5000/app:v1", "reg:5000/app:v1", "a@sha256:12"];
        assert_eq!(
            questions(json!({"imagePinned": {"mode": "Enforce"}}), &images),
            []
        );
        let off = json!({"imagePinned": {"mode": "Off", "resolveDigest": true}});
        assert_eq!(questions(off, &images), []);
        let resolve = json!({"imagePinned": {
            "mode": "Warn", "resolveDigest": true, "exemptContainers": ["c0"],
        }});
        let app = tag("reg:5000/app", "v1", false);
        assert_eq!(questions(resolve, &images), [app]);
        let signed = json!({"imageSignature": {
            "mode": "Enforce", "keys": [{"name": "k", "publicKey": "..."}],
            "exemptImages": ["reg:5000/**"],
        }});
        let expected = [
            tag("docker.io/library/nginx", "latest", true),
            ("docker.io/library/a".to_owned(), None, true),
        ];
        assert_eq!(questions(signed, &images), expected);
    }

    #[test]
    fn the_number_of_images_is_limited() {
        let images: Vec<String> = (0..40).map(|number| format!("app:v{number}")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let resolve = json!({"imagePinned": {"mode": "Warn", "resolveDigest": true}});
        assert_eq!(questions(resolve, &images).len(), MAX_IMAGES);
    }
}
