//! `cargo xtask codegen`: writes the files that are generated from the Rust types, or checks that
//! they are up to date.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::reference;

const HEADER: &str =
    "# Generated from the types in crds/src by `cargo xtask codegen`. Do not edit.\n";
/// The folders with the CustomResourceDefinitions. Helm installs the second one with the chart.
const FOLDERS: [&str; 2] = ["crds/yaml", "charts/serin/crds"];

/// Writes every generated file. With `check` it only compares, and fails if a file differs.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = workspace_root()?;
    let mut outdated = Vec::new();
    let for_tools = serin_gitops::files()?.into_iter();
    let for_tools = for_tools.map(|(path, text)| (PathBuf::from(path), text));
    let files = crd_files()?.into_iter().chain(reference::pages()?);
    let files = files.chain(for_tools);
    for (path, text) in files {
        let file = root.join(&path);
        if fs::read_to_string(&file).is_ok_and(|found| found == text) {
            continue;
        }
        if check {
            outdated.push(path.display().to_string());
            continue;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {}", path.display());
    }
    if !outdated.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask codegen` and commit the result",
            outdated.join(", ")
        );
    }
    Ok(())
}

/// The CustomResourceDefinitions: path from the workspace root, and content.
fn crd_files() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for crd in serin_crds::crds() {
        // A JSON value sorts the keys of every object, independently of their order in the Rust
        // types.
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
    fn committed_files_are_up_to_date() {
        run(true).unwrap();
    }

    #[test]
    fn generated_folders_hold_generated_files_only() {
        let root = workspace_root().unwrap();
        let expected = crd_files().unwrap();
        for folder in FOLDERS {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = Path::new(folder).join(entry.unwrap().file_name());
                assert!(
                    expected.iter().any(|(file, _)| *file == path),
                    "{} is no longer generated: delete it",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn the_yaml_parses_to_the_same_definitions() {
        let generated: Vec<_> = crd_files()
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
