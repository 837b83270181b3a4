//! Generation of the CustomResourceDefinitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{AnalysisTemplate, Rollout, RolloutCommand, RolloutPolicy};

/// Annotations that prevent tools from deleting or replacing a CustomResourceDefinition, because
/// that would delete every Rollout and all of their pods.
const KEEP_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "argocd.argoproj.io/sync-options",
        "Prune=false,Delete=false,Replace=false",
    ),
    ("helm.sh/resource-policy", "keep"),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];

/// All CustomResourceDefinitions of Serin, as published in `crds/yaml`.
///
/// They differ from [`CustomResourceExt::crd`] as follows:
/// - No field is nullable, so that `pause:` without a value is rejected instead of ignored.
/// - Only `spec.replicas` of a Rollout has a default, so that the API server changes nothing else
///   in the user's spec.
/// - Number formats that the API server does not know are removed.
/// - Each status has one owner as a whole. With an owner for each of its fields, which is the
///   default, the API server compares and stores hundreds of names with each write.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        Rollout::crd(),
        RolloutCommand::crd(),
        RolloutPolicy::crd(),
        AnalysisTemplate::crd(),
    ];
    for crd in &mut crds {
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations
            .extend(KEEP_ANNOTATIONS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    for schema in
        versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
    {
        normalize(schema);
        default_replicas(schema);
        own_status_as_a_whole(schema);
    }
    crds
}

/// Sets the default of `spec.replicas`. Without it the `/scale` subresource fails if the field is
/// unset, so that an autoscaler can never take over.
fn default_replicas(schema: &mut JSONSchemaProps) {
    let spec = schema
        .properties
        .as_mut()
        .and_then(|properties| properties.get_mut("spec"));
    let replicas = spec.and_then(|spec| spec.properties.as_mut()?.get_mut("replicas"));
    if let Some(replicas) = replicas {
        replicas.default = Some(JSON(1.into()));
    }
}

/// Only the controller writes a status.
fn own_status_as_a_whole(schema: &mut JSONSchemaProps) {
    let properties = schema.properties.as_mut();
    if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
        status.x_kubernetes_map_type = Some("atomic".to_owned());
    }
}

fn normalize(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.format.take_if(|format| format.starts_with("uint"));
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, property)| normalize(property));
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => normalize(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(normalize),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        normalize(values);
    }
}
