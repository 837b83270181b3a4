//! Services whose selectors Argo Rollouts has changed.

use serde_json::Value;
use serin_crds::names::ARGO_TEMPLATE_HASH_LABEL;

use crate::note::Translation;
use crate::server_fields::remove_server_fields;

/// The annotation of Argo Rollouts with the Rollout that a Service belongs to.
const MANAGED_BY: &str = "argo-rollouts.argoproj.io/managed-by-rollouts";

/// A Service of a cluster as its author wrote it. `None` if Argo Rollouts has not changed it.
pub(crate) fn convert(service: &Value) -> Option<Translation> {
    let selector = service["spec"]["selector"].as_object()?;
    if !selector.contains_key(ARGO_TEMPLATE_HASH_LABEL) {
        return None;
    }
    let mut written = service.clone();
    let mut remove = |fields: &str, name: &str| {
        let fields = written.pointer_mut(fields).and_then(Value::as_object_mut);
        fields.and_then(|fields| fields.remove(name));
    };
    remove("/spec/selector", ARGO_TEMPLATE_HASH_LABEL);
    remove("/metadata/annotations", MANAGED_BY);
    remove_server_fields(&mut written);
    let mut translation = Translation::default();
    translation.outputs.push(written);
    translation.notes.kept(
        format!("spec.selector.{ARGO_TEMPLATE_HASH_LABEL}"),
        "Argo Rollouts sets it, and removes it when its Rollout is deleted",
    );
    Some(translation)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_argo_rollouts_set_in_a_service_is_removed() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "shop", "uid": "1", "resourceVersion": "2",
                "annotations": {"team": "web", MANAGED_BY: "shop"},
            },
            "spec": {
                "clusterIP": "10.0.0.7",
                "selector": {"app": "shop", ARGO_TEMPLATE_HASH_LABEL: "6589dbfbcd"},
            },
            "status": {"loadBalancer": {}},
        });
        let translation = convert(&service).unwrap();
        let written = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "shop", "annotations": {"team": "web"}},
            "spec": {"clusterIP": "10.0.0.7", "selector": {"app": "shop"}},
        });
        assert_eq!(translation.outputs, std::slice::from_ref(&written));
        assert!(convert(&written).is_none());
        assert!(convert(&json!({"spec": {}})).is_none());
    }
}
