//! The CustomResourceDefinitions of these types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Rollout, RolloutCommand};

/// Annotations that keep tools from deleting or replacing a CustomResourceDefinition: with it goes
/// every Rollout, and with them all their pods.
const KEPT: [(&str, &str); 3] = [
    (
        "argocd.argoproj.io/sync-options",
        "Prune=false,Delete=false,Replace=false",
    ),
    ("helm.sh/resource-policy", "keep"),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];

/// Every CustomResourceDefinition of Serin, as `crds/yaml` holds them and a cluster gets them.
///
/// They differ from [`CustomResourceExt::crd`] in what the derive cannot leave out: no field is
/// nullable (so that `pause:` without a value is refused instead of read as no step at all), none
/// but `spec.replicas` of a Rollout has a default (the user's spec is never written), and no number
/// has a format that the API server does not know.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![Rollout::crd(), RolloutCommand::crd()];
    for crd in &mut crds {
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.extend(KEPT.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    for schema in
        versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
    {
        tidy(schema);
        default_replicas(schema);
    }
    crds
}

/// Without a default the API server cannot answer `/scale` of a Rollout that leaves `spec.replicas`
/// out, and an autoscaler could never take over.
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

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.format.take_if(|format| format.starts_with("uint"));
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, property)| tidy(property));
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
