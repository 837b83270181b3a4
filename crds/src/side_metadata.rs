//! Labels and annotations of the pods of one side of a release, in pods and in the templates of
//! ReplicaSets.
//!
//! They are not part of the revision: the controller leaves them out when it compares templates, and
//! changes them in place when a revision changes its side. What was added to an object is recorded
//! in annotations of the object, so that it can be removed again and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::names::{
    ADDED_ANNOTATIONS_ANNOTATION, ADDED_LABELS_ANNOTATION, ADDED_METADATA_ANNOTATION, GROUP,
    POD_TEMPLATE_HASH_LABEL,
};
use crate::rules;

/// Maximum number of labels, and of annotations, of a side.
pub const MAX_ENTRIES: usize = 16;
/// Maximum length in bytes of the value of an annotation of a side.
pub const MAX_ANNOTATION_BYTES: usize = 1_024;
/// Maximum length in bytes of the key of a label or an annotation.
const MAX_KEY_BYTES: usize = 253 + 1 + 63;
/// Length in bytes of the hash that is recorded.
const HASH_BYTES: usize = 8;

/// Labels and annotations of the pods of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SideMetadata {
    /// Labels, none of which is in the pod template or in the selector. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "side_labels")]
    #[x_kube(validation = rules::no_reserved_side_labels())]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations, none of which is in the pod template. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "side_annotations")]
    #[x_kube(validation = rules::no_reserved_side_annotations())]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Schema of the labels of a side.
fn side_labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": { "type": "string", "maxLength": 63 }
    })
}

/// Schema of the annotations of a side.
fn side_annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": { "type": "string", "maxLength": MAX_ANNOTATION_BYTES }
    })
}

impl SideMetadata {
    /// Whether there is neither a label nor an annotation.
    pub fn is_empty(&self) -> bool {
        let is_empty =
            |map: &Option<BTreeMap<String, String>>| map.as_ref().is_none_or(BTreeMap::is_empty);
        is_empty(&self.labels) && is_empty(&self.annotations)
    }

    /// Identifies the labels and annotations in the record on an object.
    pub fn hash(&self) -> String {
        // Maps of strings always have a JSON form, with sorted keys.
        let json = json!([&self.labels, &self.annotations]).to_string();
        let digest = Sha256::digest(json);
        let bytes = digest.iter().take(HASH_BYTES);
        let short = bytes.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        format!("{short:0width$x}", width = 2 * HASH_BYTES)
    }

    /// The labels and annotations whose keys are not in these sets.
    #[must_use]
    fn without(&self, labels: &BTreeSet<&str>, annotations: &BTreeSet<&str>) -> Self {
        let keep = |map: &Option<BTreeMap<String, String>>, taken: &BTreeSet<&str>| {
            let kept = map.iter().flatten();
            let kept = kept.filter(|(key, _)| !taken.contains(key.as_str()) && !is_reserved(key));
            Some(
                kept.map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            )
        };
        Self {
            labels: keep(&self.labels, labels),
            annotations: keep(&self.annotations, annotations),
        }
    }
}

/// Whether only the controller may set a label or an annotation.
pub fn is_reserved(key: &str) -> bool {
    let prefix = key.split_once('/').map(|(prefix, _)| prefix);
    prefix == Some(GROUP) || key == POD_TEMPLATE_HASH_LABEL
}

/// What was added to a pod or to a template, as its annotations record it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedMetadata {
    /// [`SideMetadata::hash`] of what was to be added.
    pub hash: String,
    /// Keys of the labels that were added.
    pub labels: BTreeSet<String>,
    /// Keys of the annotations that were added.
    pub annotations: BTreeSet<String>,
}

impl AddedMetadata {
    /// Reads the record from the annotations of an object. `None` if nothing was added. Anybody who
    /// may write the object can change the record, so its size is limited, and keys that only the
    /// controller sets are left out.
    pub fn from_annotations<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let keys = |name: &str| {
            let keys = get(name).unwrap_or_default().split(',');
            let keys = keys
                .filter(|key| !key.is_empty() && key.len() <= MAX_KEY_BYTES && !is_reserved(key));
            keys.take(MAX_ENTRIES).map(ToOwned::to_owned).collect()
        };
        let hash = get(ADDED_METADATA_ANNOTATION)?;
        Some(Self {
            hash: hash.chars().take(2 * HASH_BYTES).collect(),
            labels: keys(ADDED_LABELS_ANNOTATION),
            annotations: keys(ADDED_ANNOTATIONS_ANNOTATION),
        })
    }

    /// Reads the record from a template.
    pub fn from_template(template: &Value) -> Option<Self> {
        let annotations = &template["metadata"]["annotations"];
        Self::from_annotations(|name| annotations[name].as_str())
    }

    /// The merge patch of `metadata` that takes everything away that was added.
    pub fn removal(&self) -> Value {
        let unset = |keys: &BTreeSet<String>| {
            let keys = keys.iter();
            keys.map(|key| (key.clone(), Value::Null))
                .collect::<Map<_, _>>()
        };
        let mut annotations = unset(&self.annotations);
        for name in RECORD {
            annotations.insert(name.to_owned(), Value::Null);
        }
        json!({"labels": unset(&self.labels), "annotations": annotations})
    }
}

/// The annotations with the record.
const RECORD: [&str; 3] = [
    ADDED_METADATA_ANNOTATION,
    ADDED_LABELS_ANNOTATION,
    ADDED_ANNOTATIONS_ANNOTATION,
];

/// The merge patch of the `metadata` of a template that replaces what was added before by `wanted`.
/// What is in the template otherwise stays as it is.
pub fn template_patch(template: &Value, wanted: Option<&SideMetadata>) -> Value {
    let before = AddedMetadata::from_template(template).unwrap_or_default();
    let own = |field: &str, added: &BTreeSet<String>| -> BTreeSet<String> {
        let keys = template["metadata"][field].as_object();
        let keys = keys.into_iter().flatten().map(|(key, _)| key);
        keys.filter(|key| !added.contains(*key) && !RECORD.contains(&key.as_str()))
            .cloned()
            .collect()
    };
    let own_labels = own("labels", &before.labels);
    let own_annotations = own("annotations", &before.annotations);
    let added = wanted.map(|wanted| {
        wanted.without(
            &own_labels.iter().map(String::as_str).collect(),
            &own_annotations.iter().map(String::as_str).collect(),
        )
    });
    let mut patch = patch(&before, wanted.zip(added.as_ref()));
    if wanted.is_none() && own_annotations.is_empty() {
        // No empty map is left: the template is what it was.
        patch["annotations"] = Value::Null;
    }
    patch
}

/// The merge patch of the `metadata` of a pod that replaces what was added `before` by what its
/// ReplicaSet has. `wanted` is what `set` records.
pub fn pod_patch(
    before: Option<&AddedMetadata>,
    wanted: Option<&SideMetadata>,
    set: Option<&AddedMetadata>,
) -> Value {
    let none = AddedMetadata::default();
    let of_set = wanted.zip(set).map(|(wanted, set)| {
        let others = |map: &Option<BTreeMap<String, String>>, added: &BTreeSet<String>| {
            let keys = map.iter().flatten().map(|(key, _)| key);
            keys.filter(|key| !added.contains(*key))
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        let labels = others(&wanted.labels, &set.labels);
        let annotations = others(&wanted.annotations, &set.annotations);
        wanted.without(
            &labels.iter().map(String::as_str).collect(),
            &annotations.iter().map(String::as_str).collect(),
        )
    });
    patch(before.unwrap_or(&none), wanted.zip(of_set.as_ref()))
}

/// Removes what was added `before`, and then adds the second of `wanted`, which is what is left of
/// the first.
fn patch(before: &AddedMetadata, wanted: Option<(&SideMetadata, &SideMetadata)>) -> Value {
    let mut patch = before.removal();
    let Some((whole, added)) = wanted.filter(|(whole, _)| !whole.is_empty()) else {
        return patch;
    };
    for (field, map) in [
        ("labels", &added.labels),
        ("annotations", &added.annotations),
    ] {
        for (key, value) in map.iter().flatten() {
            patch[field][key] = json!(value);
        }
    }
    let keys = |map: &Option<BTreeMap<String, String>>| {
        let keys: Vec<&str> = map.iter().flatten().map(|(key, _)| key.as_str()).collect();
        keys.join(",")
    };
    patch["annotations"][ADDED_METADATA_ANNOTATION] = json!(whole.hash());
    patch["annotations"][ADDED_LABELS_ANNOTATION] = json!(keys(&added.labels));
    patch["annotations"][ADDED_ANNOTATIONS_ANNOTATION] = json!(keys(&added.annotations));
    patch
}

/// Removes what was added to a template. What is in the template otherwise stays.
pub fn remove(template: &mut Value) {
    let Some(added) = AddedMetadata::from_template(template) else {
        return;
    };
    for (field, keys) in [
        ("labels", &added.labels),
        ("annotations", &added.annotations),
    ] {
        let map = template.pointer_mut(&format!("/metadata/{field}"));
        if let Some(map) = map.and_then(Value::as_object_mut) {
            map.retain(|key, _| !keys.contains(key) && !RECORD.contains(&key.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(labels: &Value, annotations: &Value) -> SideMetadata {
        serde_json::from_value(json!({"labels": labels, "annotations": annotations})).unwrap()
    }

    fn patched(template: &Value, wanted: Option<&SideMetadata>) -> Value {
        let mut patched = template.clone();
        let patch = json!({"metadata": template_patch(template, wanted)});
        merge(&mut patched, &patch);
        patched
    }

    /// A JSON merge patch (RFC 7386), as the API server applies it.
    fn merge(into: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else {
            *into = patch.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in fields {
            if value.is_null() {
                into.as_object_mut().unwrap().remove(key);
            } else {
                merge(&mut into[key], value);
            }
        }
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "shop"}, "annotations": {"a": "1"}}, "spec": {}})
    }

    #[test]
    fn what_was_added_is_recorded_and_can_be_removed() {
        let canary = side(
            &json!({"role": "canary"}),
            &json!({"team": "x", "b/c": "d,e"}),
        );
        let added = patched(&template(), Some(&canary));
        assert_eq!(
            added["metadata"]["labels"],
            json!({"app": "shop", "role": "canary"})
        );
        assert_eq!(added["metadata"]["annotations"]["team"], "x");
        let record = AddedMetadata::from_template(&added).unwrap();
        assert_eq!(record.hash, canary.hash());
        assert_eq!(record.labels, ["role".to_owned()].into());
        assert_eq!(
            record.annotations,
            ["team".to_owned(), "b/c".to_owned()].into()
        );
        let mut removed = added.clone();
        remove(&mut removed);
        assert_eq!(removed, template());
        assert_eq!(patched(&added, None), template());
        // A second application changes nothing.
        assert_eq!(patched(&added, Some(&canary)), added);
    }

    #[test]
    fn a_template_without_annotations_has_none_afterward() {
        let before = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {}});
        let stable = side(&json!({"role": "stable"}), &json!({"note": "x"}));
        assert_eq!(patched(&patched(&before, Some(&stable)), None), before);
    }

    #[test]
    fn a_change_of_the_side_replaces_the_keys_of_the_other_one() {
        let canary = side(&json!({"role": "canary", "trial": "1"}), &json!({}));
        let stable = side(&json!({"role": "stable"}), &json!({"since": "today"}));
        let changed = patched(&patched(&template(), Some(&canary)), Some(&stable));
        assert_eq!(changed, patched(&template(), Some(&stable)));
        assert_eq!(
            changed["metadata"]["labels"],
            json!({"app": "shop", "role": "stable"})
        );
    }

    // An older revision may have a key that the metadata of a side uses now.
    #[test]
    fn a_key_of_the_template_is_never_changed_and_the_record_says_what_was_to_be_added() {
        let stable = side(
            &json!({"app": "other", "role": "stable"}),
            &json!({"a": "2"}),
        );
        let added = patched(&template(), Some(&stable));
        assert_eq!(
            added["metadata"]["labels"],
            json!({"app": "shop", "role": "stable"})
        );
        assert_eq!(added["metadata"]["annotations"]["a"], "1");
        let record = AddedMetadata::from_template(&added).unwrap();
        assert_eq!((record.hash, record.labels.len()), (stable.hash(), 1));
        let mut removed = added;
        remove(&mut removed);
        assert_eq!(removed, template());
    }

    #[test]
    fn a_pod_gets_what_its_replica_set_has() {
        let stable = side(&json!({"app": "other", "role": "stable"}), &json!({}));
        let set = AddedMetadata::from_template(&patched(&template(), Some(&stable)));
        let before = AddedMetadata {
            labels: ["trial".to_owned()].into(),
            ..AddedMetadata::default()
        };
        let patch = pod_patch(Some(&before), Some(&stable), set.as_ref());
        assert_eq!(patch["labels"], json!({"trial": null, "role": "stable"}));
        assert_eq!(
            patch["annotations"][ADDED_METADATA_ANNOTATION],
            stable.hash()
        );
        let patch = pod_patch(set.as_ref(), None, None);
        assert_eq!(patch["labels"], json!({"role": null}));
        assert_eq!(patch["annotations"][ADDED_METADATA_ANNOTATION], Value::Null);
    }

    #[test]
    fn a_forged_record_removes_no_key_of_the_controller_and_has_a_limited_size() {
        let many = (0..100).map(|number| format!("key-{number}"));
        let keys: Vec<String> = [
            "serin.dev/revision".to_owned(),
            "pod-template-hash".to_owned(),
        ]
        .into_iter()
        .chain(["x".repeat(1_000)])
        .chain(many)
        .collect();
        let keys = keys.join(",");
        let long = "f".repeat(100_000);
        let get = |name: &str| {
            Some(if name == ADDED_METADATA_ANNOTATION {
                &*long
            } else {
                &*keys
            })
        };
        let record = AddedMetadata::from_annotations(get).unwrap();
        assert_eq!(record.labels.len(), MAX_ENTRIES);
        assert!(
            record.labels.iter().all(|key| key.starts_with("key-")),
            "{record:?}"
        );
        assert_eq!(record.hash.len(), 2 * HASH_BYTES);
    }

    #[test]
    fn the_hash_is_stable_and_differs_for_every_content() {
        let canary = side(&json!({"role": "canary"}), &json!({}));
        // A change of this value would patch every pod of a fleet during an upgrade.
        assert_eq!(canary.hash().len(), 2 * HASH_BYTES);
        assert_ne!(
            canary.hash(),
            side(&json!({"role": "stable"}), &json!({})).hash()
        );
        assert_ne!(
            canary.hash(),
            side(&json!({}), &json!({"role": "canary"})).hash()
        );
        assert!(side(&json!({}), &json!({})).is_empty() && !canary.is_empty());
    }

    #[test]
    fn a_template_of_the_wrong_types_is_left_to_the_api_server() {
        let canary = side(&json!({"role": "canary"}), &json!({}));
        for template in [
            json!(null),
            json!("x"),
            json!({"metadata": 7}),
            json!({"metadata": {"labels": []}}),
        ] {
            let mut removed = template.clone();
            remove(&mut removed);
            assert_eq!(removed, template);
            assert!(template_patch(&template, Some(&canary)).is_object());
        }
    }
}
