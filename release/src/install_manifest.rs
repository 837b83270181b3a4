//! The chart as a package, and as one manifest for people without Helm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::archive::Archive;

/// Namespace of the manifest.
const NAMESPACE: &str = "serin-system";
/// Values of the chart that a release sets.
const REPOSITORY_LINE: &str = "  repository: serin.local/controller\n";
const DIGEST_LINE: &str = "  digest: \"\"\n";

/// The chart of a release.
pub(crate) struct ChartOptions {
    /// Folder of the chart.
    pub(crate) chart: PathBuf,
    /// Name of the image without a tag.
    pub(crate) image_repository: String,
    /// Digest of the image, for example `sha256:0123...`.
    pub(crate) image_digest: String,
}

impl ChartOptions {
    /// The package, in which the image of the release is the default.
    pub(crate) fn package(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for path in files(&self.chart)? {
            let name = path
                .strip_prefix(&self.chart)?
                .to_string_lossy()
                .into_owned();
            let content = std::fs::read(&path)?;
            let content = if name == "values.yaml" {
                self.values(&String::from_utf8(content)?)?.into_bytes()
            } else {
                content
            };
            archive.add(&format!("serin/{name}"), 0o644, &content)?;
        }
        archive.finish()
    }

    /// The values of the chart with the image of the release. The digest is set, so that the
    /// controller that runs is the one that was released.
    fn values(&self, text: &str) -> Result<String> {
        for line in [REPOSITORY_LINE, DIGEST_LINE] {
            ensure!(
                text.matches(line).count() == 1,
                "values.yaml must contain the line {:?} once",
                line.trim()
            );
        }
        let repository = format!("  repository: {}\n", self.image_repository);
        let digest = format!("  digest: {}\n", self.image_digest);
        Ok(text
            .replace(REPOSITORY_LINE, &repository)
            .replace(DIGEST_LINE, &digest))
    }

    /// CustomResourceDefinitions, namespace and rendered chart.
    pub(crate) async fn render(&self, helm: &Path) -> Result<String> {
        let output = Command::new(helm)
            .args(["template", "serin"])
            .arg(&self.chart)
            .args(["--namespace", NAMESPACE, "--include-crds", "--no-hooks"])
            .args(["--kube-version", "1.33.0"])
            .args([
                "--set",
                &format!("image.repository={}", self.image_repository),
            ])
            .args(["--set", &format!("image.digest={}", self.image_digest)])
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {}", helm.display()))?;
        if !output.status.success() {
            bail!(
                "helm template: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let rendered = String::from_utf8(output.stdout)?;
        Ok(format!(
            "# kubectl apply --server-side -f install.yaml\n{}---\n{rendered}",
            namespace()
        ))
    }
}

/// The namespace of the controller with the strictest pod security.
fn namespace() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n"
    )
}

#[derive(Deserialize)]
struct Chart {
    version: String,
    #[serde(rename = "appVersion")]
    app_version: String,
}

/// The version in a `Chart.yaml`, which must be the one of the application as well.
pub(crate) fn chart_version(text: &str) -> Result<String> {
    let chart: Chart = serde_saphyr::from_str(text).context("Chart.yaml")?;
    ensure!(
        chart.version == chart.app_version,
        "Chart.yaml has version {} and appVersion {}: set both to the same",
        chart.version,
        chart.app_version
    );
    Ok(chart.version)
}

/// All files in a folder, sorted by path.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn options() -> ChartOptions {
        ChartOptions {
            chart: Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/serin"),
            image_repository: "registry.example/serin".into(),
            image_digest: "sha256:0123".into(),
        }
    }

    #[test]
    fn the_package_of_the_chart_uses_the_image_of_the_release() {
        let package = options().package().unwrap();
        assert_eq!(package, options().package().unwrap());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&package[..]));
        let mut values = String::new();
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if name == "serin/values.yaml" {
                entry.read_to_string(&mut values).unwrap();
            }
            names.push(name);
        }
        let values: serde_json::Value = serde_saphyr::from_str(&values).unwrap();
        assert_eq!(values["image"]["repository"], "registry.example/serin");
        assert_eq!(values["image"]["digest"], "sha256:0123");
        for name in ["serin/Chart.yaml", "serin/crds/serin.dev_rollouts.yaml"] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
    }

    #[test]
    fn a_chart_whose_values_have_changed_is_not_packaged_with_the_wrong_image() {
        let error = options()
            .values("image:\n  repository: other\n")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("repository: serin.local/controller"),
            "{error}"
        );
    }

    #[test]
    fn different_versions_of_chart_and_application_are_refused() {
        assert_eq!(
            chart_version("version: 1.0.0\nappVersion: 1.0.0\n").unwrap(),
            "1.0.0"
        );
        let error = chart_version("version: 1.0.0\nappVersion: 1.1.0\n").unwrap_err();
        assert!(error.to_string().contains("1.1.0"), "{error}");
    }
}
