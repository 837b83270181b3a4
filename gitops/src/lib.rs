//! Files for tools that handle Rollouts: Kustomize, Argo CD and editors.
//!
//! `gitops/kustomize` and the Lua scripts in `gitops/argocd` are written by hand. [`files`] generates
//! the others from the CustomResourceDefinitions and the scripts. The tests run the real Kustomize
//! and a real Lua.

#![warn(missing_docs)]

pub mod argocd;
pub mod json_schema;

/// The generated files: path from the root of the workspace, and content.
///
/// # Errors
/// A schema has no JSON form.
pub fn files() -> Result<Vec<(String, String)>, serde_json::Error> {
    let mut files = json_schema::files()?;
    let (path, text) = argocd::config_map();
    files.push((path.to_owned(), text));
    Ok(files)
}
