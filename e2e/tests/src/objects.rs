//! Applying objects of any kind, as `kubectl apply --server-side` does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

const FIELD_MANAGER: &str = "serin-e2e";
/// Maximum time for a kind to be served after its definition was applied.
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(30);

/// The API of an object's kind, in the namespace of the object if it has one.
pub fn api(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Applies an object.
///
/// # Errors
/// If the API server rejects it.
pub async fn apply(client: &Client, object: &Value) -> Result<DynamicObject> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api(client, object)
        .patch(name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("cannot apply {} {name}", object["kind"]))
}

/// Applies the `CustomResourceDefinition`s of a file, or of all files of a folder, and waits until
/// they are served.
///
/// # Errors
/// If a file is not readable, or if a kind is not served in time.
pub async fn apply_crds(client: &Client, path: &Path) -> Result<()> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
        files = entries.iter().map(std::fs::DirEntry::path).collect();
    }
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("cannot read {}", file.display()))?;
        for document in documents {
            if document["kind"] == "CustomResourceDefinition" {
                apply_crd(client, serde_json::from_value(document)?).await?;
            }
        }
    }
    Ok(())
}

/// Applies a `CustomResourceDefinition` and waits until it is served.
///
/// # Errors
/// If the kind is not served in time.
pub async fn apply_crd(client: &Client, crd: CustomResourceDefinition) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let name = crd.name_any();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&crd)).await?;
    let established = await_condition(api, &name, conditions::is_crd_established());
    tokio::time::timeout(ESTABLISHED_TIMEOUT, established)
        .await
        .with_context(|| format!("{name} is not served after {ESTABLISHED_TIMEOUT:?}"))??;
    Ok(())
}
