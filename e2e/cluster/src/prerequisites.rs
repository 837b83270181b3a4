//! Checks the prerequisites on this machine and installs missing packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::{command, find_program, run};
use crate::node::REPLACED_FOLDERS;
use crate::progress::Progress;

/// Folders in which distributions install the CNI plugins.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Required programs and their Debian packages.
const PROGRAMS: [(&str, &str); 10] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("python3", "python3"),
];

/// Ensures that all prerequisites of `up` are installed.
///
/// # Errors
/// If a package is missing and cannot be installed. The error lists all missing packages and the
/// command that installs them.
pub(crate) async fn ensure(progress: Progress) -> Result<()> {
    require_root("up")?;
    let missing = missing_packages().await;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find_program("apt-get").is_none() {
        bail!("missing on this machine (Debian package names): {list}");
    }
    let step = progress.step(format!("Installing {list}"));
    if install(&missing).await.is_err() {
        // The usual cause is a missing or outdated package list.
        run(command("apt-get").arg("update").args(["-qq"]))
            .await
            .context("apt-get update")?;
        install(&missing)
            .await
            .with_context(|| format!("run `apt-get install {list}` manually"))?;
    }
    step.done();
    let missing = missing_packages().await;
    if missing.is_empty() {
        return Ok(());
    }
    bail!("still missing after installation: {}", missing.join(" "))
}

/// Creating namespaces, links and control groups requires root.
///
/// # Errors
/// If the user is not root.
pub(crate) fn require_root(verb: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "a cluster with real pods needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask cluster \
         {verb}`"
    )
}

/// Checks that a folder is not hidden inside the node, which replaces some folders of the host.
///
/// # Errors
/// If `folder` is inside one of [`REPLACED_FOLDERS`].
pub(crate) fn require_outside_node(folder: &Path, what: &str) -> Result<()> {
    match REPLACED_FOLDERS
        .iter()
        .find(|replaced| folder.starts_with(replaced))
    {
        None => Ok(()),
        Some(replaced) => bail!(
            "{what} ({}) must not be inside {replaced}",
            folder.display()
        ),
    }
}

/// The folder with the CNI plugins.
///
/// # Errors
/// If none of the usual folders has them.
pub(crate) fn plugin_folder() -> Result<PathBuf> {
    let mut folders = PLUGIN_FOLDERS.iter().map(PathBuf::from);
    folders
        .find(|folder| folder.join("ptp").is_file() && folder.join("host-local").is_file())
        .with_context(|| format!("no CNI plugins in {}", PLUGIN_FOLDERS.join(", ")))
}

/// The containerd snapshotter that works in `folder`: an overlay cannot be mounted on an overlay.
pub(crate) async fn snapshotter(folder: &Path) -> Result<&'static str> {
    let kind = run(command("stat").args(["-f", "-c", "%T"]).arg(folder)).await?;
    Ok(if kind.trim().starts_with("overlay") {
        "native"
    } else {
        "overlayfs"
    })
}

async fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if plugin_folder().is_err() {
        missing.push("containernetworking-plugins");
    }
    let pip = run(command("python3").args(["-m", "pip", "--version"])).await;
    if pip.is_err() {
        missing.push("python3-pip");
    }
    missing.sort_unstable();
    missing.dedup();
    missing
}

async fn install(packages: &[&str]) -> Result<String> {
    let mut apt = command("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "-qq"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Keeps Debian from starting its containerd service on a machine with an init system.
        .env("RUNLEVEL", "1");
    run(&mut apt).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_hidden_by_the_node_is_refused() {
        assert!(require_outside_node(Path::new("/home/me/serin"), "the checkout").is_ok());
        assert!(require_outside_node(Path::new("/var/library/serin"), "the checkout").is_ok());
        let error =
            require_outside_node(Path::new("/var/lib/ci/serin"), "the checkout").unwrap_err();
        assert!(error.to_string().contains("/var/lib"), "{error}");
    }
}
