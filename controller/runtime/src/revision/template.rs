//! Pod templates as plain JSON: their canonical form, their hashes, and whether two are the same.

use serde_json::{Map, Value, json};
use serin_core::units::Revision;
use serin_crds::RolloutSpec;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL};
use sha2::{Digest, Sha256};

/// What a revision's name is written with: no vowels (no words), nothing that reads like something
/// else; DNS-safe. These are the letters that Kubernetes itself uses for generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many letters a revision's name has: 27^9 are over 7 * 10^12.
const REVISION_LENGTH: usize = 9;
/// How many bytes of a hash of a template as written are kept.
const WRITTEN_HASH_BYTES: usize = 16;

/// The hash of the template as the user wrote it: whatever the order of its keys, with empty fields
/// left out.
///
/// It names a text, not a revision: two texts may stand for one template (`cpu: 1000m` and `cpu:
/// "1"`).
pub fn written_hash(spec: &RolloutSpec) -> String {
    let written = serde_json::to_value(&spec.template).unwrap_or(Value::Null);
    let digest = Sha256::digest(canonical(&written));
    hex(&digest[..WRITTEN_HASH_BYTES.min(digest.len())])
}

/// The template for pods of a revision: as written, with our two labels.
pub fn labelled(spec: &RolloutSpec, rollout: &str, revision: &str) -> Value {
    let mut template = serde_json::to_value(&spec.template).unwrap_or(Value::Null);
    let labels = json!({ROLLOUT_LABEL: rollout, REVISION_LABEL: revision});
    json_patch::merge(&mut template, &json!({"metadata": {"labels": labels}}));
    template
}

/// A stored template without what Serin put into it, ready to be compared: equal values are equal
/// templates.
pub fn bare(template: &Value) -> Value {
    let mut bare = without_empty(template).unwrap_or(Value::Null);
    if let Some(labels) = bare
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(ROLLOUT_LABEL);
        labels.remove(REVISION_LABEL);
    }
    without_empty(&bare).unwrap_or(Value::Null)
}

/// The revision that a stored template stands for; `collisions` counts the different templates met
/// under a name so far.
pub fn revision_of(bare_template: &Value, collisions: u32) -> Revision {
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

/// JSON with the keys of every object in order and without empty fields.
fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(&without_empty(value).unwrap_or(Value::Null), &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(&fields[key.as_str()], out);
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
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// Without nulls, and without the empty maps that only some writers leave behind in metadata;
/// `emptyDir: {}` means something and stays.
fn without_empty(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: Map<String, Value> = fields
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), without_empty(value)?)))
                .filter(|(key, value)| {
                    !(METADATA_MAPS.contains(&key.as_str())
                        && value.as_object().is_some_and(Map::is_empty))
                })
                .collect();
            Some(Value::Object(kept))
        }
        Value::Array(items) => Some(Value::Array(
            items.iter().filter_map(without_empty).collect(),
        )),
        leaf => Some(leaf.clone()),
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
    fn the_hash_of_what_was_written_is_pinned() {
        // A change of this value would ask the API server about every template in a fleet on the
        // day of an upgrade.
        let spec = spec(&json!({
            "metadata": {"labels": {"app": "checkout"}},
            "spec": {"containers": [{"name": "app", "image": "shop/checkout:1"}]},
        }));
        assert_eq!(written_hash(&spec), "23d39b7baa6756a8fa60df8547f55f86");
    }

    #[test]
    fn the_order_of_keys_and_nulls_do_not_count_in_what_was_written() {
        let one = spec(
            &json!({"spec": {"containers": [{"name": "app", "image": "a"}], "volumes": null}}),
        );
        let two = spec(
            &json!({"metadata": {"labels": {}}, "spec": {"containers": [{"image": "a", "name": "app"}]}}),
        );
        assert_eq!(written_hash(&one), written_hash(&two));
        let three = spec(&json!({"spec": {"containers": [{"image": "b", "name": "app"}]}}));
        assert_ne!(written_hash(&one), written_hash(&three));
    }

    #[test]
    fn an_empty_dir_is_not_nothing() {
        let without = json!({"spec": {"volumes": [{"name": "tmp"}]}});
        let with = json!({"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}});
        assert_ne!(bare(&without), bare(&with));
    }

    #[test]
    fn our_labels_are_put_in_and_taken_out() {
        let spec = spec(&json!({"spec": {"containers": [{"name": "app"}]}}));
        let ours = labelled(&spec, "checkout", "abc");
        assert_eq!(
            ours.pointer("/metadata/labels/serin.dev~1revision"),
            Some(&json!("abc"))
        );
        assert_eq!(
            bare(&ours),
            json!({"spec": {"containers": [{"name": "app"}]}})
        );
    }

    #[test]
    fn a_revision_is_short_dns_safe_pinned_and_moves_on_after_a_collision() {
        let template = json!({"spec": {"containers": [{"name": "app"}]}});
        let first = revision_of(&template, 0);
        assert_eq!(first.as_str(), "l85dphddv");
        assert!(first.as_str().bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(first, revision_of(&template, 1));
    }
}
