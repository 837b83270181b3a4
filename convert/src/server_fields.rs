//! Fields of objects of a cluster that their authors did not write.

use serde_json::{Map, Value};

/// Metadata that the API server sets. It refuses an apply with an old `resourceVersion`.
const METADATA: [&str; 6] = [
    "managedFields",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
];

/// Prefixes of the annotations of other controllers and clients, which mean nothing to Serin.
const FOREIGN_ANNOTATIONS: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "rollout.argoproj.io/",
    "deployment.kubernetes.io/",
    "rollouts.kruise.io/",
    "notifications.argoproj.io/",
];

/// Removes what the API server sets: the status and a part of the metadata. Returns whether there
/// was any of it.
pub fn remove_server_fields(object: &mut Value) -> bool {
    let fields = object.as_object_mut();
    let mut removed = fields.is_some_and(|fields| fields.remove("status").is_some());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in METADATA {
            removed |= metadata.remove(field).is_some();
        }
    }
    removed
}

/// Removes the annotations of other controllers and clients from the metadata of an object.
pub(crate) fn remove_foreign_annotations(metadata: &mut Map<String, Value>) {
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else {
        return;
    };
    let is_foreign = |key: &str| {
        let mut prefixes = FOREIGN_ANNOTATIONS.iter();
        prefixes.any(|prefix| key.starts_with(prefix))
    };
    annotations.retain(|key, _| !is_foreign(key));
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_server_sets_is_removed() {
        let written = json!({
            "kind": "Service",
            "metadata": {"name": "shop", "labels": {"uid": "1"}, "ownerReferences": []},
            "spec": {"status": "kept"},
        });
        let mut object = written.clone();
        assert!(!remove_server_fields(&mut object));
        for field in METADATA {
            object["metadata"][field] = json!("1");
        }
        object["status"] = json!({});
        assert!(remove_server_fields(&mut object));
        assert_eq!(object, written);
        assert!(!remove_server_fields(&mut json!("text")));
    }

    #[test]
    fn annotations_without_a_rest_are_removed_as_a_whole() {
        let mut metadata = Map::new();
        metadata.insert(
            "annotations".to_owned(),
            json!({"deployment.kubernetes.io/revision": "2", "team": "web"}),
        );
        remove_foreign_annotations(&mut metadata);
        assert_eq!(metadata["annotations"], json!({"team": "web"}));
        metadata["annotations"] = json!({"deployment.kubernetes.io/revision": "2"});
        remove_foreign_annotations(&mut metadata);
        assert!(metadata.is_empty(), "{metadata:?}");
    }
}
