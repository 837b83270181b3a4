//! The software bill of materials: CycloneDX 1.5 as JSON
//! (<https://cyclonedx.org/docs/1.5/json/>).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

/// The packages whose programs are released.
const ROOTS: [&str; 2] = ["serin-controller", "serin-kubectl"];

/// The output of `cargo metadata`.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    license: Option<String>,
    /// None for packages of the workspace.
    pub(crate) source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for normal dependencies, otherwise `build` or `dev`.
    kind: Option<String>,
}

/// `Cargo.lock`, whose checksums `cargo metadata` omits.
struct Checksums(BTreeMap<(String, String), String>);

impl Checksums {
    fn read(lock: &str) -> Self {
        let value = |block: &str, key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim().trim_matches('"').to_owned())
        };
        let packages = lock.split("[[package]]").filter_map(|block| {
            let name = value(block, "name =")?;
            let version = value(block, "version =")?;
            Some(((name, version), value(block, "checksum =")?))
        });
        Self(packages.collect())
    }
}

impl Metadata {
    /// The packages of a checkout as they are built for `target`.
    pub(crate) async fn read(checkout: &Path, target: &str) -> Result<Self> {
        let output = Command::new("cargo")
            .current_dir(checkout)
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", target])
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("the output of cargo metadata")
    }

    /// Ids of the packages that this package links. Build and development dependencies are not in a
    /// program.
    pub(crate) fn normal_dependencies(&self, id: &str) -> impl Iterator<Item = &str> {
        let node = self.resolve.nodes.iter().find(|node| node.id == id);
        let dependencies = node.map_or(&[][..], |node| &node.deps);
        dependencies
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
            .map(|dependency| dependency.pkg.as_str())
    }
}

/// The bill of the released programs: everything that is linked into one of them.
pub(crate) async fn for_workspace(checkout: &Path, version: &str) -> Result<String> {
    let metadata = Metadata::read(checkout, "x86_64-unknown-linux-gnu").await?;
    let lock = std::fs::read_to_string(checkout.join("Cargo.lock"))?;
    let bill = bill(&metadata, &Checksums::read(&lock), version);
    Ok(serde_json::to_string_pretty(&bill)?)
}

fn bill(metadata: &Metadata, checksums: &Checksums, version: &str) -> Value {
    let linked = linked_packages(metadata, &ROOTS);
    let mut components: Vec<(String, Value)> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(package.id.as_str()) && package.source.is_some())
        .map(|package| (package_url(package), component(package, checksums)))
        .collect();
    components.sort_by(|one, other| one.0.cmp(&other.0));
    let components: Vec<Value> = components.into_iter().map(|(_, value)| value).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "serin",
            "version": version,
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components,
    })
}

fn component(package: &Package, checksums: &Checksums) -> Value {
    let url = package_url(package);
    let mut component = json!({
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
    });
    if let Some(license) = &package.license {
        // Old manifests separate alternatives by a slash, which SPDX does not have.
        let license = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": license}]);
    }
    let key = (package.name.clone(), package.version.clone());
    if let Some(checksum) = checksums.0.get(&key) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn package_url(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// Ids of the packages that the programs of `roots` contain.
pub(crate) fn linked_packages<'a>(metadata: &'a Metadata, roots: &[&str]) -> BTreeSet<&'a str> {
    let mut open: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| roots.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = open.pop() {
        if linked.insert(id) {
            open.extend(metadata.normal_dependencies(id));
        }
    }
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_has_what_is_linked_with_version_license_and_hash() {
        let package = |name: &str, source: Option<&str>| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "source": source})
        };
        let dependency =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata: Metadata = serde_json::from_value(json!({
            "packages": [package("serin-controller", None), package("linked", Some("registry")),
                package("below", Some("registry")), package("tests", Some("registry"))],
            "resolve": {"nodes": [
                {"id": "serin-controller", "deps": [dependency("linked", None),
                    dependency("tests", Some("dev"))]},
                {"id": "linked", "deps": [dependency("below", None)]},
                {"id": "below", "deps": []},
                {"id": "tests", "deps": []},
            ]},
        }))
        .unwrap();
        let lock = "[[package]]\nname = \"below\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let bill = bill(&metadata, &Checksums::read(lock), "0.1.0");
        let names: Vec<_> = bill["components"].as_array().unwrap().iter().collect();
        assert_eq!(names.len(), 2, "{bill}");
        assert_eq!(names[0]["purl"], "pkg:cargo/below@1.0.0");
        assert_eq!(names[0]["hashes"][0]["content"], "abc");
        assert_eq!(names[1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
