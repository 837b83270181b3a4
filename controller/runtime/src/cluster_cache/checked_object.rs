//! Decodes objects one by one, so that one that is invalid does not hide the others.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::core::error_boundary::InvalidObject;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of a list or of a watch, or why it cannot be decoded.
///
/// This is kube's `DeserializeGuard` without its intermediate trees, of which it builds two for each
/// object. Most of a pod is skipped, and the trees cost more CPU time and memory than all else that
/// is done with it. It can only be decoded from JSON text in which the `type` of a watch event
/// precedes its `object`. API servers write the fields of an event in this order.
#[derive(Clone, Debug)]
pub struct CheckedObject<K>(pub Result<K, InvalidObject>);

impl<'de, K: DeserializeOwned + Resource> Deserialize<'de> for CheckedObject<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let problem = match serde_json::from_str(text.get()) {
            Ok(object) => return Ok(Self(Ok(object))),
            Err(problem) => problem,
        };
        let partial = serde_json::from_str::<PartialObjectMeta<K>>(text.get());
        let PartialObjectMeta { metadata, .. } = partial.map_err(D::Error::custom)?;
        let error = problem.to_string();
        Ok(Self(Err(InvalidObject { error, metadata })))
    }
}

impl<K: Resource> Resource for CheckedObject<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0
            .as_ref()
            .map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0
            .as_mut()
            .map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};

    use super::*;
    use crate::cluster_cache::pod_object::PodObject;

    const LIST: &str = r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
        {"metadata": {"name": "a", "namespace": "shop"}, "spec": {"nodeName": 7}},
        {"metadata": {"name": "b", "namespace": "shop"}, "spec": {"nodeName": "one", "x": [1.5]}}
    ]}"#;

    #[test]
    fn an_invalid_object_of_a_list_does_not_hide_the_others() {
        let list: ObjectList<CheckedObject<PodObject>> = serde_json::from_str(LIST).unwrap();
        let [invalid, valid] = <[_; 2]>::try_from(list.items).unwrap();
        assert_eq!(invalid.meta().name.as_deref(), Some("a"));
        let problem = invalid.0.unwrap_err().error;
        assert!(problem.contains("invalid type: integer `7`"), "{problem}");
        assert_eq!(valid.0.unwrap().spec.node_name.as_deref(), Some("one"));
    }

    #[test]
    fn an_invalid_object_does_not_end_the_watch() {
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a"},"spec":7}}"#;
        let event: WatchEvent<CheckedObject<PodObject>> = serde_json::from_str(line).unwrap();
        let WatchEvent::Modified(CheckedObject(Err(invalid))) = event else {
            panic!("{event:?}");
        };
        assert_eq!(invalid.metadata.name.as_deref(), Some("a"));
    }
}
