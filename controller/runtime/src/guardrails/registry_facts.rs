//! What registries say about the images of a revision.
//!
//! The digest of an image comes from the first of these that has it: the pod template, the record of
//! the revision in the status, its pods, the registry. So a revision is resolved once, and what its
//! pods run is what is verified.

use std::collections::BTreeSet;
use std::time::Duration;

use serin_crds::guardrails::Guardrails;
use serin_crds::status::PinnedImage;
use serin_guardrails::facts::Facts;
use serin_guardrails::registry::{
    ImageFacts, RegistryAnswer, RegistryFacts, RegistryQuestion, registry_questions,
};
use serin_guardrails::registry_digest;

use super::GuardrailSubject;
use super::registry_lookups::Lookup;
use crate::image_registry::ImageSource;

/// What is known about the images of a revision.
pub(super) struct RevisionImages {
    pub facts: ImageFacts,
    /// The digests of tags with which its ReplicaSet would be created.
    pub resolved: Vec<PinnedImage>,
    /// When a registry is to be asked again.
    pub again_in: Option<Duration>,
}

/// Asks registries what the guardrails need to know, without waiting for the answers.
pub(super) fn look_up(
    subject: &GuardrailSubject<'_>,
    guardrails: &Guardrails,
    facts: &Facts,
) -> RevisionImages {
    let mut images = RevisionImages {
        facts: ImageFacts::new(),
        resolved: Vec::new(),
        again_in: None,
    };
    for question in registry_questions(guardrails, &facts.template) {
        let source = ImageSource {
            namespace: facts.namespace_name.clone(),
            name: question.name.clone(),
            pull_secrets: pull_secrets(facts),
        };
        let digest = images.digest(subject, facts, &source, &question);
        let mut signed_by = RegistryAnswer::NotAsked;
        let signature = guardrails.image_signature.as_ref();
        if let (true, Some(options), RegistryAnswer::Known(digest)) =
            (question.needs_signatures, signature, &digest)
        {
            let key = subject.rollout.key();
            let registries = subject.registries;
            let lookup = registries.signed_by(&key, &source, digest, &options.keys);
            signed_by = images.answer_of(lookup);
        }
        let known = RegistryFacts { digest, signed_by };
        images.facts.insert(question.image, known);
    }
    images
}

impl RevisionImages {
    fn digest(
        &mut self,
        subject: &GuardrailSubject<'_>,
        facts: &Facts,
        source: &ImageSource,
        question: &RegistryQuestion,
    ) -> RegistryAnswer<String> {
        let Some(tag) = &question.tag else {
            let digest = question.digest.clone().unwrap_or_default();
            return RegistryAnswer::Known(digest);
        };
        let recorded = subject.rollout.status.pinned_images(subject.target);
        let recorded = recorded.iter().find(|one| one.image == question.image);
        let digest = match recorded {
            Some(recorded) => RegistryAnswer::Known(recorded.digest.clone()),
            None if subject.pod_count > 0 => return running_digest(facts, question),
            None => {
                let key = subject.rollout.key();
                self.answer_of(subject.registries.digest(&key, source, tag))
            }
        };
        if let RegistryAnswer::Known(digest) = &digest {
            self.resolved.push(PinnedImage {
                image: question.image.clone(),
                digest: digest.clone(),
            });
        }
        digest
    }

    fn answer_of<T>(&mut self, lookup: Lookup<T>) -> RegistryAnswer<T> {
        let waits = [self.again_in, lookup.again_in];
        self.again_in = waits.into_iter().flatten().min();
        lookup.answer
    }
}

/// The digest that the pods of a revision run whose tag was not resolved before the first one.
fn running_digest(facts: &Facts, question: &RegistryQuestion) -> RegistryAnswer<String> {
    let pods = facts.pods.known().map_or(&[][..], Vec::as_slice);
    let running = pods.iter().flat_map(|pod| &pod.containers);
    let running = running.filter(|container| question.containers.contains(&container.name));
    let digests = running.filter_map(|container| registry_digest(&container.image_id));
    let digests: BTreeSet<&str> = digests.collect();
    let mut digests = digests.into_iter();
    match (digests.next(), digests.next()) {
        (None, _) => RegistryAnswer::Pending,
        (Some(digest), None) => RegistryAnswer::Known(digest.to_owned()),
        (Some(one), Some(other)) => RegistryAnswer::Failed {
            problem: format!("its pods run different images of the tag: {one} and {other}"),
            fix: "Abort the release, and release a tag that does not move".to_owned(),
        },
    }
}

/// The Secrets with which the pods pull their images.
fn pull_secrets(facts: &Facts) -> Vec<String> {
    let secrets = facts.template["spec"]["imagePullSecrets"].as_array();
    let names = secrets.into_iter().flatten();
    let names = names.filter_map(|secret| secret["name"].as_str());
    names.map(ToOwned::to_owned).collect()
}
