//! Objects of a cluster that Flagger has generated or changed.

use serde_json::{Map, Value, json};

use super::{Names, apex_name};
use crate::note::Translation;
use crate::objects::{ObjectId, Objects};
use crate::rollout::RolloutDraft;
use crate::server_fields::{remove_foreign_annotations, remove_server_fields};
use crate::{Conversion, Outcome};

const CANARY: (&str, &str) = ("flagger.app", "Canary");

/// Annotations that Flagger adds to Services, with the value `disabled`, so that Flux does not apply
/// them.
const FLUX_ANNOTATIONS: [&str; 2] = [
    "kustomize.toolkit.fluxcd.io/reconcile",
    "helm.toolkit.fluxcd.io/driftDetection",
];

/// What becomes of an object that a Canary of the input owns, or that Flagger has changed for it.
/// `None` if Flagger has not touched it.
pub(crate) fn convert(set: &Objects<'_>, source: &ObjectId, object: &Value) -> Option<Conversion> {
    if let Some(canary) = owner(set, object) {
        return Some(convert_owned(set, canary, source, object));
    }
    let canary = user(set, source)?;
    let translation = match source.kind.as_str() {
        "Deployment" if object["spec"]["replicas"] == 0 => scaled_up(set, object),
        "Service" => selecting_target(set, canary, object, false)?,
        _ => return None,
    };
    Some(translation.into_conversion(source.clone()))
}

/// Keeps the objects of Canaries that were not converted. `results` are those of `objects`.
pub(crate) fn keep_unconverted(set: &Objects<'_>, objects: &[Value], results: &mut [Conversion]) {
    let refused: Vec<ObjectId> = results
        .iter()
        .filter(|result| result.outcome == Outcome::NotConverted)
        .map(|result| result.source.clone())
        .filter(|source| source.group_and_kind() == CANARY)
        .collect();
    for (object, result) in objects.iter().zip(results) {
        let canary = owner(set, object).or_else(|| user(set, &result.source));
        if canary.is_some_and(|canary| refused.contains(&ObjectId::new(canary))) {
            result.outcome = Outcome::Unchanged;
            result.outputs.clear();
            result.notes.clear();
        }
    }
}

/// Reports a release in progress or one that has failed: the Deployment, whose pods Serin takes
/// over, has other images than the pods that serve.
pub(super) fn report_other_images(set: &Objects<'_>, names: &Names, draft: &mut RolloutDraft) {
    let namespace = names.namespace.as_deref();
    let primary = primary_name(&names.target);
    let (Some(target), Some(primary)) = (
        set.deployment(namespace, &names.target),
        set.deployment(namespace, &primary),
    ) else {
        return;
    };
    if images(target) != images(primary) {
        draft.notes.changed(
            "spec.targetRef",
            "the Deployment has other images than the pods that serve",
            "wait until the Canary has succeeded; after a failure, set the images of the Deployment \
             to those of its primary; then convert again",
        );
    }
}

/// Whether the input contains the HTTPRoute that Flagger generated for the apex Service.
pub(super) fn has_generated_route(set: &Objects<'_>, names: &Names) -> bool {
    let kind = ("gateway.networking.k8s.io", "HTTPRoute");
    let route = set.find(kind, names.namespace.as_deref(), &names.apex);
    route.is_some_and(|route| owner(set, route).is_some())
}

fn primary_name(name: &str) -> String {
    format!("{name}-primary")
}

fn images(deployment: &Value) -> Vec<&Value> {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
    let containers = containers.into_iter().flatten();
    containers.map(|container| &container["image"]).collect()
}

fn is_canary_reference(reference: &Value) -> bool {
    let version = reference["apiVersion"].as_str().unwrap_or_default();
    reference["kind"] == CANARY.1 && version.split('/').next() == Some(CANARY.0)
}

/// The Canary of the input that owns an object.
fn owner<'a>(set: &Objects<'a>, object: &Value) -> Option<&'a Value> {
    let namespace = object["metadata"]["namespace"].as_str();
    let references = object["metadata"]["ownerReferences"].as_array()?;
    let mut references = references.iter().filter(|owner| is_canary_reference(owner));
    references.find_map(|owner| set.find(CANARY, namespace, owner["name"].as_str()?))
}

/// The Canary of the input whose target is this Deployment, or whose apex Service is this Service.
fn user<'a>(set: &Objects<'a>, id: &ObjectId) -> Option<&'a Value> {
    let namespace = id.namespace.as_deref();
    set.of_kind(CANARY.0, CANARY.1)
        .filter(|canary| crate::objects::is_in(canary, namespace))
        .find(|canary| {
            let target = &canary["spec"]["targetRef"];
            match id.group_and_kind() {
                ("apps", "Deployment") => {
                    target["kind"] == "Deployment" && target["name"] == *id.name
                }
                ("", "Service") => apex_name(canary) == Some(&id.name),
                _ => false,
            }
        })
}

fn convert_owned(
    set: &Objects<'_>,
    canary: &Value,
    source: &ObjectId,
    object: &Value,
) -> Conversion {
    let apex = apex_name(canary).unwrap_or_default();
    let name = source.name.as_str();
    let is_canary_service = name.strip_suffix("-canary") == Some(apex);
    let kept = match source.group_and_kind() {
        ("", "Service") if name == apex => selecting_target(set, canary, object, true),
        ("", "Service") if is_canary_service => {
            let mut translation = service_as_written(object);
            translation.notes.kept(
                "metadata.ownerReferences",
                "it is the canary Service of the Rollout",
            );
            Some(translation)
        }
        ("gateway.networking.k8s.io", "HTTPRoute") if name == apex => {
            return crate::absorbed(source.clone());
        }
        _ => None,
    };
    let Some(kept) = kept else {
        return left_over(canary, source);
    };
    kept.into_conversion(source.clone())
}

/// An object that Serin does not need.
fn left_over(canary: &Value, source: &ObjectId) -> Conversion {
    let name = canary["metadata"]["name"].as_str().unwrap_or_default();
    let mut translation = Translation::default();
    translation.notes.changed(
        "metadata.ownerReferences",
        format!("Flagger generated it for Canary {name}, and the Rollout does not need it"),
        "delete it when the Rollout is healthy",
    );
    Conversion {
        outcome: Outcome::Absorbed,
        ..translation.into_conversion(source.clone())
    }
}

/// An object without what the API server, Flagger and other clients have added.
fn as_written(object: &Value) -> Value {
    let mut written = object.clone();
    remove_server_fields(&mut written);
    let Some(metadata) = written["metadata"].as_object_mut() else {
        return written;
    };
    remove_foreign_annotations(metadata);
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        owners.retain(|owner| !is_canary_reference(owner));
    }
    remove_empty(&mut written["metadata"], "ownerReferences");
    written
}

/// Removes a field that has no content.
fn remove_empty(metadata: &mut Value, field: &str) {
    let is_empty = match &metadata[field] {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        value => value.is_null(),
    };
    if let Some(metadata) = metadata.as_object_mut().filter(|_| is_empty) {
        metadata.remove(field);
    }
}

/// A Service that Flux may apply again.
fn service_as_written(service: &Value) -> Translation {
    let mut translation = Translation::default();
    let mut written = as_written(service);
    if let Some(Value::Object(annotations)) = written["metadata"].get_mut("annotations") {
        let count = annotations.len();
        annotations
            .retain(|key, value| value != "disabled" || !FLUX_ANNOTATIONS.contains(&key.as_str()));
        if annotations.len() < count {
            translation.notes.kept(
                "metadata.annotations",
                "Flagger kept Flux from applying this Service; Flux may apply it now",
            );
        }
    }
    remove_empty(&mut written["metadata"], "annotations");
    translation.outputs.push(written);
    translation
}

/// The target of a Canary with the replicas of its primary.
fn scaled_up(set: &Objects<'_>, object: &Value) -> Translation {
    let mut translation = Translation::default();
    let mut written = as_written(object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let primary = primary_name(name);
    let primary = set.deployment(object["metadata"]["namespace"].as_str(), &primary);
    let replicas = primary.and_then(|primary| primary["spec"]["replicas"].as_u64());
    if let Some(replicas) = replicas.filter(|replicas| *replicas > 0) {
        written["spec"]["replicas"] = json!(replicas);
        translation.notes.kept(
            "spec.replicas",
            format!("Flagger scaled it down to 0, and its primary has {replicas}"),
        );
    } else {
        if let Some(spec) = written["spec"].as_object_mut() {
            spec.remove("replicas");
        }
        translation.notes.changed(
            "spec.replicas",
            "Flagger scaled it down to 0, and its primary is not in the input",
            "set it to the replicas of the primary",
        );
    }
    translation.outputs.push(written);
    translation
}

/// The apex Service with the selector of the target instead of that of the primary. `None` if it
/// does not select the primary.
fn selecting_target(
    set: &Objects<'_>,
    canary: &Value,
    service: &Value,
    is_generated: bool,
) -> Option<Translation> {
    let namespace = service["metadata"]["namespace"].as_str();
    let target = canary["spec"]["targetRef"]["name"].as_str()?;
    let selector = service["spec"]["selector"].as_object()?;
    let labels = set
        .deployment(namespace, target)
        .and_then(|target| target["spec"]["selector"]["matchLabels"].as_object());
    let selects_primary = |labels: &Map<String, Value>| {
        let is_primary = |(key, value): (&String, &Value)| {
            let label = labels.get(key).and_then(Value::as_str);
            label.is_some_and(|label| *value == primary_name(label))
        };
        selector.iter().any(is_primary)
    };
    let corrected = match labels {
        Some(labels) if selects_primary(labels) => labels.clone(),
        None if is_generated => selector.iter().map(without_suffix).collect(),
        _ if is_generated => selector.clone(),
        _ => return None,
    };
    let mut translation = service_as_written(service);
    for written in &mut translation.outputs {
        written["spec"]["selector"] = Value::Object(corrected.clone());
    }
    translation.notes.kept(
        "spec.selector",
        format!("Flagger selects the pods of {target}-primary, and the Rollout those of {target}"),
    );
    Some(translation)
}

/// A label of the primary as that of its target.
fn without_suffix((key, value): (&String, &Value)) -> (String, Value) {
    let label = value.as_str().unwrap_or_default();
    let label = label.strip_suffix("-primary").unwrap_or(label);
    (key.clone(), json!(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn canary() -> Value {
        json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "shop", "namespace": "web"},
            "spec": {"targetRef": {"kind": "Deployment", "name": "shop"}},
        })
    }

    fn deployment(name: &str, replicas: u32) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "web"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"spec": {"containers": [{"image": "shop:1"}]}},
            },
        })
    }

    fn service(name: &str, app: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "web"},
            "spec": {"selector": {"app": app}},
        })
    }

    fn owned(mut object: Value) -> Value {
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "shop", "uid": "1",
            "controller": true, "blockOwnerDeletion": true,
        }]);
        object
    }

    /// The conversion of the last object.
    fn convert_last(objects: &[Value]) -> Option<Conversion> {
        let options = Options::default();
        let set = Objects::new(objects, &options);
        let last = objects.last().unwrap();
        convert(&set, &ObjectId::new(last), last)
    }

    fn output(objects: &[Value]) -> Value {
        let conversion = convert_last(objects).unwrap();
        assert_eq!(conversion.outputs.len(), 1, "{conversion:?}");
        conversion.outputs[0].clone()
    }

    #[test]
    fn the_target_has_the_replicas_of_its_primary() {
        let primary = owned(deployment("shop-primary", 3));
        let target = output(&[canary(), primary, deployment("shop", 0)]);
        assert_eq!(target, deployment("shop", 3));
        let target = output(&[canary(), deployment("shop", 0)]);
        assert!(target["spec"].get("replicas").is_none(), "{target}");
        assert!(convert_last(&[canary(), deployment("shop", 2)]).is_none());
        assert!(convert_last(&[deployment("shop", 0)]).is_none());
    }

    #[test]
    fn the_apex_service_selects_the_target_whoever_created_it() {
        let mut target = deployment("shop", 0);
        target["spec"]["selector"]["matchLabels"]["tier"] = json!("front");
        for apex in [
            service("shop", "shop-primary"),
            owned(service("shop", "shop-primary")),
        ] {
            let written = output(&[canary(), target.clone(), apex]);
            assert_eq!(
                written["spec"]["selector"],
                json!({"app": "shop", "tier": "front"})
            );
            assert!(
                written["metadata"].get("ownerReferences").is_none(),
                "{written}"
            );
        }
        // Without the Deployment, only Flagger can have set the suffix of its own Service.
        let generated = output(&[canary(), owned(service("shop", "shop-primary"))]);
        assert_eq!(generated, service("shop", "shop"));
        assert!(convert_last(&[canary(), service("shop", "shop-primary")]).is_none());
        assert!(convert_last(&[canary(), target, service("shop", "shop")]).is_none());
    }

    #[test]
    fn flux_may_apply_the_services_again() {
        let mut canary_service = owned(service("shop-canary", "shop"));
        canary_service["metadata"]["annotations"] = json!({
            FLUX_ANNOTATIONS[0]: "disabled", FLUX_ANNOTATIONS[1]: "disabled", "team": "web",
        });
        let written = output(&[canary(), canary_service]);
        assert_eq!(written["metadata"]["annotations"], json!({"team": "web"}));
    }

    #[test]
    fn what_flagger_generated_is_left_out_except_for_the_canary_service() {
        assert_eq!(
            output(&[canary(), owned(service("shop-canary", "shop"))]),
            service("shop-canary", "shop")
        );
        for object in [
            owned(service("shop-primary", "shop-primary")),
            owned(deployment("shop-primary", 3)),
        ] {
            let conversion = convert_last(&[canary(), object]).unwrap();
            assert_eq!(conversion.outcome, Outcome::Absorbed);
            assert!(conversion.outputs.is_empty());
            assert_eq!(
                conversion.notes[0].fix,
                "delete it when the Rollout is healthy"
            );
        }
        assert!(convert_last(&[canary(), deployment("shop-primary", 3)]).is_none());
        assert!(convert_last(&[owned(deployment("shop-primary", 3))]).is_none());
    }

    #[test]
    fn objects_of_a_canary_that_is_not_converted_are_kept() {
        let primary = owned(deployment("shop-primary", 3));
        let objects = [canary(), primary, deployment("shop", 0)];
        // The Canary has no weights.
        let results = crate::convert(&objects, &Options::default());
        assert_eq!(results[0].outcome, Outcome::NotConverted);
        for result in &results[1..] {
            assert_eq!(result.outcome, Outcome::Unchanged, "{result:?}");
            assert!(
                result.outputs.is_empty() && result.notes.is_empty(),
                "{result:?}"
            );
        }
    }
}
