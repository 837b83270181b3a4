//! The programs of the cluster: pinned, built once, and shared between checkouts.
//!
//! Each set of programs has a folder in the cache, whose name has a digest of the pinned versions.
//! A program is moved there when it is complete, so that an interrupted build repeats only that
//! program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::host::{command, last_lines, run};
use crate::instance::hex;
use crate::progress::{Progress, Step};
use crate::wheel::TRAEFIK;

/// The image of pod sandboxes.
pub(crate) const PAUSE_IMAGE: &str = "serin.local/pause:1";

const K8S_VERSION: &str = "-X k8s.io/component-base/version.gitVersion=v1.34.4 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34";
const HELM_VERSION: &str = "-X helm.sh/helm/v3/internal/version.version=v3.19.4 \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34 \
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 \
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34";
const PROMETHEUS_VERSION: &str = "-X github.com/prometheus/common/version.Version=3.5.0";

/// Programs that share a Go module, a folder and linker flags.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    /// The name of the folder with its `go.mod` and `go.sum`.
    pub name: &'static str,
    /// The pinned version, for display.
    pub version: &'static str,
    /// Flags of the linker besides `-s -w`.
    pub linker: &'static str,
    /// Each program and its package.
    pub programs: &'static [(&'static str, &'static str)],
}

pub(crate) const GO_MODULES: [GoModule; 4] = [
    GoModule {
        name: "etcd",
        version: "etcd 3.6.8",
        linker: "",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    },
    GoModule {
        name: "kubernetes",
        version: "Kubernetes 1.34.4",
        linker: K8S_VERSION,
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    },
    GoModule {
        name: "prometheus",
        version: "Prometheus 3.5.0",
        linker: PROMETHEUS_VERSION,
        programs: &[(
            "prometheus",
            "github.com/prometheus/prometheus/cmd/prometheus",
        )],
    },
    GoModule {
        name: "helm",
        version: "Helm 3.19.4",
        linker: HELM_VERSION,
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    },
];

const GATEWAY_API: &str = "sigs.k8s.io/gateway-api";

/// The cache of all programs of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) sources: PathBuf,
    cache: PathBuf,
}

impl Tools {
    /// The tools that `checkout` pins, in the cache folder of this user.
    ///
    /// # Errors
    /// If none of the environment variables determines the cache folder.
    pub(crate) fn for_checkout(checkout: &Path) -> Result<Self> {
        Ok(Self {
            sources: checkout.join("e2e/cluster/tools"),
            cache: cache_folder()?,
        })
    }

    /// The tools that are pinned in the folders of `sources`, in the same cache.
    pub(crate) fn with_sources(sources: PathBuf) -> Result<Self> {
        Ok(Self {
            sources,
            cache: cache_folder()?,
        })
    }

    /// The cache folder.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Builds the missing programs and returns the folder of each set.
    ///
    /// # Errors
    /// If a compiler or a source is missing, with how to fix it.
    pub(crate) async fn prepare(&self, progress: Progress) -> Result<Programs> {
        std::fs::create_dir_all(&self.cache)
            .with_context(|| format!("cannot create {}", self.cache.display()))?;
        let programs = self.programs()?;
        if programs.complete() {
            return Ok(programs);
        }
        let _lock = self.lock(progress).await?;
        for module in &GO_MODULES {
            self.build_go(module, &programs.folder(module.name), progress)
                .await?;
        }
        self.copy_crds(&programs.folder("gateway-api"), progress)
            .await?;
        self.install_wheel(&TRAEFIK, &programs.folder("traefik"), progress)
            .await?;
        self.compile_pause(&programs.folder("pause"), progress)
            .await?;
        if programs.complete() {
            Ok(programs)
        } else {
            bail!("the programs in {} are incomplete", self.cache.display())
        }
    }

    /// The folders of all sets, which may not exist yet.
    pub(crate) fn programs(&self) -> Result<Programs> {
        let mut folders = Vec::new();
        for module in &GO_MODULES {
            folders.push(self.go_cache_entry(module)?);
        }
        folders.push(self.cache_entry("gateway-api", &["go.mod", "go.sum"], "")?);
        folders.push(self.wheel_cache_entry(&TRAEFIK)?);
        folders.push(self.cache_entry("pause", &["pause.rs"], "")?);
        Ok(Programs { folders })
    }

    /// The folder of the programs of a Go module.
    pub(crate) fn go_cache_entry(&self, module: &GoModule) -> Result<(&'static str, PathBuf)> {
        let more = format!("{}{:?}", module.linker, module.programs);
        self.cache_entry(module.name, &["go.mod", "go.sum"], &more)
    }

    /// The folder of a set: its name and a digest of its pinned versions.
    pub(crate) fn cache_entry(
        &self,
        name: &'static str,
        pins: &[&str],
        more: &str,
    ) -> Result<(&'static str, PathBuf)> {
        let mut contents = Vec::new();
        for pin in pins {
            let file = self.sources.join(name).join(pin);
            contents.push(
                std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
            );
        }
        contents.push(more.as_bytes().to_vec());
        contents.push(std::env::consts::ARCH.as_bytes().to_vec());
        Ok((
            name,
            self.cache
                .join(format!("{name}-{}", content_key(&contents))),
        ))
    }

    /// Locks the cache during a build, so that two checkouts do not build the same program
    /// concurrently.
    pub(crate) async fn lock(&self, progress: Progress) -> Result<File> {
        let file = File::create(self.cache.join("lock"))?;
        if file.try_lock().is_ok() {
            return Ok(file);
        }
        let step = progress.step("Waiting for another build of the cluster's programs");
        let file = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??;
        step.done();
        Ok(file)
    }

    async fn build_go(&self, module: &GoModule, folder: &Path, progress: Progress) -> Result<()> {
        for (program, _) in module.programs {
            self.build_go_program(module, program, folder, progress)
                .await?;
        }
        Ok(())
    }

    /// Builds one program of a Go module into `folder`, unless it exists there.
    pub(crate) async fn build_go_program(
        &self,
        module: &GoModule,
        program: &str,
        folder: &Path,
        progress: Progress,
    ) -> Result<()> {
        let package = module.programs.iter().find(|(name, _)| *name == program);
        let (_, package) = package.with_context(|| format!("{program} has no package"))?;
        let target = folder.join(program);
        if target.is_file() {
            return Ok(());
        }
        require_go()?;
        std::fs::create_dir_all(folder)?;
        let partial = folder.join(format!(".{program}.partial"));
        let mut step = progress.step(format!("Building {program} ({})", module.version));
        let mut build = self.go(module.name);
        build
            .args([
                "build",
                "-v",
                "-ldflags",
                &format!("-s -w {}", module.linker),
                "-o",
            ])
            .arg(&partial)
            .arg(package);
        run_with_detail(&mut build, &mut step).await?;
        std::fs::rename(&partial, &target)?;
        step.done();
        Ok(())
    }

    /// Copies the CustomResourceDefinitions of the Gateway API from its Go module.
    async fn copy_crds(&self, folder: &Path, progress: Progress) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        require_go()?;
        let step = progress.step("Fetching the CustomResourceDefinitions of the Gateway API");
        run(self
            .go("gateway-api")
            .args(["mod", "download", GATEWAY_API]))
        .await?;
        let mut list = self.go("gateway-api");
        let sources = run(list.args(["list", "-m", "-f", "{{.Dir}}", GATEWAY_API])).await?;
        let partial = fresh_folder(folder)?;
        for entry in std::fs::read_dir(Path::new(sources.trim()).join("config/crd/standard"))? {
            let file = entry?.path();
            if let (Some("yaml"), Some(name)) = (
                file.extension().and_then(|kind| kind.to_str()),
                file.file_name(),
            ) {
                std::fs::write(partial.join(name), std::fs::read(&file)?)?;
            }
        }
        std::fs::rename(&partial, folder)?;
        step.done();
        Ok(())
    }

    async fn compile_pause(&self, folder: &Path, progress: Progress) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let step = progress.step("Compiling pause");
        let partial = fresh_folder(folder)?;
        let mut rustc = command("rustc");
        rustc
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
            ])
            .args(["-C", "panic=abort", "-C", "strip=symbols", "-o"])
            .arg(partial.join("pause"))
            .arg(self.sources.join("pause/pause.rs"));
        run(&mut rustc).await?;
        std::fs::rename(&partial, folder)?;
        step.done();
        Ok(())
    }

    /// The Go command in a pinned module, independent of the module settings of the user.
    pub(crate) fn go(&self, module: &str) -> tokio::process::Command {
        let mut go = command("go");
        go.current_dir(self.sources.join(module))
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .env("GOFLAGS", "-mod=readonly -trimpath -buildvcs=false");
        go
    }
}

/// The folders of all sets of programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folders: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// The folder of a set of programs.
    pub(crate) fn folder(&self, set: &str) -> PathBuf {
        let found = self.folders.iter().find(|(name, _)| *name == set);
        found.map(|(_, folder)| folder.clone()).unwrap_or_default()
    }

    /// The file of a program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let go_program = GO_MODULES
            .iter()
            .find(|module| module.programs.iter().any(|(program, _)| *program == name));
        self.folder(go_program.map_or(name, |module| module.name))
            .join(name)
    }

    fn complete(&self) -> bool {
        let go_program = GO_MODULES.iter().flat_map(|module| module.programs);
        let mut programs = go_program
            .map(|(name, _)| *name)
            .chain(["traefik", "pause"]);
        programs.all(|name| self.program(name).is_file()) && self.folder("gateway-api").is_dir()
    }
}

/// `SERIN_CACHE_DIR`, else `serin` in the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let folder_from = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder_from("SERIN_CACHE_DIR")
        .or_else(|| folder_from("XDG_CACHE_HOME").map(|folder| folder.join("serin")))
        .or_else(|| folder_from("HOME").map(|folder| folder.join(".cache/serin")))
        .context("neither SERIN_CACHE_DIR nor XDG_CACHE_HOME nor HOME is set")
}

/// Twelve hex digits of a digest of the contents.
fn content_key(contents: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut digest = Sha256::new();
    for content in contents {
        let content = content.as_ref();
        digest.update(content.len().to_le_bytes());
        digest.update(content);
    }
    hex(&digest.finalize()[..6])
}

fn require_go() -> Result<()> {
    match crate::host::find_program("go") {
        Some(_) => Ok(()),
        None => bail!(
            "Go 1.26 or newer is missing: install it to build the programs of the cluster, see \
             https://go.dev/dl"
        ),
    }
}

/// Creates an empty folder next to `folder`, to be renamed to it.
pub(crate) fn fresh_folder(folder: &Path) -> Result<PathBuf> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    Ok(partial)
}

/// Runs a command and reports each line of its standard error as progress.
async fn run_with_detail(command: &mut tokio::process::Command, step: &mut Step) -> Result<()> {
    let mut child = command
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run the compiler")?;
    let mut output = String::new();
    if let Some(pipe) = child.stderr.take() {
        let mut lines = BufReader::new(pipe).lines();
        let mut count = 0;
        while let Some(line) = lines.next_line().await? {
            count += 1;
            step.detail(&format!("{count} packages, {line}"));
            output.push_str(&line);
            output.push('\n');
        }
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    bail!("the build failed ({status}):\n{}", last_lines(&output, 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
    }

    #[test]
    fn the_key_depends_on_contents_and_their_boundaries() {
        assert_eq!(content_key(["ab", "c"]), content_key(["ab", "c"]));
        assert_ne!(content_key(["ab", "c"]), content_key(["a", "bc"]));
        assert_eq!(content_key(["ab"]).len(), 12);
    }

    #[test]
    fn a_changed_pin_invalidates_only_its_own_set() {
        let copy = tempfile::tempdir().unwrap();
        for set in [
            "etcd",
            "kubernetes",
            "prometheus",
            "helm",
            "gateway-api",
            "traefik",
            "pause",
        ] {
            std::fs::create_dir(copy.path().join(set)).unwrap();
            for entry in std::fs::read_dir(sources().join(set)).unwrap() {
                let file = entry.unwrap().path();
                std::fs::copy(&file, copy.path().join(set).join(file.file_name().unwrap()))
                    .unwrap();
            }
        }
        let tools = |sources: PathBuf| {
            Tools {
                sources,
                cache: "/cache".into(),
            }
            .programs()
            .unwrap()
        };
        let before = tools(sources());
        let same = tools(copy.path().to_owned());
        assert_eq!(before.folders, same.folders);
        std::fs::write(copy.path().join("etcd/go.sum"), "changed").unwrap();
        let after = tools(copy.path().to_owned());
        assert_ne!(before.folder("etcd"), after.folder("etcd"));
        assert_eq!(before.folder("kubernetes"), after.folder("kubernetes"));
    }

    #[test]
    fn every_built_package_is_pinned() {
        for module in &GO_MODULES {
            let pins = std::fs::read_to_string(sources().join(module.name).join("go.mod")).unwrap();
            for (_, package) in module.programs {
                assert!(pins.contains(package), "{package}");
            }
            // Prometheus 3.5 has the module version 0.305. Other version numbers match their
            // modules.
            if module.name != "prometheus" {
                let number = module.version.rsplit(' ').next().unwrap();
                assert!(pins.contains(&format!(" v{number}\n")), "{number}");
                assert!(module.linker.is_empty() || module.linker.contains(&format!("v{number}")));
            }
        }
    }
}
