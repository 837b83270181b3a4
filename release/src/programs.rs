//! Builds the programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::dependency_list::{DependencyList, SYMBOL};

/// The programs of the plugin: kubectl resolves `kubectl promote` and `kubectl abort` to programs of
/// their own.
const PLUGIN: [&str; 3] = ["kubectl-serin", "kubectl-promote", "kubectl-abort"];

/// Architecture of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// The name in Go, Kubernetes and OCI.
    pub fn go_name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn rust_name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The C compiler for `ring`, which is also the linker. Debian has both as packages: `gcc` and
    /// `gcc-aarch64-linux-gnu`.
    fn compiler(self) -> String {
        if self.rust_name() == std::env::consts::ARCH {
            "cc".to_owned()
        } else {
            format!("{}-linux-gnu-gcc", self.rust_name())
        }
    }
}

/// How a program is linked. Both ways give static programs.
#[derive(Clone, Copy)]
enum Libc {
    /// For the controller: its allocator is several times faster with threads. It resolves no names
    /// with it.
    Gnu,
    /// For the plugin: resolves names on every Linux, whereas a static glibc needs shared libraries
    /// of the same version for it.
    Musl,
}

/// The programs for one architecture.
pub(crate) struct Programs {
    pub(crate) architecture: Architecture,
    pub(crate) controller: PathBuf,
    pub(crate) plugin: Vec<PathBuf>,
}

impl Programs {
    /// Builds the programs. The dependencies must have been downloaded.
    pub(crate) async fn build(checkout: &Path, architecture: Architecture) -> Result<Self> {
        let build = |package: &'static str, libc, programs: &'static [&'static str]| {
            compile(checkout, architecture, libc, package, programs)
        };
        let controller = build("serin-controller", Libc::Gnu, &["serin-controller"]).await?;
        let plugin = build("serin-kubectl", Libc::Musl, &PLUGIN).await?;
        Ok(Self {
            architecture,
            controller: controller
                .into_iter()
                .next()
                .context("there is no controller")?,
            plugin,
        })
    }
}

/// Builds the programs of a package, each with the list of its dependencies. Returns their paths.
async fn compile(
    checkout: &Path,
    architecture: Architecture,
    libc: Libc,
    package: &str,
    programs: &[&str],
) -> Result<Vec<PathBuf>> {
    let target = target(architecture, libc);
    ensure_standard_library(&target).await?;
    let compiler = architecture.compiler();
    let folder = checkout.join("target/release-files");
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let lists = folder.join("dependency-lists");
    let list = DependencyList::build(checkout, package, &target, &compiler, &lists).await?;
    let flags = flags(checkout, &cargo_home, libc, &compiler);
    let status = Command::new("cargo")
        .current_dir(checkout)
        .env("CARGO_TARGET_DIR", &folder)
        .env(
            "RUSTFLAGS",
            format!("{flags} {}", list_flags(&list.object, libc)),
        )
        // Cargo and the crate `cc` read the name of a target with underscores.
        .env(format!("CC_{}", target.replace('-', "_")), &compiler)
        // Without it, the time of the build is in the debug information of C code.
        .env("SOURCE_DATE_EPOCH", "0")
        .args(["build", "--release", "--locked", "--offline"])
        .args(["--target", &target, "--package", package])
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "{package} does not build for {target}: {status}. If {compiler} is missing, install it \
             (Debian: gcc, or gcc-aarch64-linux-gnu)"
        );
    }
    let folder = folder.join(target).join("release");
    let programs: Vec<PathBuf> = programs.iter().map(|name| folder.join(name)).collect();
    for program in &programs {
        list.ensure_in(program)?;
    }
    Ok(programs)
}

/// The flags that link the list of dependencies, in an object file.
fn list_flags(object: &Path, libc: Libc) -> String {
    let keep = match libc {
        Libc::Gnu => format!("-Wl,--undefined={SYMBOL}"),
        Libc::Musl => format!("--undefined={SYMBOL}"),
    };
    format!("-Clink-arg={} -Clink-arg={keep}", object.display())
}

fn target(architecture: Architecture, libc: Libc) -> String {
    let libc = match libc {
        Libc::Gnu => "gnu",
        Libc::Musl => "musl",
    };
    format!("{}-unknown-linux-{libc}", architecture.rust_name())
}

fn flags(checkout: &Path, cargo_home: &str, libc: Libc, compiler: &str) -> String {
    let linker = match libc {
        Libc::Gnu => format!("-Clinker={compiler}"),
        // The standard library for musl brings what has to be linked.
        Libc::Musl => "-Clinker=rust-lld -Clink-self-contained=yes".to_owned(),
    };
    format!(
        "-Ctarget-feature=+crt-static {linker} --remap-path-prefix={}=/serin \
         --remap-path-prefix={cargo_home}=/cargo",
        checkout.display()
    )
}

/// Installs the standard library of a target, unless it is installed.
async fn ensure_standard_library(target: &str) -> Result<()> {
    let output = Command::new("rustup")
        .args(["target", "add", target])
        .output()
        .await
        .with_context(|| format!("rustup is missing: install the standard library of {target}"))?;
    if !output.status.success() {
        bail!(
            "rustup target add {target}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_do_not_name_folders_of_the_machine() {
        let flags = flags(
            Path::new("/home/a/serin"),
            "/home/a/.cargo",
            Libc::Gnu,
            "cc",
        );
        assert_eq!(
            flags,
            "-Ctarget-feature=+crt-static -Clinker=cc \
             --remap-path-prefix=/home/a/serin=/serin --remap-path-prefix=/home/a/.cargo=/cargo"
        );
    }

    #[test]
    fn the_list_of_dependencies_is_linked_by_both_linkers() {
        let object = Path::new("/out/list.o");
        assert_eq!(
            list_flags(object, Libc::Gnu),
            "-Clink-arg=/out/list.o -Clink-arg=-Wl,--undefined=AUDITABLE_VERSION_INFO"
        );
        assert_eq!(
            list_flags(object, Libc::Musl),
            "-Clink-arg=/out/list.o -Clink-arg=--undefined=AUDITABLE_VERSION_INFO"
        );
    }

    #[test]
    fn each_architecture_has_its_names() {
        assert_eq!(
            target(Architecture::Arm64, Libc::Musl),
            "aarch64-unknown-linux-musl"
        );
        assert_eq!(Architecture::Amd64.go_name(), "amd64");
    }
}
