//! Pod templates as JSON: canonical form, hashes and comparison.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use serin_core::units::Revision;
use serin_crds::names::{POD_TEMPLATE_HASH_LABEL, REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::status::PinnedImage;
use serin_crds::{RolloutSpec, anti_affinity, side_metadata};
use sha2::{Digest, Sha256};

use super::pinned_images;

/// The characters of a revision name. Without vowels and ambiguous characters, and DNS-safe.
/// Kubernetes uses the same characters for generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a revision name: 27^9 is more than 7 * 10^12.
const REVISION_LENGTH: usize = 9;
/// Number of bytes of the template hash that are kept.
const TEMPLATE_HASH_BYTES: usize = 16;

/// The hash of the template as the user wrote it, independent of key order and empty fields.
///
/// It identifies a spelling, not a revision: two spellings may be the same template (`cpu: 1000m`
/// and `cpu: "1"`).
pub fn template_hash(spec: &RolloutSpec) -> String {
    let written = serde_json::to_value(&spec.template).unwrap_or(Value::Null);
    let digest = Sha256::digest(canonical(&written));
    hex(&digest[..TEMPLATE_HASH_BYTES.min(digest.len())])
}

/// The template with the Rollout and revision labels, with the digests of these images, and with the
/// anti-affinity between revisions.
pub fn with_serin_labels(
    spec: &RolloutSpec,
    rollout: &str,
    revision: &str,
    images: &[PinnedImage],
) -> Value {
    let mut template = serde_json::to_value(&spec.template).unwrap_or(Value::Null);
    pinned_images::pin(&mut template, images);
    let labels = json!({
        ROLLOUT_LABEL: rollout, REVISION_LABEL: revision, POD_TEMPLATE_HASH_LABEL: revision,
    });
    json_patch::merge(&mut template, &json!({"metadata": {"labels": labels}}));
    if let Some(spec) = &spec.strategy.as_canary().anti_affinity {
        anti_affinity::add(&mut template, spec, rollout, revision);
    }
    template
}

/// A stored template without the labels, the anti-affinity, the digests of images and the metadata of
/// a side that Serin has added. Equal results are equal templates.
pub fn normalized(template: &Value) -> Value {
    let mut bare = without_empty(template).unwrap_or(Value::Null);
    anti_affinity::remove(&mut bare);
    side_metadata::remove(&mut bare);
    pinned_images::unpin(&mut bare);
    if let Some(labels) = bare
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        for label in [ROLLOUT_LABEL, REVISION_LABEL, POD_TEMPLATE_HASH_LABEL] {
            labels.remove(label);
        }
    }
    remove_empty(&mut bare);
    bare
}

/// Identifies a template as the API server stores it: the SHA-256 of the [`normalized`] template.
///
/// Equal digests are equal templates. The digest is made of the JSON that the API server sent, not
/// of a type of this build, so that fields that only a newer API server knows count too. The
/// response to a dry run and a ReplicaSet from the watch can be compared because the API server
/// fills in the same defaults in both. (After an upgrade of the API server, a cached ReplicaSet has
/// the defaults of the older version until it is listed again. Kubernetes adds no defaults to
/// existing pod templates for this reason: its own controllers compare cached templates too.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateDigest([u8; 32]);

impl TemplateDigest {
    /// The digest of a template as the API server sent it.
    pub fn from_stored(template: &Value) -> Self {
        Self::from_normalized(&normalized(template))
    }

    /// The digest of a normalized template.
    pub fn from_normalized(bare_template: &Value) -> Self {
        let mut text = String::new();
        write_canonical(bare_template, &mut text);
        Self(Sha256::digest(text).into())
    }
}

/// The revision name of a normalized template. `collisions` is the number of different templates
/// that already have a name derived from this hash.
pub fn revision_name(bare_template: &Value, collisions: u32) -> Revision {
    let mut hasher = Sha256::new();
    hasher.update(canonical(bare_template));
    if collisions > 0 {
        hasher.update(collisions.to_be_bytes());
    }
    let mut number = u128::from_be_bytes(first_bytes(&hasher.finalize()));
    let letters = ALPHABET.len() as u128;
    let mut name = String::with_capacity(REVISION_LENGTH);
    for _ in 0..REVISION_LENGTH {
        let letter = usize::try_from(number % letters).unwrap_or(0);
        name.push(char::from(ALPHABET[letter]));
        number /= letters;
    }
    Revision::new(name)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

fn first_bytes(digest: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = *from;
    }
    bytes
}

/// JSON with sorted keys and without empty fields.
fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(&without_empty(value).unwrap_or(Value::Null), &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_unstable_by(|one, other| one.0.cmp(other.0));
            out.push('{');
            for (index, (key, field)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_leaf(&Value::String(key.clone()), out);
                out.push(':');
                write_canonical(field, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        leaf => write_leaf(leaf, out),
    }
}

fn write_leaf(leaf: &Value, out: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(out, "{leaf}");
}

/// A copy without nulls and without empty maps in metadata ([`remove_empty`]). `None` if nothing
/// remains.
fn without_empty(value: &Value) -> Option<Value> {
    let mut copy = value.clone();
    remove_empty(&mut copy);
    (!copy.is_null()).then_some(copy)
}

/// Removes nulls, and empty maps in metadata that only some clients write. `emptyDir: {}` has a
/// meaning and is kept.
fn remove_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            remove_empty(value);
            let is_empty_map = METADATA_MAPS.contains(&key.as_str())
                && value.as_object().is_some_and(Map::is_empty);
            !value.is_null() && !is_empty_map
        }),
        Value::Array(items) => items.retain_mut(|item| {
            remove_empty(item);
            !item.is_null()
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

const METADATA_MAPS: [&str; 3] = ["metadata", "labels", "annotations"];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(template: &Value) -> RolloutSpec {
        serde_json::from_value(json!({
            "selector": {"matchLabels": {"app": "checkout"}},
            "template": template,
            "strategy": {"canary": {}},
        }))
        .unwrap()
    }

    #[test]
    fn the_template_hash_is_stable_across_versions() {
        // A change of this value would cause a lookup for every template of a fleet during an
        // upgrade.
        let spec = spec(&json!({
            "metadata": {"labels": {"app": "checkout"}},
            "spec": {"containers": [{"name": "app", "image": "shop/checkout:1"}]},
        }));
        assert_eq!(template_hash(&spec), "23d39b7baa6756a8fa60df8547f55f86");
    }

    #[test]
    fn the_template_hash_ignores_key_order_and_nulls() {
        let one = spec(
            &json!({"spec": {"containers": [{"name": "app", "image": "a"}], "volumes": null}}),
        );
        let two = spec(
            &json!({"metadata": {"labels": {}}, "spec": {"containers": [{"image": "a", "name": "app"}]}}),
        );
        assert_eq!(template_hash(&one), template_hash(&two));
        let three = spec(&json!({"spec": {"containers": [{"image": "b", "name": "app"}]}}));
        assert_ne!(template_hash(&one), template_hash(&three));
    }

    #[test]
    fn a_canonical_text_is_compact_json_with_sorted_keys_and_without_empty_fields() {
        let value = json!({
            "z": 1.5, "a": ["x\n\"y", null, {"labels": {"a": null}}, true],
            "metadata": {"annotations": {}}, "emptyDir": {}, "none": null, "big": u64::MAX,
        });
        assert_eq!(
            canonical(&value),
            r#"{"a":["x\n\"y",{},true],"big":18446744073709551615,"emptyDir":{},"z":1.5}"#
        );
        assert_eq!(canonical(&Value::Null), "null");
    }

    #[test]
    fn an_empty_dir_is_kept() {
        let without = json!({"spec": {"volumes": [{"name": "tmp"}]}});
        let with = json!({"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}});
        assert_ne!(normalized(&without), normalized(&with));
    }

    #[test]
    fn digests_are_equal_if_and_only_if_the_normalized_templates_are() {
        let templates = [
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app", "tty": false}]}}),
            json!({"spec": {"containers": [{"tty": false, "name": "app"}], "volumes": null},
                   "metadata": {"creationTimestamp": null, "annotations": {},
                                "labels": {"app": "a", ROLLOUT_LABEL: "checkout", REVISION_LABEL: "abc"}}}),
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app"}]}}),
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app", "tty": "false"}]}}),
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [["name", "app"]]}}),
            Value::Null,
        ];
        for one in &templates {
            for other in &templates {
                assert_eq!(
                    TemplateDigest::from_stored(one) == TemplateDigest::from_stored(other),
                    normalized(one) == normalized(other),
                    "{one} {other}"
                );
            }
        }
        assert_eq!(normalized(&templates[0]), normalized(&templates[1]));
    }

    #[test]
    fn serin_labels_are_added_and_removed() {
        let spec = spec(&json!({"spec": {"containers": [{"name": "app"}]}}));
        let ours = with_serin_labels(&spec, "checkout", "abc", &[]);
        assert_eq!(
            ours.pointer("/metadata/labels/serin.dev~1revision"),
            Some(&json!("abc"))
        );
        assert_eq!(
            normalized(&ours),
            json!({"spec": {"containers": [{"name": "app"}]}})
        );
    }

    #[test]
    fn the_anti_affinity_between_revisions_is_not_part_of_the_revision() {
        let written = json!({"spec": {"containers": [{"name": "app"}]}});
        let mut spec = spec(&written);
        let bare = normalized(&with_serin_labels(&spec, "checkout", "abc", &[]));
        let anti_affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": {}});
        let canary = spec.strategy.canary.as_mut().unwrap();
        canary.anti_affinity = Some(serde_json::from_value(anti_affinity).unwrap());
        let ours = with_serin_labels(&spec, "checkout", "abc", &[]);
        assert!(ours.pointer("/spec/affinity/podAntiAffinity").is_some());
        assert_eq!(normalized(&ours), bare);
    }

    #[test]
    fn the_digests_of_tags_are_not_part_of_the_revision() {
        let spec = spec(&json!({"spec": {"containers": [{"name": "app", "image": "app:v1"}]}}));
        let image = PinnedImage {
            image: "app:v1".to_owned(),
            digest: "sha256:12".to_owned(),
        };
        let pinned = with_serin_labels(&spec, "checkout", "abc", &[image]);
        let stored = pinned.pointer("/spec/containers/0/image");
        assert_eq!(stored, Some(&json!("app:v1@sha256:12")));
        let bare = with_serin_labels(&spec, "checkout", "abc", &[]);
        assert_eq!(normalized(&pinned), normalized(&bare));
    }

    #[test]
    fn the_metadata_of_a_side_is_not_part_of_the_revision() {
        let spec = spec(&json!({"spec": {"containers": [{"name": "app"}]}}));
        let bare = with_serin_labels(&spec, "checkout", "abc", &[]);
        for side in [
            json!({"labels": {"role": "canary"}}),
            json!({"annotations": {"team": "x"}}),
        ] {
            let side = serde_json::from_value(side).unwrap();
            let mut template = bare.clone();
            let patch = json!({"metadata": side_metadata::template_patch(&bare, Some(&side))});
            json_patch::merge(&mut template, &patch);
            assert_ne!(template, bare);
            assert_eq!(normalized(&template), normalized(&bare));
        }
    }

    #[test]
    fn a_revision_name_is_dns_safe_and_stable_and_changes_after_a_collision() {
        let template = json!({"spec": {"containers": [{"name": "app"}]}});
        let first = revision_name(&template, 0);
        assert_eq!(first.as_str(), "l85dphddv");
        assert!(first.as_str().bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(first, revision_name(&template, 1));
    }
}
