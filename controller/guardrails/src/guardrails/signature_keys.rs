//! Every image is signed with one of the keys. The registry has the signatures.

use serin_core::hold::HoldCode;
use serin_crds::guardrails::{ImageSignatureGuardrail, SignatureKey};

use crate::evaluation::Report;
use crate::facts::{Facts, Unknown};
use crate::image::ImageReference;
use crate::image_glob::matches_glob;
use crate::registry::{RegistryAnswer, needs_signature, report_missing};
use crate::signature_key::PublicKey;
use crate::template::{Container, Template};

pub(super) fn check(options: &ImageSignatureGuardrail, facts: &Facts, report: &mut Report) {
    for key in &options.keys {
        if let Err(error) = PublicKey::parse(key) {
            report.add(
                HoldCode::GuardrailInvalid,
                format!("imageSignature.keys[{}].publicKey", key.name),
                error.to_string(),
                "Correct it in the RolloutPolicy",
            );
        }
    }
    let is_asked = |container: &Container<'_>| {
        let known = facts.images.get(container.image());
        known.is_some_and(|known| known.signed_by != RegistryAnswer::NotAsked)
    };
    let containers = Template(&facts.template).containers();
    let mut containers = containers
        .filter(|container| needs_signature(options, container.image()))
        .peekable();
    if facts.images.is_empty() && containers.peek().is_some() {
        return report.unknown("signatures in the registry", &Unknown::NotAsked);
    }
    for container in containers {
        let name = ImageReference::parse(container.image()).canonical_name();
        let keys: Vec<&str> = options
            .keys
            .iter()
            .filter(|key| may_sign(key, &name))
            .map(|key| key.name.as_str())
            .collect();
        if keys.is_empty() {
            report.add(
                HoldCode::SignatureMissing,
                container.label(),
                format!(
                    "no key of the guardrail may sign its image {}",
                    container.image()
                ),
                "Add a key for the image to imageSignature.keys of the RolloutPolicy, or the image \
                 to exemptImages",
            );
        } else if is_asked(&container) {
            check_signature(&container, &keys, facts, report);
        } else {
            check_digest(&container, facts, report);
        }
    }
}

/// Whether a key may sign an image.
fn may_sign(key: &SignatureKey, name: &str) -> bool {
    key.images.is_empty() || key.images.iter().any(|glob| matches_glob(glob, name))
}

/// Reports why signatures are not asked for: the digest is not known.
fn check_digest(container: &Container<'_>, facts: &Facts, report: &mut Report) {
    let known = facts.images.get(container.image());
    report_missing(
        known.map(|known| &known.digest),
        "the digest",
        container,
        report,
    );
}

fn check_signature(container: &Container<'_>, keys: &[&str], facts: &Facts, report: &mut Report) {
    let known = facts.images.get(container.image());
    let signed_by = known.map(|known| &known.signed_by);
    let Some(RegistryAnswer::Known(signed_by)) = signed_by else {
        return report_missing(signed_by, "the signature", container, report);
    };
    if signed_by.iter().any(|name| keys.contains(&name.as_str())) {
        return;
    }
    let reference = ImageReference::parse(container.image());
    let digest = known.and_then(|known| known.digest.known());
    let digest = digest.map_or_else(String::new, |digest| format!(" ({digest})"));
    report.add(
        HoldCode::SignatureMissing,
        container.label(),
        format!(
            "the registry has no signature of its image {}{digest} with the key {}",
            container.image(),
            keys.join(" or ")
        ),
        format!("Run cosign sign --key KEY {}@DIGEST", reference.name),
    );
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;
    use serde_json::{Value, json};
    use serin_core::guardrail::GuardrailKind::ImageSignature;

    use super::super::test_facts::{codes, facts, findings};
    use super::*;
    use crate::registry::RegistryFacts;

    const IMAGE: &str = "registry.example.com/app:v1";

    fn options() -> Value {
        let pem = KeyPair::generate().unwrap().public_key_pem();
        json!({"keys": [{"name": "release", "publicKey": pem}]})
    }

    fn with_images(
        digest: RegistryAnswer<String>,
        signed_by: RegistryAnswer<Vec<String>>,
    ) -> Facts {
        let mut facts = facts();
        let known = RegistryFacts { digest, signed_by };
        facts.images.insert(IMAGE.to_owned(), known);
        facts
    }

    fn signed_by(names: &[&str]) -> Facts {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let digest = RegistryAnswer::Known("sha256:12".to_owned());
        with_images(digest, RegistryAnswer::Known(names))
    }

    fn failed<T>() -> RegistryAnswer<T> {
        RegistryAnswer::Failed {
            problem: "the registry did not answer in time".to_owned(),
            fix: "Check the registry".to_owned(),
        }
    }

    #[test]
    fn a_key_of_the_guardrail_must_have_signed_the_image() {
        assert!(codes(ImageSignature, options(), &signed_by(&["release"])).is_empty());
        for names in [&[][..], &["another"]] {
            let found = findings(ImageSignature, options(), &signed_by(names));
            assert_eq!(found[0].code, HoldCode::SignatureMissing);
            for part in [IMAGE, "sha256:12", "release"] {
                assert!(found[0].problem.contains(part), "{found:?}");
            }
            assert_eq!(&*found[0].object, "container app");
        }
    }

    #[test]
    fn what_the_registry_has_not_answered_is_no_pass() {
        let known = || RegistryAnswer::Known("sha256:12".to_owned());
        for (facts, code) in [
            (
                with_images(known(), failed()),
                HoldCode::RegistryUnavailable,
            ),
            (
                with_images(failed(), RegistryAnswer::NotAsked),
                HoldCode::RegistryUnavailable,
            ),
            (
                with_images(known(), RegistryAnswer::Pending),
                HoldCode::RegistryPending,
            ),
            (
                with_images(RegistryAnswer::Pending, RegistryAnswer::NotAsked),
                HoldCode::RegistryPending,
            ),
            (facts(), HoldCode::GuardrailUnknown),
        ] {
            assert_eq!(codes(ImageSignature, options(), &facts), [code]);
        }
    }

    #[test]
    fn a_key_counts_only_for_its_images_and_exempt_images_need_none() {
        let mut limited = options();
        limited["keys"][0]["images"] = json!(["ghcr.io/**"]);
        let found = codes(ImageSignature, limited.clone(), &signed_by(&["release"]));
        assert_eq!(found, [HoldCode::SignatureMissing]);
        limited["exemptImages"] = json!(["registry.example.com/**"]);
        assert!(codes(ImageSignature, limited, &facts()).is_empty());
    }

    #[test]
    fn a_key_that_cannot_be_read_is_named() {
        let options = json!({"keys": [{"name": "release", "publicKey": "nonsense"}]});
        let found = findings(ImageSignature, options, &signed_by(&[]));
        assert_eq!(found[0].code, HoldCode::GuardrailInvalid);
        assert!(found[0].object.contains("keys[release]"), "{found:?}");
    }
}
