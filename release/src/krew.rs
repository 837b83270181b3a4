//! The manifest of the plugin for krew (<https://krew.sigs.k8s.io/docs/developer-guide/>).

use anyhow::Result;
use serde_json::json;

use crate::programs::Architecture;

/// The archive of the plugin for one architecture.
pub(crate) struct Plugin {
    pub(crate) architecture: Architecture,
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// The manifest. krew installs one program per plugin, so that it has `kubectl serin promote` and
/// `kubectl serin abort`, but not the short forms.
pub(crate) fn manifest(version: &str, download_url: &str, plugins: &[Plugin]) -> Result<String> {
    let url = download_url.trim_end_matches('/');
    let platforms: Vec<_> = plugins
        .iter()
        .map(|plugin| {
            json!({
                "selector": {"matchLabels": {
                    "os": "linux",
                    "arch": plugin.architecture.go_name(),
                }},
                "uri": format!("{url}/{}", plugin.file),
                "sha256": plugin.sha256,
                "bin": "kubectl-serin",
                "files": [
                    {"from": "kubectl-serin", "to": "."},
                    {"from": "LICENSE", "to": "."},
                ],
            })
        })
        .collect();
    let manifest = json!({
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "serin"},
        "spec": {
            "version": format!("v{version}"),
            "shortDescription": "Follow, promote and abort canary releases",
            "description": "Shows the releases of Serin's Rollouts with their evidence, and \
                            promotes, aborts, pauses, explains, simulates and replays them.",
            "platforms": platforms,
        },
    });
    Ok(serde_saphyr::to_string(&manifest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_its_archive_and_checksum() {
        let plugins = [Architecture::Amd64, Architecture::Arm64].map(|architecture| Plugin {
            architecture,
            file: format!(
                "kubectl-serin-1.2.3-linux-{}.tar.gz",
                architecture.go_name()
            ),
            sha256: "00".repeat(32),
        });
        let text = manifest("1.2.3", "https://example.org/v1/", &plugins).unwrap();
        let manifest: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(manifest["spec"]["version"], "v1.2.3");
        let platform = &manifest["spec"]["platforms"][1];
        assert_eq!(platform["selector"]["matchLabels"]["arch"], "arm64");
        assert_eq!(
            platform["uri"],
            "https://example.org/v1/kubectl-serin-1.2.3-linux-arm64.tar.gz"
        );
        assert_eq!(platform["sha256"], "00".repeat(32));
    }
}
