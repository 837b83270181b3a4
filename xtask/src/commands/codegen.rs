//! `cargo xtask codegen`: writes what is generated from the types, or tells that it is out of date.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const HEADER: &str =
    "# Generated from the types in crds/src by `cargo xtask codegen`. Do not edit.\n";
/// The folders that hold the CustomResourceDefinitions: the second is the chart's, which Helm
/// installs from.
const FOLDERS: [&str; 2] = ["crds/yaml", "charts/serin/crds"];

/// Writes every generated file; with `check` it only compares, and fails where one differs.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = workspace_root()?;
    let mut stale = Vec::new();
    for (path, text) in generated()? {
        let file = root.join(&path);
        if fs::read_to_string(&file).is_ok_and(|found| found == text) {
            continue;
        }
        if check {
            stale.push(path.display().to_string());
            continue;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {}", path.display());
    }
    if !stale.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask codegen` and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Every generated file, by its path from the root of the workspace.
fn generated() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for crd in serin_crds::crds() {
        // By way of a JSON value, so that every object's keys are in order whatever order the types
        // declare them in.
        let value = serde_json::to_value(&crd)?;
        let text = format!("{HEADER}{}", serde_saphyr::to_string(&value)?);
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        files.extend(
            FOLDERS
                .iter()
                .map(|folder| (Path::new(folder).join(&name), text.clone())),
        );
    }
    Ok(files)
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not inside the workspace")?;
    Ok(root.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_types_generate() {
        run(true).unwrap();
    }

    #[test]
    fn no_generated_folder_holds_anything_else() {
        let root = workspace_root().unwrap();
        let expected = generated().unwrap();
        for folder in FOLDERS {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = Path::new(folder).join(entry.unwrap().file_name());
                assert!(
                    expected.iter().any(|(file, _)| *file == path),
                    "{} is generated no more: delete it",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn the_yaml_reads_back_as_the_same_definitions() {
        let generated: Vec<_> = generated()
            .unwrap()
            .into_iter()
            .step_by(FOLDERS.len())
            .collect();
        for (crd, (path, text)) in serin_crds::crds().iter().zip(generated) {
            let found: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(
                found,
                serde_json::to_value(crd).unwrap(),
                "{}",
                path.display()
            );
        }
    }
}
