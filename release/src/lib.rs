//! Builds everything that users install, from one commit and without a container engine.
//!
//! Every file depends only on the commit, the version of the compiler and the options: times, users
//! and paths of the machine are replaced. Building the same commit twice gives the same checksums. Each
//! program contains the list of its dependencies, as `cargo auditable` writes it.
//!
//! | file | content |
//! |---|---|
//! | `serin-controller-VERSION.oci.tar` | image for both architectures, an OCI layout |
//! | `serin-VERSION.tgz` | chart |
//! | `install.yaml` | CustomResourceDefinitions, namespace and the chart with its defaults |
//! | `kubectl-serin-VERSION-linux-ARCH.tar.gz` | plugin: `kubectl-serin`, `kubectl-promote`, `kubectl-abort` |
//! | `serin.yaml` | manifest for krew |
//! | `serin-VERSION.cdx.json` | software bill of materials, CycloneDX 1.5 |
//! | `SHA256SUMS` | checksums of all other files |

mod archive;
mod bill_of_materials;
mod checksums;
mod dependency_list;
mod install_manifest;
mod krew;
mod programs;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serin_cluster::{Image, ImageBinary, sha256_hex};

use archive::Archive;
use install_manifest::ChartOptions;
pub use programs::Architecture;
use programs::Programs;

/// What to build.
#[derive(Clone, Debug)]
pub struct Release {
    /// Root of the checkout.
    pub checkout: PathBuf,
    /// Folder of the results. It is created, and must not contain other files.
    pub out: PathBuf,
    /// Name of the image without a tag, for example `registry.example/serin-controller`.
    pub image_repository: String,
    /// URL of the folder from which people download the archives of the plugin.
    pub download_url: String,
    /// Architectures of the programs.
    pub architectures: Vec<Architecture>,
    /// The program `helm`.
    pub helm: PathBuf,
}

impl Release {
    /// Builds all files. Returns their paths.
    ///
    /// # Errors
    /// If a program does not build, if a tool is missing, or if a file cannot be written.
    pub async fn build(&self) -> Result<Vec<PathBuf>> {
        let version = self.version()?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let is_empty = std::fs::read_dir(&self.out)?.next().is_none();
        ensure!(
            is_empty,
            "{} is not empty: remove it, or set --out to another folder",
            self.out.display()
        );
        let mut programs = Vec::new();
        for architecture in &self.architectures {
            programs.push(Programs::build(&self.checkout, *architecture).await?);
        }
        let digest = self.write_image(&version, &programs)?;
        self.write_chart(&version, &digest).await?;
        let archives = self.write_plugins(&version, &programs)?;
        let manifest = krew::manifest(&version, &self.download_url, &archives)?;
        self.write("serin.yaml", manifest.as_bytes())?;
        let bill = bill_of_materials::for_workspace(&self.checkout, &version).await?;
        self.write(&format!("serin-{version}.cdx.json"), bill.as_bytes())?;
        checksums::write(&self.out)
    }

    /// The version of the chart, which must be that of the workspace.
    fn version(&self) -> Result<String> {
        let path = self.checkout.join("charts/serin/Chart.yaml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let version = install_manifest::chart_version(&text)?;
        let workspace = env!("CARGO_PKG_VERSION");
        ensure!(
            version == workspace,
            "Chart.yaml has version {version}, Cargo.toml has {workspace}: set both to the same"
        );
        Ok(version)
    }

    fn write_image(&self, version: &str, programs: &[Programs]) -> Result<String> {
        let image = Image {
            reference: format!("{}:{version}", self.image_repository),
            binaries: programs
                .iter()
                .map(|programs| ImageBinary {
                    architecture: programs.architecture.go_name(),
                    path: programs.controller.clone(),
                    libraries: Vec::new(),
                })
                .collect(),
        };
        image.write(&self.out.join(format!("serin-controller-{version}.oci.tar")))
    }

    async fn write_chart(&self, version: &str, digest: &str) -> Result<()> {
        let options = ChartOptions {
            chart: self.checkout.join("charts/serin"),
            image_repository: self.image_repository.clone(),
            image_digest: digest.to_owned(),
        };
        let chart = options.package()?;
        self.write(&format!("serin-{version}.tgz"), &chart)?;
        let manifest = options.render(&self.helm).await?;
        self.write("install.yaml", manifest.as_bytes())
    }

    fn write_plugins(&self, version: &str, programs: &[Programs]) -> Result<Vec<krew::Plugin>> {
        let license = std::fs::read(self.checkout.join("LICENSE"))?;
        let mut plugins = Vec::new();
        for programs in programs {
            let mut archive = Archive::default();
            archive.add("LICENSE", 0o644, &license)?;
            for path in &programs.plugin {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                archive.add(&name, 0o755, &std::fs::read(path)?)?;
            }
            let content = archive.finish()?;
            let architecture = programs.architecture;
            let file = format!(
                "kubectl-serin-{version}-linux-{}.tar.gz",
                architecture.go_name()
            );
            self.write(&file, &content)?;
            plugins.push(krew::Plugin {
                sha256: sha256_hex(&content),
                architecture,
                file,
            });
        }
        Ok(plugins)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        write(&self.out.join(name), content)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
