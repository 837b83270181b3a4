//! Determines who set `spec.replicas`. If a manifest omits the field, the API server sets the
//! default of the schema, so the value alone is not sufficient. `metadata.managedFields` identifies
//! the client, as far as clients can be distinguished.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::ObjectMeta;
use serde_json::Value;
use serin_core::observed::ReplicasSource;

/// The schema's default of `spec.replicas`.
const DEFAULT_REPLICAS: i64 = 1;
/// Where `kubectl apply` (without `--server-side`) keeps the manifest that was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Derives who set `spec.replicas` from the metadata, as the API server sent it, and the raw spec.
///
/// - `Default`: the only owner applied client-side, and the manifest that was applied last has no
///   `spec.replicas`. The API server counts a default as written by the client whose create or
///   update it completed.
/// - `Unowned`: the field has its default and nobody owns it, as after a server-side apply of a
///   manifest without the field.
/// - `Scaled`: every owner wrote it through the `scale` subresource (an autoscaler, `kubectl
///   scale`), or nobody owns a value that is not the default. The API server does not record who
///   scales a field that nobody owned before.
/// - `Declared`: everything else. A plain create, update or patch (Helm 3, `kubectl edit`, `kubectl
///   replace`) looks the same whether the client wrote 1 or left the field out, so it counts as a
///   declaration.
pub fn replicas_source(metadata: &ObjectMeta, spec: &Value) -> ReplicasSource {
    let replicas = match spec.get("replicas") {
        // A CRD from before the default.
        None | Some(Value::Null) => return ReplicasSource::Default,
        Some(replicas) => replicas,
    };
    let owners: Vec<&ManagedFieldsEntry> = metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| owns(entry, &["f:spec", "f:replicas"]))
        .collect();
    let is_default = replicas.as_i64() == Some(DEFAULT_REPLICAS);
    if owners.is_empty() && is_default {
        return ReplicasSource::Unowned;
    }
    if owners
        .iter()
        .all(|owner| owner.subresource.as_deref() == Some("scale"))
    {
        return ReplicasSource::Scaled;
    }
    match owners.as_slice() {
        [owner]
            if is_default
                && applied_client_side(owner)
                && last_applied_leaves_out_replicas(metadata) =>
        {
            ReplicasSource::Default
        }
        _ => ReplicasSource::Declared,
    }
}

fn applied_client_side(owner: &ManagedFieldsEntry) -> bool {
    owner.operation.as_deref() == Some("Update")
        && owner.subresource.as_deref().unwrap_or_default().is_empty()
        && owns(
            owner,
            &["f:metadata", "f:annotations", &format!("f:{LAST_APPLIED}")],
        )
}

fn last_applied_leaves_out_replicas(metadata: &ObjectMeta) -> bool {
    let applied = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(LAST_APPLIED));
    let applied = applied.and_then(|text| serde_json::from_str::<Value>(text).ok());
    applied
        .is_some_and(|applied| applied["spec"].is_object() && applied["spec"]["replicas"].is_null())
}

/// Whether the entry owns the field at this path of FieldsV1 keys.
fn owns(entry: &ManagedFieldsEntry, path: &[&str]) -> bool {
    let mut fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    for key in path {
        fields = fields.and_then(|fields| fields.get(*key));
    }
    fields.is_some()
}

#[cfg(test)]
mod tests;
