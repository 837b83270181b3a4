//! The example manifests: the API server accepts each of them unchanged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Discovery;
use kube::{Api, Client};
use serde_json::Value;

use crate::env::Env;
use crate::note;
use crate::shop::Shop;

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "invalid") {
            yaml_files(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    Ok(())
}

/// Applies a document in the namespace of the case. Returns false if the cluster does not have its
/// kind.
async fn apply(
    client: &Client,
    known: &Discovery,
    namespace: &str,
    object: &Value,
) -> Result<bool> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let Some((_, capabilities)) = known.resolve_gvk(&kind) else {
        return Ok(false);
    };
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match capabilities.scope {
        kube::discovery::Scope::Namespaced => {
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
        kube::discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
    };
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    // Cluster-scoped objects are applied as a dry run, so that nothing is left behind.
    let mut parameters = PatchParams::apply("serin-e2e").force();
    parameters.dry_run = capabilities.scope == kube::discovery::Scope::Cluster;
    api.patch(&name, &parameters, &Patch::Apply(&object))
        .await?;
    Ok(true)
}

/// # Errors
/// If the API server rejects an example.
pub async fn every_example_manifest_is_accepted(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-examples").await?;
    let known = Discovery::new(env.client.clone()).run().await?;
    let mut files = Vec::new();
    yaml_files(&env.checkout.join("examples"), &mut files)?;
    let (mut applied, mut unknown) = (0, 0);
    for path in &files {
        let text = std::fs::read_to_string(path)?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())?;
        for object in documents.iter().filter(|object| object["kind"].is_string()) {
            let done = apply(&env.client, &known, &shop.namespace, object).await;
            if done.with_context(|| format!("{}: {}", path.display(), object["kind"]))? {
                applied += 1;
            } else {
                unknown += 1;
            }
        }
    }
    note!(
        "{applied} objects of {} files applied; {unknown} of kinds that this cluster does not have",
        files.len()
    );
    ensure!(applied >= 5, "too few objects: {applied}");
    shop.delete().await
}
